"""Mask2Former (Cheng et al., CVPR 2022) on any backbone, as the released code builds and trains it for pixels.

Queries tell masks and the class of each. A pixel has of a class what all queries together give it: the probability that
a query is of the class, times that of its mask there.
"""

from dataclasses import asdict, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.data.segmentation.maps import SEGMENT
from transnext.models.backbone import Backbone
from transnext.ops.tracing import is_exporting
from transnext.tasks.headed import HeadedNet, lr_scale
from transnext.tasks.segmentation.mask2former.head import (
    GROUPS,
    SIZES,
    Mask2FormerHead,
    Mask2FormerSize,
    Predictions,
)
from transnext.tasks.segmentation.mask2former.losses import losses_of_outputs
from transnext.tasks.segmentation.mask2former.matching import Target
from transnext.tasks.segmentation.net import IGNORED, SegmentationNet, Told

STRIDES = (4, 8, 16, 32)
"""Of the maps that the backbone gives."""
_AT_ONCE = 2**25
"""Pixels of upsampled masks that are held at a time."""


class Mask2FormerNet(HeadedNet):
    """A backbone and the head of a Mask2Former, whatever its masks stand for.

    Under autocast the matching and the losses are computed in float32.

    Args:
        backbone: Has maps of `STRIDES`.
        num_classes: Classes.
        size: How large it is.

    Raises:
        ValueError: It cannot be built so.
    """

    num_classes: int

    def __init__(self, backbone: Backbone, num_classes: int, size: Mask2FormerSize) -> None:
        super().__init__()
        _check(backbone, num_classes, size)
        self.backbone = backbone
        self.num_classes = num_classes
        self.size = size
        self.head = Mask2FormerHead(backbone.channels, num_classes, size)

    @property
    def num_queries(self) -> int:
        """Masks of an image, at most."""
        return self.size.num_queries

    def args(self) -> dict[str, Any]:
        """See `HeadedNet.args`."""
        return {"num_classes": self.num_classes, **asdict(self.size)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of the blocks of backbone and decoders in the backward pass."""
        super().set_grad_checkpointing(enable)
        self.head.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """See `HeadedNet.no_weight_decay`."""
        return super().no_weight_decay() | {f"head.{name}" for name in self.head.no_weight_decay()}

    def slow_parameters(self) -> set[str]:
        """See `HeadedNet.slow_parameters`: not all of the backbone, as in the released configurations."""
        return {name for name, _ in self.named_parameters() if lr_scale(name) < 1}

    def predict(self, images: Tensor) -> Predictions:
        """Classes and masks of all queries.

        Args:
            images: float32 `[B, 3, H, W]`, normalised; sides are multiples of 32.
        """
        predictions: Predictions = self.head(self.backbone(images))
        return predictions

    def losses_of_targets(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """Losses of a batch; see `losses_of_outputs`."""
        logits, masks = self.predict(images)
        with torch.autocast(images.device.type, enabled=False):
            return losses_of_outputs(logits, masks, targets, self.size.num_points)


class Mask2Former(Mask2FormerNet, SegmentationNet):
    """Mask2Former that names the class of every pixel; see `mask2former`."""

    def __init__(self, backbone: Backbone, num_classes: int, size: Mask2FormerSize) -> None:
        super().__init__(backbone, num_classes, size)
        if num_classes > IGNORED:
            raise ValueError(f"num_classes is {num_classes}: maps of bytes hold {IGNORED} at most")

    def losses(self, images: Tensor, sizes: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """See `SegmentationNet.losses`; named as in the released training.

        `loss_cls`, `loss_mask` and `loss_dice` are those of the last layer, with `d0.` before them of the queries
        before the first layer, with `d1.`, `d2.`, ... after the first, second, ...

        Points of the masks are drawn from PyTorch's generator of the images' device.

        Raises:
            ValueError: A map is not of the images' size, or has a class that there is not.
        """
        if maps.shape[-2:] != images.shape[-2:]:
            raise ValueError(f"maps are {tuple(maps.shape[-2:])}, images {tuple(images.shape[-2:])} pixels: one canvas")
        return self.losses_of_targets(images, [target_of_map(of_image, self.num_classes) for of_image in maps])

    def scores(self, images: Tensor, sizes: Tensor) -> Tensor:
        """See `SegmentationNet.scores`: of every pixel the sums over queries, 0 and more, not logits.

        Masks are brought to the canvas before they become probabilities; memory is that of the scores and a few masks.
        """
        return self._scores(self.predict(images), (images.shape[2], images.shape[3]))

    def forward(self, images: Tensor, sizes: Tensor, maps: Tensor | None = None, told: bool = False) -> Any:
        """See `SegmentationNet.forward`; or what is `Told` of each picture."""
        if not told:
            return super().forward(images, sizes, maps)
        predictions = self.predict(images)
        scores = self._scores(predictions, (images.shape[2], images.shape[3]))
        return [Told(*one) for one in zip(scores, predictions.logits[-1], predictions.masks[-1], strict=True)]

    def _scores(self, predictions: Predictions, canvas: tuple[int, int]) -> Tensor:
        with torch.autocast(predictions.masks[-1].device.type, enabled=False):
            return scores_of_pixels(predictions.logits[-1], predictions.masks[-1], canvas)


def mask2former(backbone: Backbone, num_classes: int, *, size: str = "released", **overrides: Any) -> Mask2Former:
    """A Mask2Former for pixels with its initial values.

    Args:
        backbone: Has maps of `STRIDES`.
        num_classes: Classes, 255 at most.
        size: "released", or "small" for small backbones and small sets.
        overrides: What differs from that size, see `Mask2FormerSize`.

    Raises:
        ValueError: It cannot be built so.
    """
    return Mask2Former(backbone, num_classes, size_of(size, overrides))


def size_of(name: str, overrides: dict[str, Any]) -> Mask2FormerSize:
    """A size by name, with what differs from it.

    Raises:
        ValueError: There is no such size, or no such field.
    """
    if name not in SIZES:
        raise ValueError(f"Mask2Former has no size {name!r}: choose one of {', '.join(SIZES)}")
    known = [field.name for field in fields(Mask2FormerSize)]
    if unknown := [key for key in overrides if key not in known]:
        raise ValueError(f"Mask2Former has no {', '.join(unknown)}: it has {', '.join(known)}")
    return replace(SIZES[name], **overrides)


def target_of_map(segments: Tensor, num_classes: int) -> Target:
    """A mask for each class, or each segment, that is in an image; pixels that are not known are in none.

    Args:
        segments: Integers `[H, W]`: a map of classes or of segments, see `transnext.data.segmentation.maps.SEGMENT`.
        num_classes: Classes that there are.

    Raises:
        ValueError: There is no such class.
    """
    present = segments.unique().long()
    labels = present & SEGMENT - 1
    known = labels != IGNORED
    present, labels = present[known], labels[known]
    if len(labels) and int(labels.max()) >= num_classes:
        raise ValueError(f"a map has class {int(labels.max())}, the network {num_classes}, counted from 0")
    return Target(labels, segments == present[:, None, None])


def scores_of_pixels(logits: Tensor, masks: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Sums over queries of the probability of each class times that of the mask.

    Args:
        logits: float32 `[B, Q, C + 1]`.
        masks: Logits, float32 `[B, Q, h, w]`.
        canvas: Rows and columns of the scores.

    Returns:
        float32 `[B, C, *canvas]`.
    """
    classes = logits.softmax(-1)[..., :-1].transpose(1, 2)
    batch, count, queries = classes.shape
    scores = classes.new_zeros(batch, count, canvas[0] * canvas[1])
    # The size of a batch is a symbol in a graph, which has no loop over queries either.
    step = queries if is_exporting() else max(1, _AT_ONCE // (batch * canvas[0] * canvas[1]))
    for first in range(0, queries, step):
        some = slice(first, first + step)
        probabilities = upsampled(masks[:, some], canvas).sigmoid_()
        scores.baddbmm_(classes[..., some], probabilities.flatten(2))
    return scores.unflatten(2, canvas)


def upsampled(masks: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Masks `[B, Q, h, w]` on the canvas, `[B, Q, *canvas]`."""
    return F.interpolate(masks, canvas, mode="bilinear", align_corners=False)


def _check(backbone: Backbone, num_classes: int, size: Mask2FormerSize) -> None:
    if tuple(backbone.strides) != STRIDES:
        raise ValueError(
            f"Mask2Former needs maps of strides {', '.join(map(str, STRIDES))}, the backbone {backbone.name} was built "
            f"for {', '.join(map(str, backbone.strides))}"
        )
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}: there is at least one class")
    for name, value in asdict(size).items():
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    if size.embed_dim % GROUPS or size.embed_dim % size.num_heads:
        raise ValueError(
            f"embed_dim is {size.embed_dim}: it must be a multiple of {GROUPS} and of num_heads, which is "
            f"{size.num_heads}"
        )
