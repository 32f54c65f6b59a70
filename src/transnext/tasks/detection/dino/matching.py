"""Assignment of queries to objects: the cheapest of all."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from transnext.data.instances import Instances
from transnext.tasks.detection.dino.boxes import centres, corners, generalised_iou

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss and of the cost that goes with it."""
_CLASS_COST, _L1_COST, _GIOU_COST = 2.0, 5.0, 2.0
_LOG_EPSILON = 1e-12
_FORBIDDEN = 1e8


class Objects(NamedTuple):
    """Objects of a batch end to end, as DINO has boxes.

    Attributes:
        boxes: float32 `[N, 4]`: centre and sides, as parts of the image that they are in.
        labels: int64 `[N]`.
        counts: Objects of each image.
        scales: float32 `[B, 4]`: pixels that 1 means in the boxes of each image: width, height, width, height.
    """

    boxes: Tensor
    labels: Tensor
    counts: list[int]
    scales: Tensor

    @classmethod
    def of(cls, targets: Sequence[Instances], sizes: Tensor) -> "Objects":
        """The objects of images.

        Args:
            targets: In pixels.
            sizes: int64 `[B, 2]`: rows and columns of each image.
        """
        counts = [len(target) for target in targets]
        scales = sizes.flip(1).repeat(1, 2).float()
        images = torch.arange(len(counts), device=sizes.device).repeat_interleave(
            torch.tensor(counts, device=sizes.device)
        )
        boxes = torch.cat([target.boxes for target in targets]).float()
        return cls(centres(boxes / scales[images]), torch.cat([target.labels for target in targets]), counts, scales)


class Pairs(NamedTuple):
    """Queries and the objects that they answer for, in each of `L` outputs.

    Attributes:
        images: int64 `[M]`.
        queries: int64 `[L, M]`: places in the image's queries.
        objects: int64 `[L, M]`: places in `Objects`.
    """

    images: Tensor
    queries: Tensor
    objects: Tensor


def match(logits: Tensor, boxes: Tensor, objects: Objects) -> Pairs:
    """The cheapest pairs of queries and objects of each image, in each output by itself.

    A cost that is not finite counts as a very high one: the losses, of which it is a part, tell that something is
    wrong.

    Args:
        logits: float32 `[L, B, Q, C]`.
        boxes: float32 `[L, B, Q, 4]`, 0..1.
        objects: What is in the images. Where there are more objects than queries, the dearest are left out.
    """
    outputs, device = len(logits), logits.device
    images, queries, places = [], [], []
    first = 0
    for image, count in enumerate(objects.counts):
        own = slice(first, first + count)
        costs = _costs(
            logits[:, image].detach(),
            boxes[:, image].detach(),
            objects.boxes[own],
            objects.labels[own],
            objects.scales[image],
        )
        costs = costs.nan_to_num(_FORBIDDEN, _FORBIDDEN, _FORBIDDEN).cpu()
        pairs = np.array([linear_sum_assignment(cost) for cost in costs.numpy()], dtype=np.int64)  # [L, 2, pairs]
        images += [image] * pairs.shape[2]
        queries.append(pairs[:, 0])
        places.append(pairs[:, 1] + first)
        first += count
    none = np.zeros((outputs, 0), np.int64)
    return Pairs(
        torch.tensor(images, dtype=torch.int64, device=device),
        torch.from_numpy(np.concatenate([none, *queries], 1)).to(device),
        torch.from_numpy(np.concatenate([none, *places], 1)).to(device),
    )


def _costs(logits: Tensor, boxes: Tensor, true_boxes: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Cost of each pair in an image, float32 `[L, Q, objects]`."""
    p = logits[..., labels].sigmoid()
    found = -(p + _LOG_EPSILON).log() * ALPHA * (1 - p) ** GAMMA
    missed = -(1 - p + _LOG_EPSILON).log() * (1 - ALPHA) * p**GAMMA
    l1 = (boxes[..., None, :] - true_boxes).abs().sum(-1)
    giou = generalised_iou((corners(boxes) * scale)[..., None, :], corners(true_boxes) * scale)
    return _CLASS_COST * (found - missed) + _L1_COST * l1 - _GIOU_COST * giou
