"""Losses of all outputs of a Mask2Former: cross-entropy of classes, cross-entropy and Dice of masks at points."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import dice_loss, sample_point, sigmoid_cross_entropy_loss

from transnext.tasks.headed import mean_over_processes
from transnext.tasks.segmentation.mask2former.matching import (
    CLASS_WEIGHT,
    DICE_WEIGHT,
    MASK_WEIGHT,
    Pair,
    Target,
    match,
)

NO_OBJECT_WEIGHT = 0.1
"""Weight of queries without a mask in the cross-entropy of classes."""
_OVERSAMPLING = 3.0
"""Points that the least certain ones are taken from, as a multiple of those that are used."""
_UNCERTAIN = 0.75
"""Part of the points that are those where the mask is least certain; the others are anywhere."""


def draw_points(rows: int, count: int, device: torch.device) -> Tensor:
    """Random points, x and y in 0..1: float32 `[rows, count, 2]`; all that the losses draw is drawn here."""
    return torch.rand(rows, count, 2, device=device)


def losses_of_outputs(
    logits: Sequence[Tensor], masks: Sequence[Tensor], targets: Sequence[Target], num_points: int
) -> dict[str, Tensor]:
    """Losses of each output, weights applied, by the released names.

    Mask and Dice losses are divided by the sum over images of the masks that are matched, or 1 for an image without
    any. For each output points are drawn for the matching of one image after the other, then the many that the least
    certain are taken from, then the others.

    Args:
        logits: float32 `[B, Q, C + 1]` of each output.
        masks: float32 `[B, Q, h, w]` of each output.
        targets: Of each image.
        num_points: Points of a mask that are looked at.

    Returns:
        `loss_cls`, `loss_mask` and `loss_dice` of the last output, and with `d0.`, `d1.`, ... before them those of the
        first, second, ...
    """
    images, queries, _ = logits[0].shape
    matched = [min(len(target.labels), queries) for target in targets]
    divisors = torch.tensor(
        [
            sum(max(count, 1) for count in matched),
            sum(matched) + NO_OBJECT_WEIGHT * (images * queries - sum(matched)),
        ],
        device=logits[0].device,
    )
    of_masks, of_classes = mean_over_processes(divisors).unbind()
    losses: dict[str, Tensor] = {}
    for output, (of_output, drawn) in enumerate(zip(logits, masks, strict=True)):
        points = [draw_points(1, num_points, drawn.device) for _ in targets]
        pairs = match(of_output, drawn, targets, points)
        name = "" if output == len(logits) - 1 else f"d{output}."
        losses[f"{name}loss_cls"] = CLASS_WEIGHT * _class_loss(of_output, targets, pairs) / of_classes
        mask, dice = _mask_losses(drawn, targets, pairs, num_points, of_masks)
        losses[f"{name}loss_mask"] = MASK_WEIGHT * mask
        losses[f"{name}loss_dice"] = DICE_WEIGHT * dice
    return losses


def choose_points(masks: Tensor, count: int) -> Tensor:
    """Points to look at: most of them the least certain of many, the others anywhere.

    Args:
        masks: Logits, float32 `[M, 1, h, w]`.
        count: Points of each mask.

    Returns:
        float32 `[M, count, 2]`, x and y in 0..1.
    """
    uncertain = int(_UNCERTAIN * count)
    many = draw_points(len(masks), int(_OVERSAMPLING * count), masks.device)
    certainty = sample_point(masks, many, align_corners=False)[:, 0].abs()
    least = certainty.topk(uncertain, largest=False).indices
    chosen = many.gather(1, least[..., None].expand(-1, -1, 2))
    return torch.cat((chosen, draw_points(len(masks), count - uncertain, masks.device)), 1)


def _class_loss(logits: Tensor, targets: Sequence[Target], pairs: Sequence[Pair]) -> Tensor:
    """Cross-entropy of all queries, summed with the weights of the classes."""
    nothing = logits.shape[-1] - 1
    truth = torch.full(logits.shape[:2], nothing, dtype=torch.int64, device=logits.device)
    for row, target, (queries, places) in zip(truth, targets, pairs, strict=True):
        row[queries] = target.labels[places]
    weights = logits.new_ones(nothing + 1)
    weights[nothing] = NO_OBJECT_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1), truth.flatten(), weights, reduction="sum")


def _mask_losses(
    masks: Tensor, targets: Sequence[Target], pairs: Sequence[Pair], num_points: int, divisor: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and Dice of the matched masks at points."""
    # Without a matched mask, too, each process must have a gradient of everything; and a mask that is not finite must
    # not go unseen because it is not matched.
    zero = 0 * masks.sum()
    if not sum(len(queries) for queries, _ in pairs):
        return zero, zero
    found = torch.cat([of_image[queries] for of_image, (queries, _) in zip(masks, pairs, strict=True)])[:, None]
    with torch.no_grad():
        points = choose_points(found, num_points)
        # Image by image: masks of all in float32 are gigabytes where there are hundreds.
        labels = torch.cat(
            [
                sample_point(target.masks[places].float()[:, None], at, align_corners=False)[:, 0]
                for target, (_, places), at in zip(
                    targets, pairs, points.split([len(queries) for queries, _ in pairs]), strict=True
                )
                if len(places)
            ]
        )
    logits = sample_point(found, points, align_corners=False)[:, 0]
    cross_entropy: Tensor = sigmoid_cross_entropy_loss(logits, labels, divisor)
    dice: Tensor = dice_loss(logits, labels, divisor)
    return cross_entropy + zero, dice + zero
