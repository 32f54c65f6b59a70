"""Pictures of maps: laid over the picture, with a legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from transnext.data.names import printable
from transnext.data.segmentation.maps import SEGMENT, class_counts
from transnext.tasks.class_colours import Colour, colour_of, font_for
from transnext.tasks.segmentation.net import IGNORED

OPACITY = 0.5
"""Of the colours over the picture."""
_DARK = (28, 28, 30)
_LIGHT = (240, 240, 240)
Map = npt.NDArray[np.uint8]


def class_colours(classes: int, given: Sequence[Colour] | None = None) -> Map:
    """A colour for each class, RGB, uint8 `[classes, 3]`: always the same, unless the data give them.

    Args:
        classes: How many.
        given: Of the data.
    """
    colours = [colour_of(place) for place in range(classes)] if given is None else list(given)
    return np.array(colours, np.uint8).reshape(-1, 3)


def overlaid(picture: Image.Image, labels: Map, colours: Map, opacity: float = OPACITY) -> Image.Image:
    """A picture with a map over it; pixels that are ignored stay as they are.

    Args:
        picture: In mode `RGB`.
        labels: `[H, W]`, of its size.
        colours: uint8 `[classes, 3]`.
        opacity: Of the colours, 0..1.

    Raises:
        ValueError: The map has another size, or a class without a colour.
    """
    if labels.shape != (picture.height, picture.width):
        raise ValueError(
            f"a map of {labels.shape[1]}x{labels.shape[0]} pixels on a picture of {picture.width}x{picture.height}"
        )
    known = labels != IGNORED
    most = int(labels[known].max()) if known.any() else -1
    if most >= len(colours):
        raise ValueError(f"the map has class {most}, and there are {len(colours)} colours")
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    blended = Image.blend(picture, Image.fromarray(table[labels]), opacity)
    blended.paste(picture, mask=Image.fromarray(~known))
    return blended


def objects_as_classes(
    segments: npt.NDArray[np.int32], classes: Sequence[str], colours: Map
) -> tuple[Map, list[str], Map]:
    """A map of segments as one of classes, in which each object has a name and a colour of its own.

    Args:
        segments: int32 `[H, W]`, see `transnext.data.segmentation.maps.SEGMENT`, without groups.
        classes: Names of the classes.
        colours: uint8 `[classes, 3]`: of those that have no objects.

    Returns:
        A map uint8 `[H, W]`, the names of what is in it, and colours of these, uint8 `[N, 3]`.
    """
    codes, first, place = np.unique(segments, return_index=True, return_inverse=True)
    # In the order in which they are met, which true and predicted objects have in common; more have no colour.
    order = [i for i in np.argsort(first).tolist() if codes[i] != IGNORED][:IGNORED]
    labels = np.full(len(codes), IGNORED, np.uint8)
    labels[order] = np.arange(len(order))
    names, table = [], []
    count, objects = Counter[int](), 0
    for code in codes[order].tolist():
        number, label = divmod(code, SEGMENT)
        count[label] += 1
        names.append(f"{classes[label]} {count[label]}" if number else classes[label])
        objects += number > 0
        table.append(colour_of(len(classes) + objects) if number else tuple(colours[label].tolist()))
    return labels[place.reshape(segments.shape)], names, np.array(table, np.uint8).reshape(-1, 3)


def draw_map(
    picture: Image.Image,
    labels: Map,
    classes: Sequence[str],
    colours: Map | None = None,
    *,
    opacity: float = OPACITY,
    legend: bool = True,
    least_side: int = 480,
    nothing: str = "ignored",
) -> Image.Image:
    """A picture with a map over it and, on its right, a legend of the classes in it, the largest first.

    Args:
        picture: RGB.
        labels: `[H, W]`, of its size.
        classes: Names of all classes.
        colours: uint8 `[classes, 3]`; by default `class_colours`.
        opacity: Of the colours, 0..1.
        legend: Add the legend, with the share of the picture that each class has.
        least_side: A picture whose longer side is smaller, pixels, is enlarged by a whole number.
        nothing: What the legend calls pixels of `IGNORED`.

    Raises:
        ValueError: See `overlaid`.
    """
    colours = class_colours(len(classes)) if colours is None else colours
    image = overlaid(picture.convert("RGB"), labels, colours, opacity)
    times = max(1, -(-least_side // max(image.size)))
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
    if not legend:
        return image
    counts = class_counts(labels)
    present = [place for place in np.argsort(-counts, kind="stable").tolist() if counts[place] and place != IGNORED]
    rows = [(printable(classes[place]), counts[place] / labels.size, colours[place].tolist()) for place in present]
    if counts[IGNORED]:
        rows.append((nothing, counts[IGNORED] / labels.size, None))
    return _beside(image, rows)


def _beside(image: Image.Image, rows: Sequence[tuple[str, float, list[int] | None]]) -> Image.Image:
    """A picture and the rows of a legend, as many as there is room for."""
    size = max(10, min(28, round((image.width * image.height) ** 0.5 / 36)))
    pad = size // 2
    step = size + pad
    shown = list(rows[: max(1, (image.height - pad) // step)])
    if len(shown) < len(rows):
        hidden = rows[len(shown) - 1 :]
        shown[-1] = (f"{len(hidden)} more", float(sum(share for _, share, _ in hidden)), None)
    texts = [f"{name}  {share:.1%}" for name, share, _ in shown]
    font = font_for(frozenset("".join(texts)), size)
    width = round(max((font.getlength(text) for text in texts), default=0))
    canvas = Image.new("RGB", (image.width + 3 * pad + size + width, max(image.height, 2 * pad + step)), _DARK)
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    left = image.width + pad
    for row, (text, (_, _, colour)) in enumerate(zip(texts, shown, strict=True)):
        top = pad + row * step
        box = (left, top, left + size - 1, top + size - 1)
        draw.rectangle(box, fill=None if colour is None else (colour[0], colour[1], colour[2]), outline=_LIGHT)
        draw.text((left + size + pad, top + size / 2), text, fill=_LIGHT, font=font, anchor="lm")
    return canvas
