"""Assignment of queries to the masks of an image: the cheapest of all."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import (
    pair_wise_dice_loss,
    pair_wise_sigmoid_cross_entropy_loss,
    sample_point,
)

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
"""Of the costs and of the losses that go with them."""
_FORBIDDEN = 1e8

Pair = tuple[Tensor, Tensor]
"""Places of queries in ascending order, and of the masks that they answer for: int64 `[n]` each."""


class Target(NamedTuple):
    """What the queries of an image are to say.

    Attributes:
        labels: int64 `[N]`.
        masks: bool or uint8 `[N, H, W]`, 0 or 1, on the canvas.
    """

    labels: Tensor
    masks: Tensor


@torch.no_grad()
def match(logits: Tensor, masks: Tensor, targets: Sequence[Target], points: Sequence[Tensor]) -> list[Pair]:
    """The cheapest pairs of queries and masks of each image.

    A cost that is not finite counts as a very high one: the losses tell that something is wrong.

    Args:
        logits: float32 `[B, Q, C + 1]`.
        masks: Logits, float32 `[B, Q, h, w]`.
        targets: Of each image. Where there are more masks than queries, the dearest are left out.
        points: float32 `[1, P, 2]` of each image: where masks are compared, x and y in 0..1.
    """
    # All of them first: on a GPU, which works in the meantime, only the first is waited for.
    costs = [_costs(*of_image) for of_image in zip(logits, masks, targets, points, strict=True)]
    pairs = []
    for cost in costs:
        queries, places = linear_sum_assignment(cost.nan_to_num(_FORBIDDEN, _FORBIDDEN, _FORBIDDEN).cpu().numpy())
        pairs.append((torch.from_numpy(queries).to(logits.device), torch.from_numpy(places).to(logits.device)))
    return pairs


def _costs(logits: Tensor, masks: Tensor, target: Target, points: Tensor) -> Tensor:
    """Cost of each pair in an image, float32 `[Q, N]`."""
    if not len(target.labels):
        return logits.new_zeros(len(logits), 0)
    found = sample_point(masks[None], points, align_corners=False)[0]
    true = sample_point(target.masks[None].float(), points, align_corners=False)[0]
    costs: Tensor = (
        MASK_WEIGHT * pair_wise_sigmoid_cross_entropy_loss(found, true)
        - CLASS_WEIGHT * logits.softmax(-1)[:, target.labels]
        + DICE_WEIGHT * pair_wise_dice_loss(found, true)
    )
    return costs
