"""Mask2Former that finds objects: the network for pixels, whose masks stand for one object each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection.net import DetectionNet, Found
from transnext.tasks.segmentation.mask2former.head import Mask2FormerSize
from transnext.tasks.segmentation.mask2former.matching import Target
from transnext.tasks.segmentation.mask2former.model import Mask2FormerNet, size_of, upsampled

_AT_ONCE = 2**25
"""Pixels of upsampled masks that are held in float32 at a time."""


class Mask2FormerInstances(Mask2FormerNet, DetectionNet):
    """Mask2Former that finds objects; see `mask2former_instances`.

    Attributes:
        max_detections: Objects that are named in an image, at most; may be changed.
    """

    with_masks = True

    def __init__(self, backbone: Backbone, num_classes: int, size: Mask2FormerSize, max_detections: int) -> None:
        super().__init__(backbone, num_classes, size)
        if max_detections < 1:
            raise ValueError(f"max_detections is {max_detections}: it must be at least 1")
        self.max_detections = max_detections

    def args(self) -> dict[str, Any]:
        """See `DetectionNet.args`: arguments of `mask2former_instances`."""
        return {**super().args(), "masks": True, "max_detections": self.max_detections}

    def losses(self, images: Tensor, sizes: Tensor, targets: Sequence[Instances]) -> dict[str, Tensor]:
        """See `DetectionNet.losses`; named as those of `Mask2Former.losses`.

        Objects without a pixel are left out, and of more objects than queries those that fit worst.

        Raises:
            ValueError: The objects have no masks, or none of this canvas.
        """
        return self.losses_of_targets(images, [_target(objects, images) for objects in targets])

    def detect(self, images: Tensor, sizes: Tensor) -> list[Found]:
        """The likeliest pairs of query and class, `max_detections` at most, with masks at the canvas' resolution.

        A score is the probability of the class times the mean one of the mask where it is at least a half; the box is
        around these pixels. Pairs without such a pixel in the image are left out. Masks are float16: of a hundred
        objects of a large image float32 would fill a gigabyte.
        """
        predictions = self.predict(images)
        canvas = (images.shape[2], images.shape[3])
        return [
            self._found(*of_image, canvas)
            for of_image in zip(predictions.logits[-1], predictions.masks[-1], sizes.tolist(), strict=True)
        ]

    def _found(self, logits: Tensor, masks: Tensor, size: Sequence[int], canvas: tuple[int, int]) -> Found:
        probabilities = logits.softmax(-1)[:, :-1].flatten()
        scores, places = probabilities.topk(min(self.max_detections, len(probabilities)))
        queries, labels = places // self.num_classes, places % self.num_classes
        at_canvas = torch.empty(len(queries), *canvas, dtype=torch.float16, device=masks.device)
        means, boxes = [], []
        step = max(1, _AT_ONCE // (canvas[0] * canvas[1]))
        for first in range(0, len(queries), step):
            some = slice(first, first + step)
            pixels = upsampled(masks[queries[some]][None], canvas)[0]
            inside = pixels[:, : size[0], : size[1]] > 0
            likely = pixels.sigmoid_()[:, : size[0], : size[1]]
            means.append((likely * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6))
            boxes.append(_boxes_around(inside))
            at_canvas[some] = pixels
        box, score = torch.cat(boxes), scores * torch.cat(means)
        order = score.argsort(descending=True, stable=True)
        # What is not finite stays, to be refused.
        order = order[(box[order, 2] > box[order, 0]) | ~score[order].isfinite()]
        return Found(
            boxes=box[order], scores=score[order], labels=labels[order], masks=at_canvas[order], masks_of="canvas"
        )


def mask2former_instances(
    backbone: Backbone,
    num_classes: int,
    *,
    size: str = "released",
    masks: bool = True,
    max_detections: int = 100,
    **overrides: Any,
) -> Mask2FormerInstances:
    """A Mask2Former for objects with its initial values.

    Args:
        backbone: Has maps of strides 4, 8, 16 and 32.
        num_classes: Classes.
        size: "released", or "small" for small backbones and small sets.
        masks: Must be true: it has no other way to find objects.
        max_detections: Objects that are named in an image, at most.
        overrides: What differs from that size, see `Mask2FormerSize`; there must be as many queries as objects.

    Raises:
        ValueError: It cannot be built so.
    """
    if not masks:
        raise ValueError("mask2former finds objects by their outlines: it needs masks, else choose another detector")
    return Mask2FormerInstances(backbone, num_classes, size_of(size, overrides), max_detections)


def _target(objects: Instances, images: Tensor) -> Target:
    canvas = images.shape[-2:]
    if not len(objects):
        return Target(objects.labels, torch.zeros(0, *canvas, dtype=torch.uint8, device=images.device))
    if objects.masks is None:
        raise ValueError("the objects have boxes but no masks: annotate outlines, or choose another detector")
    if objects.masks.shape[-2:] != canvas:
        on = tuple(objects.masks.shape[-2:])
        raise ValueError(f"masks are {on}, the images {tuple(canvas)} pixels: both must lie on the same canvas")
    seen = objects.masks.flatten(1).bool().any(1)
    return Target(objects.labels[seen], objects.masks[seen])


def _boxes_around(masks: Tensor) -> Tensor:
    """Boxes around the pixels of masks, bool `[N, h, w]`: float32 `[N, 4]`, x0, y0, x1, y1; zeros around none."""
    sides = []
    for axis in (1, 2):  # over rows: columns that are touched
        touched = masks.any(axis)
        length = touched.shape[1]
        first = touched.int().argmax(1)
        last = length - touched.flip(1).int().argmax(1)
        sides.append(torch.stack((first, last), 1) * touched.any(1, keepdim=True))
    (x0, x1), (y0, y1) = (side.unbind(1) for side in sides)
    return torch.stack((x0, y0, x1, y1), 1).float()
