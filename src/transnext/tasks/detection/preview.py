"""A page of training pictures as the network sees them, with their objects: to look at before training."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from transnext.data.instances import Instances
from transnext.data.preprocessing import picture
from transnext.data.sample import Batch
from transnext.tasks.preview import Figure, images_of, write_page


def preview_page(batches: Iterable[Batch], classes: Sequence[str], path: str | Path) -> int:
    """Writes one page, complete in itself, of augmented training pictures with their objects.

    Args:
        batches: Training batches, whose targets are `InstanceBatch`es; as many are drawn as the page has room for.
        classes: Names, by label.
        path: The HTML file.

    Returns:
        How many pictures are on it.

    Raises:
        ValueError: No picture could be read.
        OSError: The page cannot be written.
    """
    skipped: list[tuple[str, str]] = []
    figures = (
        Figure(drawn(image, objects, classes), _caption(objects, classes))
        for image, objects in images_of(batches, lambda targets: targets.split(), skipped)
    )
    return write_page(figures, skipped, "with the objects it is to find", path)


def drawn(image: Tensor, objects: Instances, classes: Sequence[str]) -> Image.Image:
    """An image with the boxes and outlines of objects, and the names of those where there is room for them.

    Args:
        image: uint8 `[3, H, W]`.
        objects: In it, with masks of its size or larger if at all.
        classes: Names, by label.
    """
    canvas = picture(image)
    if objects.masks is not None:
        pixels = np.array(canvas)
        for mask, label in zip(objects.masks.numpy(), objects.labels.tolist(), strict=True):
            pixels[outline(mask[: canvas.height, : canvas.width])] = colour(label)
        canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    named: list[tuple[float, float, float, float]] = []
    for box, label in zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True):
        x0, y0, x1, y1 = box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)
        draw.rectangle((x0, y0, x1, y1), outline=colour(label))
        left, top, right, bottom = draw.textbbox((0, 0), classes[label])
        width, height = right - left + 4, bottom - top + 4
        x, y = max(0, min(x0, canvas.width - width)), max(0, y0 - height)
        plate = (x, y, x + width, y + height)
        if len(classes) == 1 or any(_overlap(plate, other) for other in named):
            continue
        named.append(plate)
        draw.rectangle(plate, fill=colour(label))
        draw.text((x + 2 - left, y + 2 - top), classes[label], fill=(0, 0, 0))
    return canvas


def colour(label: int) -> tuple[int, int, int]:
    """A bright colour for a class; neighbours in the list are far apart on the wheel."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1.0, 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def outline(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """The pixels of a mask `[H, W]` with a neighbour outside of it."""
    inner = np.pad(mask.astype(bool), 1)
    surrounded = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    return np.asarray(inner[1:-1, 1:-1] & ~surrounded)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _caption(objects: Instances, classes: Sequence[str]) -> str:
    labels, counts = np.unique(objects.labels.numpy(), return_counts=True)
    named = (f"{n} {classes[label]}" for label, n in zip(labels, counts, strict=True))
    return ", ".join(named) or "no objects"
