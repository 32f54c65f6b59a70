"""Losses of all outputs of DINO: focal for the class, L1 and generalised IoU for the box."""

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from transnext.tasks.detection.dino.boxes import corners, generalised_iou
from transnext.tasks.detection.dino.matching import ALPHA, GAMMA, Objects, Pairs

_L1_WEIGHT, _GIOU_WEIGHT = 5.0, 2.0


def losses_of_outputs(
    logits: Tensor, boxes: Tensor, pairs: Pairs, objects: Objects, divisor: Tensor
) -> dict[str, Tensor]:
    """Losses of each output, `[L]`, weights applied, by the released names.

    Every query that has no object is to say of every class that it is not there.

    Args:
        logits: float32 `[L, B, Q, C]`.
        boxes: float32 `[L, B, Q, 4]`: centre and sides, 0..1.
        pairs: Queries and their objects.
        objects: What is in the images.
        divisor: What the sums are divided by, 0-d.
    """
    output = torch.arange(len(logits), device=logits.device)[:, None]
    truth = torch.zeros_like(logits)
    truth[output, pairs.images, pairs.queries, objects.labels[pairs.objects]] = 1
    focal = sigmoid_focal_loss(logits, truth, ALPHA, GAMMA).flatten(1).sum(1)

    found, true = boxes[output, pairs.images, pairs.queries], objects.boxes[pairs.objects]
    scale = objects.scales[pairs.images]
    l1 = (found - true).abs().flatten(1).sum(1)
    # A box that is not finite must not go unseen because matching passes it over.
    l1 = l1 + 0 * boxes.flatten(1).sum(1)
    giou = (1 - generalised_iou(corners(found) * scale, corners(true) * scale)).sum(1)
    return {
        "loss_cls": focal / divisor,
        "loss_bbox": _L1_WEIGHT * l1 / divisor,
        "loss_iou": _GIOU_WEIGHT * giou / divisor,
    }
