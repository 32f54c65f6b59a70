"""Colours of classes and letters for their names, on pictures."""

import colorsys
import functools
from pathlib import Path

from PIL import ImageFont

Colour = tuple[int, int, int]

_COLOURS: tuple[Colour, ...] = (
    (230, 25, 75), (0, 130, 200), (60, 180, 75), (255, 165, 0), (145, 30, 180), (0, 190, 190), (240, 50, 230),
    (210, 245, 60), (128, 128, 0), (250, 150, 170), (0, 128, 128), (170, 110, 40), (255, 225, 25), (128, 0, 0),
    (150, 230, 175), (0, 0, 160), (220, 170, 255), (255, 110, 60), (110, 160, 60), (90, 90, 90),
)  # fmt: skip
"""Of the first classes."""
_GOLDEN = 0.618033988749895


def colour_of(place: int) -> Colour:
    """The colour of a class by its place, RGB, 0..255: always the same."""
    if 0 <= place < len(_COLOURS):
        return _COLOURS[place]
    # Hues that are far from those of the neighbours, however many there are.
    red, green, blue = colorsys.hsv_to_rgb(place * _GOLDEN % 1, 0.55 + 0.4 * (place % 2), 0.6 + 0.35 * (place // 2 % 2))
    return round(red * 255), round(green * 255), round(blue * 255)


@functools.lru_cache(64)
def font_for(characters: frozenset[str], size: int) -> ImageFont.FreeTypeFont:
    """A font that has these characters, of a size in pixels."""
    return ImageFont.truetype(_font_file(characters), size)


@functools.lru_cache(512)
def _font_file(characters: frozenset[str]) -> str:
    """A font that has these characters: one that comes with matplotlib, else one of the system, else the first."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    usual = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    codes = {ord(character) for character in characters}
    if codes <= FT2Font(usual).get_charmap().keys():
        return usual
    from matplotlib import font_manager  # looks for all fonts when it is imported for the first time

    for entry in font_manager.fontManager.ttflist:
        try:
            if codes <= FT2Font(entry.fname).get_charmap().keys():
                return str(entry.fname)
        except (OSError, RuntimeError):  # it has gone, or is damaged
            continue
    return usual
