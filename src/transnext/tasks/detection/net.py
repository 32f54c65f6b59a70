"""What a detector is to the task: losses while it is trained, objects found afterwards."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transnext.data.instances import Instances
from transnext.models.backbone import Backbone, below


@dataclass(frozen=True, kw_only=True)
class Found:
    """Objects that a network finds in one image, likeliest first, in pixels of its input.

    Attributes:
        boxes: float32 `[N, 4]`: x0, y0, x1, y1, within the image.
        scores: float32 `[N]`, 0..1.
        labels: int64 `[N]`: places in the list of classes.
        masks: Probabilities, 0..1: `[N, m, m]` over each box if `masks_of` is "box", `[N, h, w]` over the whole canvas,
            at any resolution, if it is "canvas"; None if the network tells no outlines.
        masks_of: What `masks` lie over.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    masks_of: str = "box"

    def __len__(self) -> int:
        return len(self.boxes)


class DetectionNet(nn.Module, ABC):
    """A network that finds objects.

    Losses are means as the released training takes them: those of a batch, in which divisors are averaged over
    processes (`mean_over_processes`), so that the gradients of several processes average to those of one.

    Attributes:
        detector: Its name, a key of `nets.DETECTORS`.
        num_classes: Classes.
        with_masks: It tells outlines, too.
        max_detections: Most objects that `detect` gives of an image; may be changed.
        backbone: Its `transnext.models.backbone.Backbone`.
    """

    detector: str
    num_classes: int
    with_masks: bool
    max_detections: int
    backbone: Backbone

    @abstractmethod
    def losses(self, images: Tensor, sizes: Tensor, targets: Sequence[Instances]) -> dict[str, Tensor]:
        """Losses of a batch, 0-d, weights applied, whose sum is minimised.

        Args:
            images: float32 `[B, 3, H, W]`, normalised, 0 beyond the size of each; sides are multiples of 32.
            sizes: int64 `[B, 2]`: rows and columns that are image.
            targets: Objects of each image; none in some or in all is usual.
        """

    @abstractmethod
    def detect(self, images: Tensor, sizes: Tensor) -> list[Found]:
        """Objects of each image, all that the network would name whatever their score; see `losses`."""

    @abstractmethod
    def args(self) -> dict[str, Any]:
        """Arguments that, with the names of detector and backbone, build the network again, plain values."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of the backbone in the backward pass.

        Raises:
            ValueError: The backbone cannot.
        """
        self.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters not to decay, beside biases and one-dimensional ones."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def slow_parameters(self) -> set[str]:
        """Names of the parameters that train at the rate of the backbone, where it has one of its own."""
        return {name for name, _ in self.named_parameters() if name.startswith("backbone.")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that give each parameter its layer, in timm's notation; all of the head is the last layer.

        Args:
            coarse: One group for each stage of the backbone instead of each block.

        Raises:
            ValueError: The backbone does not say what its layers are.
        """
        return below("backbone.", self.backbone.group_matcher(coarse))

    def forward(self, images: Tensor, sizes: Tensor, targets: Sequence[Instances] | None = None) -> Any:
        """`losses` if there are targets, else `detect`."""
        return self.detect(images, sizes) if targets is None else self.losses(images, sizes, targets)


def mean_over_processes(counts: Tensor) -> Tensor:
    """The mean of a tensor over the processes that train together, without gradient; the tensor itself if it is one.

    Args:
        counts: float32, any shape.
    """
    counts = counts.detach().clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
        counts /= torch.distributed.get_world_size()
    return counts
