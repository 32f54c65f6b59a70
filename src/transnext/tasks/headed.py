"""Networks of a head on a backbone, as detection and segmentation have them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from transnext.models.backbone import Backbone, below, released_key
from transnext.tasks.task import Losses

_BACKBONE_RATE = 0.1
_FULL_RATE = ("backbone.patch_embed4.", "backbone.norm4.")
_NEXT_TO_NOTHING = 1e-12
"""What a batch to be forgotten counts: not 0, as what is divided by the sum is to be finite if all are such batches."""
_counts: ContextVar[float] = ContextVar("what a batch of this process counts", default=1.0)


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


def losses_of(net: HeadedNet, images: Tensor, sizes: Tensor, targets: Any) -> Losses:
    """Losses of a batch, from a network that gives means over all processes.

    Args:
        net: In training mode.
        images: As it takes them.
        sizes: int64 `[B, 2]`: rows and columns that are image; all 0 of a batch to be forgotten, which adds nothing to
            the divisors of other processes.
        targets: As it takes them.
    """
    count = torch.tensor(float(len(images)), device=images.device)
    with _counting(not _several() or bool(sizes.any())):
        canvas = torch.tensor(images.shape[-2:], device=sizes.device)
        means = net(images, sizes.where(sizes > 0, canvas), targets)
        # What is divided by means is multiplied by one: processes may have unequal numbers of images.
        mean_count = mean_over_processes(count)
    return Losses({name: value * mean_count for name, value in means.items()}, count, {})


@contextmanager
def _counting(counts: bool) -> Iterator[None]:
    token = _counts.set(1.0 if counts else _NEXT_TO_NOTHING)
    try:
        yield
    finally:
        _counts.reset(token)


def mean_over_processes(counts: Tensor, least: float | Sequence[float] = 0.0) -> Tensor:
    """The mean of a tensor over the processes that train together, without gradient; the tensor itself if it is one.

    Args:
        counts: float32, any shape.
        least: What the sum over the processes is at least, for all or one for each.
    """
    counts, processes = counts.detach() * _counts.get(), 1
    if _several():
        torch.distributed.all_reduce(counts)
        processes = torch.distributed.get_world_size()
    return counts.clamp(min=torch.as_tensor(least).to(counts)) / processes


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def lr_scale(name: str) -> float:
    """The part of the learning rate that a parameter has in the released training of DINO and Mask2Former.

    A tenth in the backbone, except for the patch embedding and the norm of the last stage of a TransNeXt, which the
    released configurations pass over.
    """
    if not name.startswith("backbone."):
        return 1.0
    return 1.0 if released_key(name).startswith(_FULL_RATE) else _BACKBONE_RATE
