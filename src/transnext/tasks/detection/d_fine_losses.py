"""Losses of D-FINE: the terms are transformers', which layers they are taken of and what they are divided by is not.

Objects are matched image by image, and overlaps are taken of the pairs alone. Transformers weighs all queries with the
objects of all images of a batch, and takes the diagonal of the overlaps of all pairs: of eight images with six objects
that is a fifth of a training step, and it grows with the square of the objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss
from transformers.loss.loss_d_fine import DFineLoss, bbox2distance

from transnext.tasks.headed import mean_over_processes

TERMS = {"class": "loss_vfl", "box": "loss_bbox", "giou": "loss_giou", "fgl": "loss_fgl", "ddf": "loss_ddf"}
"""Terms, and their names in transformers: varifocal class loss, L1 and generalised IoU of boxes, fine-grained
localisation (cross-entropy of the distributions of edges), and their distillation from the last layer."""
TEMPERATURE = 5.0

Match = list[tuple[Tensor, Tensor]]
"""For each image the places of queries and of the objects that they stand for."""
Level = dict[str, Tensor]
"""Outputs of the queries at one place of the network, by transformers' names."""


def d_fine_losses(config: Any, outputs: Any, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Losses of a batch, each a sum over layers, weights applied, 0-d.

    They are taken of the queries that the encoder selects, of the boxes before the first refinement, and of every
    layer. Transformers' own sum pairs the boxes of each layer with the distributions of the next one, and leaves out
    one layer's boxes and the last one's distributions.

    Divisors are means over processes, at least one object for all of them, so that gradients of several processes
    average to those of one.

    Args:
        config: transformers' `DFineConfig`.
        outputs: transformers' `DFineModelOutput`, float32.
        targets: For each image "class_labels", int64 `[N]`, and "boxes", float32 `[N, 4]`: centre, width and height as
            parts of the canvas.

    Returns:
        The terms of `TERMS` and, if there is denoising at all, those of its queries as "dn_...": always the same names.
    """
    whole = (outputs.intermediate_logits, outputs.intermediate_reference_points)
    # Every parameter has a gradient, also if this ends early: other processes wait for each of them.
    everything = sum(part.sum() for part in (*whole, outputs.enc_topk_logits, outputs.enc_topk_bboxes))
    zero = torch.zeros_like(everything)
    losses = dict.fromkeys([*TERMS, *(f"dn_{term}" for term in TERMS if config.num_denoising > 0)], zero)
    denoising = outputs.denoising_meta_values
    noisy, queries = denoising["dn_num_split"] if denoising else (0, outputs.intermediate_logits.shape[2])

    counts = [len(target["boxes"]) for target in targets]
    groups = denoising["dn_num_group"] if denoising else 0
    pairs = {"": sum(min(count, queries) for count in counts), "dn_": groups * sum(counts)}
    each = torch.tensor(
        [sum(counts), pairs[""], queries * len(targets), pairs["dn_"], noisy * len(targets)],
        dtype=torch.float32,
        device=zero.device,
    )
    # In one step and before anything that depends on the batch: other processes wait for it.
    objects, matched, asked, noisy_matched, noisy_asked = mean_over_processes(each, [1, 0, 0, 0, 0]).unbind()
    if not torch.isfinite(everything):  # the matching would fail; what trains is to see that the loss is not finite
        return {**losses, "class": everything}

    criterion = DFineLoss(config).to(zero.device)

    def add(kind: str, level: Level, match: Match, divisor: Tensor, positive: Tensor, negative: Tensor) -> None:
        pairs = _pairs(level, targets, match)
        terms = {
            "class": _varifocal(criterion, level["logits"], pairs) / divisor,
            "box": F.l1_loss(pairs.found, pairs.boxes, reduction="sum") / divisor,
            "giou": generalized_box_iou_loss(_corners(pairs.found), _corners(pairs.boxes), "sum", eps=0) / divisor,
        }
        if "pred_corners" in level:
            terms["fgl"] = _localisation(criterion, level, pairs) / divisor
        if "teacher_corners" in level:
            terms["ddf"] = _distillation(level, pairs, positive, negative)
        for term, value in terms.items():
            losses[kind + term] = losses[kind + term] + criterion.weight_dict[TERMS[term]] * value

    selected = {"logits": outputs.enc_topk_logits, "pred_boxes": outputs.enc_topk_bboxes}
    for level in [selected, *_levels(outputs, slice(noisy, None))]:
        match = [_matched(criterion, level, i, target) for i, target in enumerate(targets)]
        add("", level, match, objects, matched, asked - matched)
    if denoising:
        match = criterion.get_cdn_matched_indices(denoising, targets)
        for level in _levels(outputs, slice(0, noisy)):
            add("dn_", level, match, objects * groups, noisy_matched, noisy_asked - noisy_matched)
    return losses


def _levels(outputs: Any, queries: slice) -> list[Level]:
    """Outputs of some queries before the first refinement, if that was kept, and at each layer."""
    stacked = (
        outputs.intermediate_logits,
        outputs.intermediate_reference_points.clamp(0, 1),
        outputs.intermediate_predicted_corners,
        outputs.initial_reference_points,
    )
    logits, boxes, corners, starts = (tensor[:, :, queries].unbind(1) for tensor in stacked)
    levels = [{"logits": one, "pred_boxes": box} for one, box in zip(logits, boxes, strict=True)]
    layers = levels[len(logits) - len(corners) :]
    for layer, corner, start in zip(layers, corners, starts, strict=True):
        layer |= {"pred_corners": corner, "ref_points": start}
    for layer in layers[:-1]:
        layer |= {"teacher_corners": corners[-1], "teacher_logits": logits[-1]}
    return levels


@dataclass(frozen=True)
class _Pairs:
    """Queries of a level and the objects that they stand for.

    `places` are image and query, int64 `[N]` each; `found` and `boxes` are what was found and what is there, float32
    `[N, 4]`, centre, width and height; `labels` are int64 `[N]`; `overlaps`, float32 `[N]`, have no gradient.
    """

    places: tuple[Tensor, Tensor]
    found: Tensor
    boxes: Tensor
    labels: Tensor
    overlaps: Tensor


def _pairs(level: Level, targets: Sequence[dict[str, Tensor]], match: Match) -> _Pairs:
    device = level["pred_boxes"].device  # matches are found on the CPU
    match = [(query.to(device), place.to(device)) for query, place in match]
    images = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(match)])
    places = images, torch.cat([query for query, _ in match])
    boxes, labels = (
        torch.cat([target[name][place] for target, (_, place) in zip(targets, match, strict=True)])
        for name in ("boxes", "class_labels")
    )
    found = level["pred_boxes"][places]
    return _Pairs(places, found, boxes, labels, _iou(found.detach(), boxes))


def _varifocal(criterion: DFineLoss, logits: Tensor, pairs: _Pairs) -> Tensor:
    """Varifocal loss: classes of matched queries are to be as sure as their boxes lie well (Zhang et al., 2021)."""
    images, queries = pairs.places
    overlap = torch.zeros_like(logits)
    overlap[images, queries, pairs.labels] = pairs.overlaps
    weight = criterion.alpha * logits.detach().sigmoid().pow(criterion.gamma)
    weight[images, queries, pairs.labels] = pairs.overlaps
    return F.binary_cross_entropy_with_logits(logits, overlap, weight=weight, reduction="sum")


def _localisation(criterion: DFineLoss, level: Level, pairs: _Pairs) -> Tensor:
    """Fine-grained localisation loss: cross-entropy of the distributions of edges, weighted by overlap."""
    bins = criterion.max_num_bins
    with torch.no_grad():
        starts = level["ref_points"][pairs.places]
        edges = bbox2distance(starts, _corners(pairs.boxes), bins, criterion.reg_scale, criterion.up)
    distributions = level["pred_corners"][pairs.places].reshape(-1, bins + 1)
    loss: Tensor = criterion.unimodal_distribution_focal_loss(
        distributions, *edges, weight=pairs.overlaps.repeat_interleave(4)
    )
    return loss


def _distillation(level: Level, pairs: _Pairs, positive: Tensor, negative: Tensor) -> Tensor:
    """Decoupled distillation focal loss: the distributions of edges drawn to those of the last layer.

    It is the weighted mean over matched queries and the one over others, both weighted by the roots of their numbers,
    which are given, as other processes have more of them.
    """
    with torch.no_grad():
        weights = level["teacher_logits"].sigmoid().amax(-1)
        weights[pairs.places] = pairs.overlaps
        is_matched = torch.zeros_like(weights, dtype=torch.bool)
        is_matched[pairs.places] = True
        edges = (*weights.shape, 4, -1)
        teacher = F.softmax(level["teacher_corners"].view(edges) / TEMPERATURE, dim=-1)
    student = F.log_softmax(level["pred_corners"].view(edges) / TEMPERATURE, dim=-1)
    distance = F.kl_div(student, teacher, reduction="none").sum((-2, -1)) * TEMPERATURE**2 * weights
    # Numbers of edges are four times those of queries: sums are divided by four, and the factor of the roots cancels.
    sums = (distance * is_matched).sum() / 4, (distance * ~is_matched).sum() / 4
    means = [total / number.clamp(min=1e-9).sqrt() for total, number in zip(sums, (positive, negative), strict=True)]
    mixed: Tensor = (means[0] + means[1]) / (positive.sqrt() + negative.sqrt())
    return mixed


def _iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of pairs of boxes `[N, 4]`, centre, width and height."""
    low = torch.maximum(first[:, :2] - first[:, 2:] / 2, second[:, :2] - second[:, 2:] / 2)
    high = torch.minimum(first[:, :2] + first[:, 2:] / 2, second[:, :2] + second[:, 2:] / 2)
    common = (high - low).clamp(min=0).prod(-1)
    return common / (first[:, 2:].prod(-1) + second[:, 2:].prod(-1) - common)


def _corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")


def _matched(criterion: DFineLoss, level: Level, image: int, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Queries of an image and the objects that they are to find, at the least cost for all; on the CPU.

    Image by image: transformers would weigh queries with the objects of all images of the batch.
    """
    if not len(target["boxes"]):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    own = {name: level[name][image : image + 1] for name in ("logits", "pred_boxes")}
    [match] = criterion.matcher(own, [target])
    return match
