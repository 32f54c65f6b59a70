"""Random views of pictures, and random colours, as tasks with places in pictures share them."""

from __future__ import annotations

import random

from PIL import Image
from torchvision.transforms import v2

from transnext.data.joint import View

Region = tuple[float, float, float, float]
"""x0, y0, x1, y1 of a part of a picture, in its pixels."""


def size_of(region: Region) -> tuple[float, float]:
    """Height and width of a part of a picture."""
    return region[3] - region[1], region[2] - region[0]


def inside(part: Region, region: Region) -> Region:
    """The part without what rounding put outside."""
    return max(part[0], region[0]), max(part[1], region[1]), min(part[2], region[2]), min(part[3], region[3])


def random_part(region: Region, scaled: tuple[int, int], limit: tuple[int, int]) -> View:
    """A part of a picture at a scale; where it exceeds the input, some part of it that does not.

    Args:
        region: The part.
        scaled: `(H, W)` that it is brought to, pixels.
        limit: `(H, W)` of the input at most.
    """
    height, width = scaled
    shown = min(height, limit[0]), min(width, limit[1])
    top, left = random.randint(0, height - shown[0]), random.randint(0, width - shown[1])
    size = size_of(region)
    x, y = size[1] / width, size[0] / height
    x0, y0 = region[0] + left * x, region[1] + top * y
    return View(
        source=inside((x0, y0, x0 + shown[1] * x, y0 + shown[0] * y), region),
        target=(0, 0, shown[1], shown[0]),
        size=shown,
    )


def recoloured(image: Image.Image, colour: float, distort: bool) -> Image.Image:
    """The image with random colours.

    Args:
        image: In mode `RGB`.
        colour: Strength of random brightness, contrast and saturation, 0..1.
        distort: Photometric distortion (Liu et al. 2016), in place of `colour`.
    """
    if distort:
        transform = v2.RandomPhotometricDistort()
    elif colour:
        transform = v2.ColorJitter(colour, colour, colour)
    else:
        return image
    changed: Image.Image = transform(image)
    return changed
