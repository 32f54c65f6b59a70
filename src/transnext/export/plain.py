"""A network as it is written into files."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transnext.models import TransNeXt


class Traceable(nn.Module):
    """A network from images to tensors that `torch.export` can trace.

    Attributes:
        multiple: What sides of images are multiples of, pixels; None if they have always the same size.
    """

    multiple: int | None


class ForExport(Traceable):
    """A copy of a network that `torch.export` can trace.

    Args:
        model: A TransNeXt or another model of timm; it is left as it is.
        out_indices: Stages whose maps are the outputs; None for the logits.
        fixed_size: Whether images have always the same size. If not, their sides are any multiples of `size_multiple`,
            which a TransNeXt in extrapolating mode alone can do.
    """

    def __init__(self, model: nn.Module, *, out_indices: Sequence[int] | None = None, fixed_size: bool = False) -> None:
        super().__init__()
        self.net = copy.deepcopy(model).cpu().float().eval()
        self.out_indices = None if out_indices is None else list(out_indices)
        if self.out_indices is not None:
            self.net.prune_intermediate_layers(self.out_indices)  # type: ignore[operator]
        self.multiple = None
        if isinstance(self.net, TransNeXt):
            self.net.backend = "auto"
            self.multiple = None if fixed_size else size_multiple(self.net)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Images `[B, in_chans, H, W]` to logits `[B, classes]`, or to maps `[B, C, H / stride, W / stride]`."""
        if self.out_indices is None:
            outputs = [self.net(images)]
        else:
            outputs = self.net.forward_intermediates(images, indices=self.out_indices, intermediates_only=True)  # type: ignore[operator]
        if self.multiple is not None:
            factor = nan_unless_multiples(images, self.multiple)
            outputs = [output * factor for output in outputs]
        return outputs[0] if self.out_indices is None else tuple(outputs)


def nan_unless_multiples(images: Tensor, multiple: int) -> Tensor:
    """1, or NaN for images whose sides are no multiples: what a runtime makes of them would be wrong unnoticed.

    Their last rows would be left out of the pooled keys. Pixels are counted, because symbols are known to be multiples:
    every question about them is answered while tracing.
    """
    column, row = images[0, 0, :, 0], images[0, 0, 0, :]
    sides = torch.stack([(line.abs() >= 0).sum() for line in (column, row)])
    return torch.where((sides % multiple == 0).all(), 1.0, math.nan)


def size_multiple(model: TransNeXt) -> int:
    """Pixels of which sides of images are multiples in a file for any size: those of every bin of pooled keys."""
    bins = [1]
    for stage, info in zip(model.stages, model.feature_info, strict=False):
        mixer = stage.blocks[0].attn  # type: ignore[union-attr,index]
        bins.append(info["reduction"] * getattr(mixer, "sr_ratio", 1))
    return math.lcm(*bins)
