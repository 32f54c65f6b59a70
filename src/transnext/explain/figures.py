"""Pictures of where the model looks."""

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

COLORMAP = "inferno"
"""Perceptually uniform, dark where there is nothing to see."""
OPACITY = 0.65
"""Of the colours over the image. It is the same everywhere, so that equal colours mean equal heat."""
SUPERSAMPLING = 4


def overlay(
    image: Image.Image, heat: np.ndarray, position: tuple[float, float] | None = None, colormap: str = COLORMAP
) -> Image.Image:
    """A heat map over an image, which is shown in grey so that the colours are the heat's alone.

    Args:
        image: Any mode; transparency is shown on white.
        heat: `[H, W]`, 0..1, of any size; it is resized to the image. Values outside are clipped, NaN counts as 0.
        position: Row and column of the query as fractions of the image, 0..1, marked by a ring; None for no mark.
        colormap: Name of a colormap of matplotlib.

    Returns:
        RGB, the size of `image`.

    Raises:
        ValueError: `heat` is not a map, or `colormap` is unknown.
    """
    heat = np.asarray(heat, dtype=np.float32)
    if heat.ndim != 2 or heat.size == 0:
        raise ValueError(f"heat has shape {heat.shape}: expected [H, W]")
    if colormap not in matplotlib.colormaps:
        raise ValueError(f"colormap is {colormap!r}: expected one of matplotlib's, such as 'inferno' or 'viridis'")
    heat = np.nan_to_num(heat, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    resized = np.asarray(Image.fromarray(heat).resize(image.size, Image.Resampling.BILINEAR))
    colours = (matplotlib.colormaps[colormap](resized)[..., :3] * 255).round().astype(np.uint8)
    grey = on_white(image).convert("L").convert("RGB")
    blended = Image.blend(grey, Image.fromarray(colours), OPACITY)
    return blended if position is None else _mark(blended, position)


def on_white(image: Image.Image) -> Image.Image:
    """The image in RGB, transparency shown on white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _mark(image: Image.Image, position: tuple[float, float]) -> Image.Image:
    """A white ring with a dark rim, seen on any colour."""
    radius = max(2.5, min(image.size) / 36)
    scale = SUPERSAMPLING
    centre = (position[1] * image.width * scale, position[0] * image.height * scale)
    ring = Image.new("RGBA", (image.width * scale, image.height * scale))
    draw = ImageDraw.Draw(ring)
    line = max(1.0, radius / 3) * scale
    # Three strokes of one ring: rim, white, rim.
    for extra, width, colour in ((line / 2, 2 * line, (0, 0, 0, 200)), (0.0, line, (255, 255, 255, 255))):
        reach = radius * scale + extra
        box = (centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach)
        draw.ellipse(box, outline=colour, width=round(width))
    ring = ring.resize(image.size, Image.Resampling.LANCZOS)
    return Image.alpha_composite(image.convert("RGBA"), ring).convert("RGB")
