"""Boxes as networks tell them: differences to a reference box, and how much two boxes overlap."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_SCALE = abs(math.log(16 / 1000))
"""A box is at most 62.5 times as large as its reference, or as small; keeps exponentials finite."""


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Area of intersection over area of union, 0 where neither box has an area.

    Args:
        boxes: `[N, 4]`: x0, y0, x1, y1.
        others: `[M, 4]`.

    Returns:
        `[N, M]`, 0..1.
    """
    first, second = (tuple(side.contiguous() for side in b.unbind(1)) for b in (boxes, others))
    # One axis after the other, in place: with a hundred objects and all anchors of an image these are large.
    intersection = _shared(first[0], first[2], second[0], second[2])
    intersection *= _shared(first[1], first[3], second[1], second[3])
    union = (area(boxes)[:, None] + area(others)[None]).sub_(intersection)
    return intersection.div_(union.clamp_(min=1e-6))


def _shared(starts: Tensor, ends: Tensor, other_starts: Tensor, other_ends: Tensor) -> Tensor:
    """Lengths that stretches `[N]` have in common with others `[M]`, `[N, M]`."""
    lows = torch.maximum(starts[:, None], other_starts[None])
    return torch.minimum(ends[:, None], other_ends[None]).sub_(lows).clamp_(min=0)


def area(boxes: Tensor) -> Tensor:
    """Areas `[N]` of boxes `[N, 4]`."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def encode(references: Tensor, boxes: Tensor, scales: Sequence[float]) -> Tensor:
    """Differences of boxes to references: of centres in sides of the reference, of sides as logarithms.

    Args:
        references: `[N, 4]`, with an area.
        boxes: `[N, 4]`, with an area.
        scales: Of the four differences, by which they are divided.

    Returns:
        `[N, 4]`.
    """
    sides, centres = _sides_and_centres(references)
    new_sides, new_centres = _sides_and_centres(boxes)
    deltas = torch.cat([(new_centres - centres) / sides, torch.log(new_sides / sides)], dim=1)
    return deltas / deltas.new_tensor(scales)


def decode(references: Tensor, deltas: Tensor, scales: Sequence[float]) -> Tensor:
    """Boxes from their differences to references; undoes `encode`.

    Args:
        references: `[N, 4]`.
        deltas: `[N, 4]`.
        scales: As in `encode`.

    Returns:
        `[N, 4]`: x0, y0, x1, y1.
    """
    deltas = deltas * deltas.new_tensor(scales)
    sides, centres = _sides_and_centres(references)
    new_centres = centres + sides * deltas[:, :2]
    new_sides = sides * deltas[:, 2:].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()
    return torch.cat([new_centres - new_sides / 2, new_centres + new_sides / 2], dim=1)


def _sides_and_centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
