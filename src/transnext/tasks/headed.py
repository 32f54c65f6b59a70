"""Networks of a head on a backbone, as detection and segmentation have them."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from transnext.models.backbone import Backbone, below, released_key

_BACKBONE_RATE = 0.1
_FULL_RATE = ("backbone.patch_embed4.", "backbone.norm4.")


class HeadedNet(nn.Module, ABC):
    """A head on a backbone.

    Attributes:
        backbone: Gives the maps.
    """

    backbone: Backbone

    @abstractmethod
    def args(self) -> dict[str, Any]:
        """Arguments that, with the names of detector and backbone, build the network again, plain values."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of the backbone in the backward pass.

        Raises:
            ValueError: The backbone cannot.
        """
        self.backbone.set_grad_checkpointing(enable)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the backbone, in place; shapes in heads follow from what is in an image. See `nn.Module.compile`."""
        self.backbone.compile(*args, **kwargs)

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


def lr_scale(name: str) -> float:
    """The part of the learning rate that a parameter has in the released training of DINO and Mask2Former.

    A tenth in the backbone, except for the patch embedding and the norm of the last stage of a TransNeXt, which the
    released configurations pass over.
    """
    if not name.startswith("backbone."):
        return 1.0
    return 1.0 if released_key(name).startswith(_FULL_RATE) else _BACKBONE_RATE
