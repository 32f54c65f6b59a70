"""Pictures of objects for a report: parts of images with boxes, and attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from transnext.data import Source, UnreadableImage
from transnext.data.joint import place
from transnext.explain import where_it_looks
from transnext.explain.figures import on_white, overlay
from transnext.models.attention import AggregatedAttention
from transnext.tasks.detection.mistakes import Mark
from transnext.tasks.detection.results import DetectionResult
from transnext.tasks.task import Look

SIDE = 320
"""Pixels that no picture exceeds."""
AROUND = 2.2
"""Side of what is shown, in longer sides of the object."""
LEAST_SIDE = 64
"""Pixels of the image that are shown at least along each axis, where it has as many."""
MAX_ENLARGEMENT = 4.0
FOUND, THERE, RIM = "#f97316", "#22b8f0", "#101010"


def _read(source: Source, result: DetectionResult, image: int) -> tuple[Image.Image, float, float] | None:
    """A picture with its scale along x and y to the annotation; None if it cannot be read any more."""
    judged = result.images[image]
    try:
        picture = on_white(source.load(judged.index))
    except (UnreadableImage, FileNotFoundError):
        return None
    height, width = judged.truth.size
    return picture, picture.width / width, picture.height / height


def part_with(mark: Mark, result: DetectionResult, source: Source) -> Image.Image | None:
    """The part of an image around an object, at most `SIDE` pixels wide and high.

    What is there is drawn in blue and what was found in orange, above the threshold only; the object itself is thick.

    Args:
        mark: The object.
        result: Where it comes from.
        source: The images.

    Returns:
        None if the image cannot be read any more.
    """
    opened = _read(source, result, mark.image)
    if opened is None:
        return None
    picture, *scales = opened
    box = _scaled(mark.box, scales)
    left, top, right, bottom = _part_around(box, picture.size)
    enlarged = min(SIDE / max(right - left, bottom - top), MAX_ENLARGEMENT)
    size = (max(1, round((right - left) * enlarged)), max(1, round((bottom - top) * enlarged)))
    shown = picture.resize(size, Image.Resampling.BICUBIC, (left, top, right, bottom), reducing_gap=3)
    shown_part = ((left, top), (size[0] / (right - left), size[1] / (bottom - top)))
    draw = ImageDraw.Draw(shown)
    judged = result.images[mark.image]
    kept = judged.found.scores.astype(np.float64) >= result.threshold
    for other in judged.truth.boxes[~judged.truth.crowd]:
        _rectangle(draw, _scaled(other.tolist(), scales), shown_part, THERE, 1)
    if mark.score is None:
        for other in judged.found.boxes[kept]:
            _rectangle(draw, _scaled(other.tolist(), scales), shown_part, FOUND, 1)
    _rectangle(draw, box, shown_part, THERE if mark.score is None else FOUND, 3)
    return shown


def has_attention(net: nn.Module) -> bool:
    """True if the attention of a network can be shown."""
    return any(isinstance(module, AggregatedAttention) for module in net.modules())


def attention_of(mark: Mark, result: DetectionResult, look: Look) -> tuple[Image.Image, Image.Image] | None:
    """An image with a found object, and where the backbone looks from the middle of its box.

    Args:
        mark: The object.
        result: Where it comes from.
        look: The network and the images.

    Returns:
        Both at most `SIDE` pixels wide and high; None if the image cannot be read any more.

    Raises:
        ValueError: The network has no aggregated attention, or its inputs do not show whole pictures.
    """
    opened = _read(look.splits[result.split], result, mark.image)
    if opened is None:
        return None
    picture, *scales = opened
    box = _scaled(mark.box, scales)
    position = (
        min(max((box[1] + box[3]) / 2 / picture.height, 0.0), 1.0),
        min(max((box[0] + box[2]) / 2 / picture.width, 0.0), 1.0),
    )
    inputs, _ = place(picture, look.preprocessing)
    device = next(look.net.parameters()).device
    heat = where_it_looks(look.net, look.preprocessing.normalise(device)(inputs[None].to(device)), position)[0]
    shown = picture.copy()
    shown.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    where = overlay(shown, heat.float().cpu().numpy(), position=position)
    shown_part = ((0.0, 0.0), (shown.width / picture.width, shown.height / picture.height))
    _rectangle(ImageDraw.Draw(shown), box, shown_part, FOUND, 2)
    return shown, where


def _scaled(box: Sequence[float], scales: Sequence[float]) -> tuple[float, float, float, float]:
    return box[0] * scales[0], box[1] * scales[1], box[2] * scales[0], box[3] * scales[1]


def _part_around(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A square around a box, moved into a picture of `(W, H)` and cut where it has no room."""
    side = max(AROUND * max(box[2] - box[0], box[3] - box[1]), LEAST_SIDE)
    ranges = []
    for low, high, whole in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        extent = min(side, whole)
        start = min(max((low + high - extent) / 2, 0.0), whole - extent)
        ranges.append((start, min(start + extent, whole)))
    return ranges[0][0], ranges[1][0], ranges[0][1], ranges[1][1]


def _rectangle(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    shown_part: tuple[tuple[float, float], tuple[float, float]],
    colour: str,
    width: int,
) -> None:
    """A box of a picture of which a part is shown; a thick one has a dark rim, seen on any colour."""
    corner, scales = shown_part
    x0, x1 = ((x - corner[0]) * scales[0] for x in (box[0], box[2]))
    y0, y1 = ((y - corner[1]) * scales[1] for y in (box[1], box[3]))
    x1, y1 = max(x1, x0), max(y1, y0)
    if width > 1:
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=RIM, width=width + 2)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=width)
