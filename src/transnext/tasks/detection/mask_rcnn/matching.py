"""Match of boxes to objects in training, and choice of the boxes that a loss is made of."""

import torch
from torch import Tensor

from transnext.tasks.detection.mask_rcnn.boxes import iou

NEGATIVE = -1
"""Stands for no object."""
IGNORED = -2
"""Neither stands for an object nor for none."""


def match(objects: Tensor, boxes: Tensor, *, positive: float, negative: float, rescue: float) -> Tensor:
    """The object that each box stands for.

    A box stands for the object that it overlaps most if the IoU is at least `positive`. An object whose best IoU is at
    least `rescue` also gets the boxes that reach it, all of them, from whichever object they would stand for; of
    several such objects the last.

    Args:
        objects: float32 `[N, 4]`; may be none.
        boxes: float32 `[M, 4]`; may be none.
        positive: See above.
        negative: A box with less overlap than this stands for no object.
        rescue: See above.

    Returns:
        int64 `[M]`: number of an object, `NEGATIVE` or `IGNORED`.
    """
    if len(objects) == 0 or len(boxes) == 0:
        return torch.full((len(boxes),), NEGATIVE, dtype=torch.int64, device=boxes.device)
    overlaps = iou(objects, boxes)
    best, matched = overlaps.max(dim=0)
    matched = torch.where(best >= positive, matched, torch.where(best < negative, NEGATIVE, IGNORED))
    reached = overlaps.amax(dim=1, keepdim=True)
    numbers, places = (overlaps >= reached.clamp(min=rescue)).nonzero(as_tuple=True)
    last = torch.full_like(matched, -1).scatter_reduce(0, places, numbers, "amax")
    return torch.where(last >= 0, last, matched)


def sample(matched: Tensor, number: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """Draws boxes for a loss from torch's generator of the CPU, so that the device does not matter.

    Args:
        matched: int64 `[M]`: as `match` gives it.
        number: At most so many boxes.
        positive_share: At most this share of them stands for objects; the others stand for none.

    Returns:
        Places in `matched` of boxes that stand for objects, and of those that do not, int64, both ascending.
    """
    positives = _draw((matched >= 0).nonzero().flatten(), int(number * positive_share))
    negatives = _draw((matched == NEGATIVE).nonzero().flatten(), number - len(positives))
    return positives, negatives


def _draw(places: Tensor, number: int) -> Tensor:
    if len(places) <= number:
        return places
    drawn = torch.randperm(len(places))[:number].sort().values
    return places[drawn.to(places.device)]
