"""Mask R-CNN, and without masks Faster R-CNN, on any backbone, as the released models are built and trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection.mask_rcnn.initial import kaiming, normal, xavier
from transnext.tasks.detection.mask_rcnn.roi_heads import MASK_SIDE, RoIHeads
from transnext.tasks.detection.mask_rcnn.rpn import RegionProposals
from transnext.tasks.detection.net import DetectionNet, Found, not_finite


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Widths and numbers of a Mask R-CNN; by default the released ones.

    Attributes:
        fpn_channels: Of the feature pyramid.
        fc_channels: Of the box head.
        mask_convs: Convolutions of the mask head.
        mask_channels: Of the mask head.
        anchor_scale: Side of the square anchors, strides.
        anchor_samples: Anchors of an image that are trained on.
        roi_samples: Boxes of an image that the heads are trained on.
        train_candidates: Anchors of a level that may become proposals, in training.
        train_proposals: Proposals of an image in training.
        candidates: Anchors of a level that may become proposals.
        proposals: Proposals of an image.
        score_threshold: Less likely objects are left out, 0..1.
        nms_threshold: IoU above which only the likelier of two objects of a class is kept.
        max_detections: Objects of an image at most.
    """

    fpn_channels: int = 256
    fc_channels: int = 1024
    mask_convs: int = 4
    mask_channels: int = 256
    anchor_scale: float = 8.0
    anchor_samples: int = 256
    roi_samples: int = 512
    train_candidates: int = 2000
    train_proposals: int = 1000
    candidates: int = 1000
    proposals: int = 1000
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100


PRESETS = {
    "released": Sizes(),
    "small": Sizes(
        fpn_channels=64,
        fc_channels=256,
        mask_convs=2,
        mask_channels=64,
        anchor_samples=128,
        roi_samples=128,
        train_candidates=500,
        train_proposals=250,
        candidates=500,
        proposals=250,
    ),
}
"""Sizes by name; heads of the released size cost many times what a small backbone does."""


class MaskRCNN(DetectionNet):
    """Mask R-CNN; without masks a Faster R-CNN.

    Args:
        backbone: Its strides double from map to map.
        num_classes: Classes.
        sizes: Widths and numbers.
        masks: Tell outlines, too.

    Attributes:
        score_threshold: See `Sizes`; may be changed, as the next two.
        nms_threshold: See `Sizes`.
        max_detections: See `Sizes`.

    Raises:
        ValueError: It cannot be built so.
    """

    def __init__(self, backbone: Backbone, num_classes: int, sizes: Sizes, *, masks: bool = True) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}: a detector needs one class at least")
        if masks and sizes.mask_convs < 1:
            raise ValueError("mask_convs is 0: leave masks out with masks=False")
        strides = backbone.strides
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
            raise ValueError(f"the backbone's strides are {strides}: each must be twice the one before")
        self.num_classes = num_classes
        self.with_masks = masks
        self.backbone = backbone
        self.sizes = sizes
        self.score_threshold = sizes.score_threshold
        self.nms_threshold = sizes.nms_threshold
        self.max_detections = sizes.max_detections
        self.fpn = FeaturePyramidNetwork(backbone.channels, sizes.fpn_channels, LastLevelMaxPool())
        self.rpn = RegionProposals(
            sizes.fpn_channels,
            [*strides, 2 * strides[-1]],
            anchor_scale=sizes.anchor_scale,
            samples=sizes.anchor_samples,
        )
        self.roi_heads = RoIHeads(
            sizes.fpn_channels,
            strides,
            num_classes,
            fc_channels=sizes.fc_channels,
            mask_convs=sizes.mask_convs if masks else 0,
            mask_channels=sizes.mask_channels,
            samples=sizes.roi_samples,
        )
        self._initialise()

    def _initialise(self) -> None:
        heads = self.roi_heads
        xavier(self.fpn)
        normal(self.rpn.head, 0.01)
        xavier(heads.box_head)
        normal(heads.box_predictor.cls_score, 0.01)
        normal(heads.box_predictor.bbox_pred, 0.001)
        for part in (heads.mask_head, heads.mask_predictor):
            if part is not None:
                kaiming(part)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The feature pyramid `[B, fpn_channels, rows, columns]` of images, the finest first."""
        maps = self.backbone(images)
        return list(self.fpn({str(level): of_level for level, of_level in enumerate(maps)}).values())

    def losses(self, images: Tensor, sizes: Tensor, targets: Sequence[Instances]) -> dict[str, Tensor]:
        """See `DetectionNet.losses`.

        Raises:
            ValueError: The objects have no masks, or none of this canvas, and the network tells outlines.
        """
        targets = [_with_area(objects) for objects in targets]
        if self.with_masks:
            for objects in targets:
                _check_masks(objects, images)
        maps = self.maps(images)
        image_sizes = sizes.tolist()
        said = self.rpn(maps)
        anchors = [self.rpn.targets(said, size, t) for size, t in zip(image_sizes, targets, strict=True)]
        objectness, boxes = self.rpn.losses(said, anchors)
        proposals = self.rpn.proposals(said, image_sizes, self.sizes.train_candidates, self.sizes.train_proposals)
        rois = [self.roi_heads.targets(p.boxes, t) for p, t in zip(proposals, targets, strict=True)]
        return {
            "proposal_objectness": objectness.sum(),
            "proposal_boxes": boxes.sum(),
            **self.roi_heads.losses(maps[: len(self.roi_heads.strides)], rois, targets),
        }

    def detect(self, images: Tensor, sizes: Tensor) -> list[Found]:
        """See `DetectionNet.detect`; masks are those of the named class, 28 by 28 over each box."""
        maps = self.maps(images)
        image_sizes = sizes.tolist()
        said = self.rpn(maps)
        proposals = self.rpn.proposals(said, image_sizes, self.sizes.candidates, self.sizes.proposals)
        found = self.roi_heads.detect(
            maps[: len(self.roi_heads.strides)],
            [of_image.boxes for of_image in proposals],
            image_sizes,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )
        # Proposals are compared, and whatever is compared with what is not finite is not proposed.
        usable = torch.stack([level.flatten(1).isfinite().all(1) for level in (*said.logits, *said.deltas)]).all(0)
        mask_side = MASK_SIDE if self.with_masks else None
        return [
            one if fine else not_finite(images, mask_side) for one, fine in zip(found, usable.tolist(), strict=True)
        ]

    def make_room(self, objects: int) -> None:
        """See `DetectionNet.make_room`; there are two proposals at least for each."""
        if objects > self.max_detections:
            names = ("train_candidates", "train_proposals", "candidates", "proposals")
            self.sizes = replace(self.sizes, **{name: max(getattr(self.sizes, name), 2 * objects) for name in names})
        super().make_room(objects)

    def args(self) -> dict[str, Any]:
        """See `DetectionNet.args`: arguments of `mask_rcnn`."""
        now = replace(
            self.sizes,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )
        return {"num_classes": self.num_classes, "masks": self.with_masks, **asdict(now)}


def mask_rcnn(
    backbone: Backbone, num_classes: int, *, size: str = "released", masks: bool = True, **overrides: Any
) -> MaskRCNN:
    """A Mask R-CNN; without masks a Faster R-CNN.

    Args:
        backbone: Its strides double from map to map.
        num_classes: Classes.
        size: "released", or "small" for small backbones and small sets.
        masks: Tell outlines, too.
        overrides: Fields of `Sizes`.

    Raises:
        ValueError: It cannot be built so.
    """
    if size not in PRESETS:
        raise ValueError(f"no size of Mask R-CNN is called {size!r}: choose one of {', '.join(PRESETS)}")
    known = [field.name for field in fields(Sizes)]
    if unknown := [name for name in overrides if name not in known]:
        raise ValueError(f"Mask R-CNN has no option {', '.join(unknown)}: its options are {', '.join(known)}")
    return MaskRCNN(backbone, num_classes, replace(PRESETS[size], **overrides), masks=masks)


def _with_area(objects: Instances) -> Instances:
    """Leaves out boxes without an area: no box can be encoded by them."""
    whole = ((objects.boxes[:, 2:] - objects.boxes[:, :2]) > 0).all(dim=1)
    if whole.all():
        return objects
    return Instances(
        boxes=objects.boxes[whole],
        labels=objects.labels[whole],
        masks=None if objects.masks is None else objects.masks[whole],
    )


def _check_masks(objects: Instances, images: Tensor) -> None:
    if len(objects) == 0:
        return
    if objects.masks is None:
        raise ValueError("the objects have boxes but no masks: train with masks=False, or annotate outlines")
    if objects.masks.shape[-2:] != images.shape[-2:]:
        masks, canvas = tuple(objects.masks.shape[-2:]), tuple(images.shape[-2:])
        raise ValueError(f"masks are {masks}, the images {canvas} pixels: both must lie on the same canvas")
