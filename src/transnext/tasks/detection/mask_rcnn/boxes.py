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
    corner = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = (torch.minimum(boxes[:, None, 2:], others[None, :, 2:]) - corner).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(boxes)[:, None] + area(others)[None] - intersection
    return intersection / union.clamp(min=1e-6)


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
        deltas: `[N, ..., 4]`.
        scales: As in `encode`.

    Returns:
        `[N, ..., 4]`: x0, y0, x1, y1.
    """
    deltas = deltas * deltas.new_tensor(scales)
    sides, centres = _sides_and_centres(references.view(len(references), *[1] * (deltas.ndim - 2), 4))
    new_centres = centres + sides * deltas[..., :2]
    new_sides = sides * deltas[..., 2:].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()
    return torch.cat([new_centres - new_sides / 2, new_centres + new_sides / 2], dim=-1)


def _sides_and_centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return boxes[..., 2:] - boxes[..., :2], (boxes[..., :2] + boxes[..., 2:]) / 2
