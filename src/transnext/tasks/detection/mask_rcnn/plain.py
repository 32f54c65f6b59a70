"""Mask R-CNN in operators that other runtimes have: suppression of overlapping boxes, and numbers that depend on data.

It does what `MaskRCNN.detect` does for one image, whose size is a tensor here.
"""

import torch
from torch import Tensor
from torchvision.ops import nms

from transnext.tasks.detection.mask_rcnn.boxes import decode
from transnext.tasks.detection.mask_rcnn.model import MaskRCNN
from transnext.tasks.detection.mask_rcnn.roi_heads import SCALES
from transnext.tasks.detection.mask_rcnn.rpn import NMS_IOU, Objectness
from transnext.tasks.detection.plain import PlainDetector

_NO_SCALES = (1.0, 1.0, 1.0, 1.0)


class PlainMaskRCNN(PlainDetector):
    """Mask R-CNN for one image: as many objects as there are.

    Args:
        net: In evaluation mode.
    """

    batch = 1

    def __init__(self, net: MaskRCNN) -> None:
        super().__init__(net)
        self.score_threshold = net.score_threshold

    def forward(self, images: Tensor, sizes: Tensor, score_threshold: Tensor | None = None) -> tuple[Tensor, ...]:
        """See `PlainDetector.forward`."""
        net: MaskRCNN = self.net  # type: ignore[assignment]
        limits = sizes[0].to(images.dtype).flip(0).repeat(2)
        maps, proposals, every, deltas = self._classified(images, limits)
        threshold = net.score_threshold if score_threshold is None else score_threshold
        rows, labels = (every > threshold).nonzero(as_tuple=True)
        boxes = _clipped(decode(proposals[rows], deltas[rows, labels], SCALES), limits)
        scores = every[rows, labels]
        # As torchvision separates classes: each is moved beyond the one before, so that none overlaps another. The row
        # of zeros stands for an image without objects.
        step = torch.cat([boxes, boxes.new_zeros(1, 4)]).max() + 1
        kept = nms(boxes + (labels.to(boxes.dtype) * step)[:, None], scores, net.nms_threshold)[: net.max_detections]
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        if not net.with_masks:
            return boxes, scores, labels
        return boxes, scores, labels, net.roi_heads.masks(maps, [boxes], labels).sigmoid()

    def threshold_for(self, images: Tensor, sizes: Tensor, count: int) -> float:
        """See `PlainDetector.threshold_for`."""
        *_, every, _ = self._classified(images, sizes[0].to(images.dtype).flip(0).repeat(2))
        ranked = every.detach().flatten().sort(descending=True).values
        return float(ranked[min(count, len(ranked) - 1)]) if len(ranked) else 0.0

    def _classified(self, images: Tensor, limits: Tensor) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Maps, proposals `[N, 4]`, and of these probabilities of classes `[N, C]` and deltas `[N, C, 4]`."""
        net: MaskRCNN = self.net  # type: ignore[assignment]
        pyramid = net.maps(images)
        proposals = _proposals(net, net.rpn(pyramid), limits)
        maps = pyramid[: len(net.roi_heads.strides)]
        logits, deltas = net.roi_heads.boxes(maps, [proposals])
        return maps, proposals, logits.softmax(1)[:, :-1], deltas


def _proposals(net: MaskRCNN, said: Objectness, limits: Tensor) -> Tensor:
    """The likeliest boxes of an image, `[N, 4]`, which overlap little; see `RegionProposals.proposals`."""
    boxes, scores = [], []
    for anchors, logits, deltas in zip(said.anchors, said.logits, said.deltas, strict=True):
        best, places = logits[0].topk(min(net.sizes.candidates, anchors.shape[0]))
        of_level = _clipped(decode(anchors[places], deltas[0][places], _NO_SCALES), limits)
        whole = ((of_level[:, 2:] - of_level[:, :2]) > 0).all(dim=1).nonzero()[:, 0]
        of_level, likely = of_level[whole], best.sigmoid()[whole]
        kept = nms(of_level, likely, NMS_IOU)
        boxes.append(of_level[kept])
        scores.append(likely[kept])
    order = torch.cat(scores).argsort(descending=True)[: net.sizes.proposals]
    return torch.cat(boxes)[order]


def _clipped(boxes: Tensor, limits: Tensor) -> Tensor:
    """Boxes `[N, 4]` within an image that ends at `limits`, `[4]`: columns, rows, columns, rows."""
    return torch.minimum(boxes.clamp(min=0), limits)
