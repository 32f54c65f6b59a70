"""The heads that look at proposals: what is there, where exactly, and its outline."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align

from transnext.data.instances import Instances
from transnext.tasks.detection.mask_rcnn.boxes import decode, encode
from transnext.tasks.detection.mask_rcnn.matching import match, sample
from transnext.tasks.detection.mask_rcnn.pooling import pool
from transnext.tasks.detection.net import Found, not_finite
from transnext.tasks.headed import mean_over_processes

MATCH_IOU = 0.5
POSITIVE_SHARE = 0.25
BOX_CELLS = 7
MASK_CELLS = 14
MASK_SIDE = 2 * MASK_CELLS
SCALES = (0.1, 0.1, 0.2, 0.2)


class RoITargets(NamedTuple):
    """The boxes of an image that the heads are trained on, positives first, and what they should say.

    Attributes:
        matched: int64 `[objects + proposals]`: number of the object or `NEGATIVE`; before boxes are drawn.
        rows: int64 `[K]`: where the drawn boxes come from, in the objects followed by the proposals.
        boxes: float32 `[K, 4]`.
        objects: int64 `[P]`: number of the object of each positive box.
        labels: int64 `[K]`: classes; the number of classes for negatives.
        deltas: float32 `[P, 4]`: from positive boxes to their objects.
    """

    matched: Tensor
    rows: Tensor
    boxes: Tensor
    objects: Tensor
    labels: Tensor
    deltas: Tensor


class BoxPredictor(nn.Module):
    """Classes, the background last, and a box for each class.

    Args:
        channels: Of what is known about a box.
        num_classes: Classes without the background.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 * num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[K, channels]` to logits `[K, classes + 1]` and deltas `[K, classes, 4]`, float32."""
        return self.cls_score(x).float(), self.bbox_pred(x).float().unflatten(1, (self.bbox_pred.out_features // 4, 4))


class MaskPredictor(MaskRCNNPredictor):
    """Logits of outlines, twice as fine as its input.

    A transposed convolution whose stride is its kernel is a linear map from each pixel to the four finer ones: the same
    numbers, on CPUs in a third of the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[K, channels, h, w]` to `[K, classes, 2 h, 2 w]`."""
        finer: nn.ConvTranspose2d = self.conv5_mask
        last: nn.Conv2d = self.mask_fcn_logits
        assert finer.bias is not None
        to_finer = finer.weight.permute(2, 3, 1, 0).flatten(0, 2)
        x = F.linear(x.permute(0, 2, 3, 1), to_finer, finer.bias.repeat(4)).relu()
        # No size is left to be found out from others: without boxes, runtimes of ONNX could not.
        number, classes, height, width = x.shape[0], last.out_channels, 2 * x.shape[1], 2 * x.shape[2]
        logits = F.linear(x.unflatten(3, (2, 2, finer.out_channels)), last.weight.flatten(1), last.bias)
        return logits.permute(0, 5, 1, 3, 2, 4).reshape(number, classes, height, width)


class RoIHeads(nn.Module):
    """The heads for boxes and, if they are wanted, masks.

    Args:
        channels: Of the maps.
        strides: Of the maps that are looked at, pixels.
        num_classes: Classes.
        fc_channels: Of the two layers of the box head.
        mask_convs: Convolutions of the mask head; 0 for none.
        mask_channels: Of the mask head.
        samples: Boxes of an image that the heads are trained on.
    """

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        num_classes: int,
        *,
        fc_channels: int,
        mask_convs: int,
        mask_channels: int,
        samples: int,
    ) -> None:
        super().__init__()
        self.strides = list(strides)
        self.samples = samples
        self.box_head = TwoMLPHead(channels * BOX_CELLS**2, fc_channels)
        self.box_predictor = BoxPredictor(fc_channels, num_classes)
        self.mask_head = MaskRCNNHeads(channels, [mask_channels] * mask_convs, dilation=1) if mask_convs else None
        self.mask_predictor = MaskPredictor(mask_channels, mask_channels, num_classes) if mask_convs else None

    @property
    def num_classes(self) -> int:
        """Classes without the background."""
        return self.box_predictor.cls_score.out_features - 1

    def boxes(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs of the box head for the boxes of all images: logits `[K, classes + 1]`, deltas `[K, classes, 4]`."""
        logits: Tensor
        logits, deltas = self.box_predictor(self.box_head(pool(maps, self.strides, boxes, BOX_CELLS)))
        return logits, deltas

    def masks(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Logits of the outline that a box holds if it is of its class, float32 `[K, 28, 28]`."""
        assert self.mask_head is not None
        assert self.mask_predictor is not None
        of_all = self.mask_predictor(self.mask_head(pool(maps, self.strides, boxes, MASK_CELLS)))
        rows = torch.arange(labels.shape[0], device=labels.device)  # not len(): export must not freeze it
        return of_all[rows, labels].float()

    def targets(self, proposals: Tensor, objects: Instances) -> RoITargets:
        """Draws boxes of an image from its objects and the proposals.

        Args:
            proposals: float32 `[N, 4]`.
            objects: In the image.
        """
        matched = match(objects.boxes, proposals, positive=MATCH_IOU, negative=MATCH_IOU, rescue=MATCH_IOU)
        # The objects come in after the matching: an object must not be the best box of its own and so rob no other.
        matched = torch.cat([torch.arange(len(objects), device=matched.device), matched])
        positives, negatives = sample(matched, self.samples, POSITIVE_SHARE)
        rows = torch.cat([positives, negatives])
        boxes = torch.cat([objects.boxes, proposals])[rows]
        numbers = matched[positives]
        background = torch.full_like(negatives, self.num_classes)
        return RoITargets(
            matched=matched,
            rows=rows,
            boxes=boxes,
            objects=numbers,
            labels=torch.cat([objects.labels[numbers], background]),
            deltas=encode(boxes[: len(positives)], objects.boxes[numbers], SCALES),
        )

    def losses(
        self, maps: Sequence[Tensor], targets: Sequence[RoITargets], objects: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Losses of a batch: cross-entropy of classes, L1 distance of deltas, cross-entropy of masks.

        Args:
            maps: See `pool`.
            targets: Of each image.
            objects: Of each image.
        """
        logits, deltas = self.boxes(maps, [target.boxes for target in targets])
        labels = torch.cat([target.labels for target in targets])
        samples = _divisor(len(labels), labels.device)
        positives = (labels < self.num_classes).nonzero().flatten()
        distances = deltas[positives, labels[positives]] - torch.cat([target.deltas for target in targets])
        found = {
            "classes": F.cross_entropy(logits, labels, reduction="sum") / samples,
            "boxes": distances.abs().sum() / samples,
        }
        if self.mask_head is None:
            return found
        boxes = [target.boxes[: len(target.objects)] for target in targets]
        wanted = [
            mask_targets(b, target.objects, of_image)
            for b, target, of_image in zip(boxes, targets, objects, strict=True)
        ]
        outlines = self.masks(maps, boxes, labels[positives])
        total = F.binary_cross_entropy_with_logits(outlines, torch.cat(wanted), reduction="sum")
        found["masks"] = total / (_divisor(len(positives), labels.device) * MASK_SIDE**2)
        return found

    def detect(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[Sequence[int]],
        *,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> list[Found]:
        """Objects of each image.

        Args:
            maps: See `pool`.
            proposals: float32 `[N, 4]` of each image.
            sizes: Rows and columns of each image, pixels.
            score_threshold: What is not likelier than this is left out.
            nms_threshold: IoU above which only the likelier of two objects of a class is kept.
            max_detections: At most so many of an image.
        """
        answers = []
        for image, (boxes, size) in enumerate(zip(proposals, sizes, strict=True)):
            own_maps = [level[image : image + 1] for level in maps]
            logits, deltas = self.boxes(own_maps, [boxes])
            if not (logits.isfinite().all() and deltas.isfinite().all()):
                answers.append(not_finite(logits, None if self.mask_head is None else MASK_SIDE))
                continue
            scores = logits.softmax(1)[:, :-1]
            rows, labels = (scores > score_threshold).nonzero(as_tuple=True)
            found = clip_boxes_to_image(decode(boxes[rows], deltas[rows, labels], SCALES), (size[0], size[1]))
            likely = scores[rows, labels]
            kept = batched_nms(found, likely, labels, nms_threshold)[:max_detections]
            found, likely, labels = found[kept], likely[kept], labels[kept]
            masks = None
            if self.mask_head is not None:
                masks = self.masks(own_maps, [found], labels).sigmoid()
            answers.append(Found(boxes=found, scores=likely, labels=labels, masks=masks))
        return answers


def mask_targets(boxes: Tensor, numbers: Tensor, objects: Instances) -> Tensor:
    """The part of its object's mask that each box holds, 0 or 1, float32 `[P, 28, 28]`.

    Args:
        boxes: float32 `[P, 4]`.
        numbers: int64 `[P]`: of the objects.
        objects: With masks, if there are any objects.
    """
    wanted = boxes.new_zeros(len(boxes), MASK_SIDE, MASK_SIDE)
    if len(boxes) == 0:
        return wanted
    assert objects.masks is not None
    height, width = objects.masks.shape[-2:]
    boxes = clip_boxes_to_image(boxes, (height, width))
    for number in numbers.unique().tolist():  # one mask in float32 at a time: there may be hundreds
        here = (numbers == number).nonzero().flatten()
        mask = objects.masks[number][None, None].float()
        covered = roi_align(mask, [boxes[here]], MASK_SIDE, sampling_ratio=0, aligned=True)
        wanted[here] = (covered[:, 0] >= 0.5).float()
    return wanted


def _divisor(count: int, device: torch.device) -> Tensor:
    """The mean of a number over processes; above 0, as what is divided by 0 is 0 itself."""
    return mean_over_processes(torch.tensor(float(count), device=device)).clamp(min=1e-6)
