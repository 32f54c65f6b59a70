"""The region proposal network: where something might be, whatever it is."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image

from transnext.data.instances import Instances
from transnext.tasks.detection.mask_rcnn.anchors import RATIOS, anchor_boxes, on_own_canvas
from transnext.tasks.detection.mask_rcnn.boxes import decode, encode
from transnext.tasks.detection.mask_rcnn.matching import NEGATIVE, match, sample
from transnext.tasks.headed import mean_over_processes

POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3
POSITIVE_SHARE = 0.5
NMS_IOU = 0.7
CANVAS_MULTIPLE = 32
"""Sides of canvases are multiples of this, pixels."""
_SCALES = (1.0, 1.0, 1.0, 1.0)


class Objectness(NamedTuple):
    """Outputs of the network for the anchors of a batch, level by level.

    Attributes:
        map_sizes: Rows and columns of each map.
        anchors: float32 `[A, 4]`.
        logits: float32 `[B, A]`: that an anchor stands for an object.
        deltas: float32 `[B, A, 4]`: from the anchor to the object.
    """

    map_sizes: list[tuple[int, int]]
    anchors: list[Tensor]
    logits: list[Tensor]
    deltas: list[Tensor]


class Proposals(NamedTuple):
    """Boxes of an image in which something might be, likeliest first.

    Attributes:
        boxes: float32 `[N, 4]`, pixels, within the image, with an area.
        scores: float32 `[N]`, 0..1.
    """

    boxes: Tensor
    scores: Tensor


class AnchorTargets(NamedTuple):
    """Targets of the anchors of an image, all levels together.

    Attributes:
        matched: int64 `[A]`: number of the object, `NEGATIVE` or `IGNORED`; before anchors are drawn.
        used: bool `[A]`: not in padding.
        positives: int64 `[P]`: drawn anchors that stand for an object.
        negatives: int64 `[Q]`: drawn anchors that do not.
        deltas: float32 `[P, 4]`: from positive anchors to their objects.
    """

    matched: Tensor
    used: Tensor
    positives: Tensor
    negatives: Tensor
    deltas: Tensor


class RegionProposals(nn.Module):
    """The region proposal network.

    Args:
        channels: Of the maps.
        strides: Of the maps, pixels.
        anchor_scale: Side of the square anchors, strides.
        samples: Anchors of an image that are taken into the losses.
    """

    def __init__(self, channels: int, strides: Sequence[int], *, anchor_scale: float, samples: int) -> None:
        super().__init__()
        self.head = RPNHead(channels, len(RATIOS))
        self.strides = list(strides)
        self.anchor_scale = anchor_scale
        self.samples = samples

    def forward(self, maps: Sequence[Tensor]) -> Objectness:
        """Outputs for maps `[B, channels, rows, columns]`."""
        logits, deltas = self.head(list(maps))
        sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        return Objectness(
            map_sizes=sizes,
            anchors=[
                anchor_boxes(size, stride, self.anchor_scale, maps[0].device)
                for size, stride in zip(sizes, self.strides, strict=True)
            ],
            logits=[level.permute(0, 2, 3, 1).flatten(1).float() for level in logits],
            deltas=[level.permute(0, 2, 3, 1).reshape(len(level), -1, 4).float() for level in deltas],
        )

    def proposals(
        self, said: Objectness, sizes: Sequence[Sequence[int]], candidates: int, limit: int
    ) -> list[Proposals]:
        """The likeliest boxes of each image, which overlap little; no gradient passes.

        Args:
            said: What the network says.
            sizes: Rows and columns of each image, pixels.
            candidates: Anchors of each level that are considered.
            limit: At most so many boxes.
        """
        scores, boxes, levels = [], [], []
        for level, (anchors, logits, deltas) in enumerate(zip(said.anchors, said.logits, said.deltas, strict=True)):
            best, places = logits.detach().topk(min(candidates, len(anchors)), dim=1)
            scores.append(best.sigmoid())
            boxes.append(
                torch.stack([decode(anchors[i], d[i], _SCALES) for i, d in zip(places, deltas.detach(), strict=True)])
            )
            levels.append(torch.full_like(places[0], level))
        level_of = torch.cat(levels)
        return [
            _thin_out(clip_boxes_to_image(b, (size[0], size[1])), s, level_of, limit)
            for b, s, size in zip(torch.cat(boxes, dim=1), torch.cat(scores, dim=1), sizes, strict=True)
        ]

    def targets(self, said: Objectness, size: Sequence[int], objects: Instances) -> AnchorTargets:
        """Targets of the anchors of an image.

        Args:
            said: Of it the anchors are used.
            size: Rows and columns of the image, pixels.
            objects: In the image.
        """
        anchors = torch.cat(said.anchors)
        used = torch.cat(
            [
                on_own_canvas(map_size, stride, size, CANVAS_MULTIPLE, anchors.device)
                for map_size, stride in zip(said.map_sizes, self.strides, strict=True)
            ]
        )
        places = used.nonzero().flatten()
        matched = torch.full((len(anchors),), NEGATIVE, dtype=torch.int64, device=anchors.device)
        matched[places] = match(
            objects.boxes, anchors[places], positive=POSITIVE_IOU, negative=NEGATIVE_IOU, rescue=NEGATIVE_IOU
        )
        positives, negatives = (places[drawn] for drawn in sample(matched[places], self.samples, POSITIVE_SHARE))
        deltas = encode(anchors[positives], objects.boxes[matched[positives]], _SCALES)
        return AnchorTargets(matched, used, positives, negatives, deltas)

    def losses(self, said: Objectness, targets: Sequence[AnchorTargets]) -> tuple[Tensor, Tensor]:
        """Cross-entropy of logits and L1 distance of deltas, each `[levels]`, of a batch.

        Both are divided by the number of drawn anchors, where an image counts at least one positive and one negative.
        """
        counts = [max(len(target.positives), 1) + max(len(target.negatives), 1) for target in targets]
        divisor = mean_over_processes(torch.tensor(float(sum(counts)), device=said.logits[0].device))
        shape = (len(targets), sum(map(len, said.anchors)))
        positive = torch.zeros(shape, dtype=torch.bool, device=divisor.device)
        negative = torch.zeros_like(positive)
        wanted = torch.zeros(*shape, 4, device=divisor.device)
        for image, target in enumerate(targets):
            positive[image, target.positives] = True
            negative[image, target.negatives] = True
            wanted[image, target.positives] = target.deltas
        lengths = [len(anchors) for anchors in said.anchors]
        class_losses, box_losses = [], []
        for logits, deltas, is_object, is_none, wanted_deltas in zip(
            said.logits,
            said.deltas,
            positive.split(lengths, 1),
            negative.split(lengths, 1),
            wanted.split(lengths, 1),
            strict=True,
        ):
            drawn = is_object | is_none
            class_losses.append(
                F.binary_cross_entropy_with_logits(logits[drawn], is_object[drawn].float(), reduction="sum")
            )
            box_losses.append((deltas[is_object] - wanted_deltas[is_object]).abs().sum())
        return torch.stack(class_losses) / divisor, torch.stack(box_losses) / divisor


def _thin_out(boxes: Tensor, scores: Tensor, levels: Tensor, limit: int) -> Proposals:
    """Drops boxes without area and those that overlap a likelier one of their level."""
    whole = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
    boxes, scores, levels = boxes[whole], scores[whole], levels[whole]
    kept = batched_nms(boxes, scores, levels, NMS_IOU)[:limit]
    return Proposals(boxes[kept], scores[kept])
