"""A network as it is written into files: plain operators, and nothing that asks questions about symbolic sizes.

Shape letters are those of `transnext.models.attention`.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.models import TransNeXt
from transnext.models.attention import AggregatedAttention, Mixer, aggregate
from transnext.models.position_bias import PositionBias
from transnext.ops import AxisIndex, log_spaced


class ForExport(nn.Module):
    """A copy of a network that `torch.export` can trace.

    Args:
        model: A TransNeXt or another model of timm; it is left as it is.
        out_indices: Stages whose maps are the outputs; None for the logits.
        fixed_size: `(H, W)` of the images if it is always the same: position biases are then computed now. None for
            any multiples of `size_multiple`, which a TransNeXt in extrapolating mode alone can do.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        out_indices: Sequence[int] | None = None,
        fixed_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.net = copy.deepcopy(model).cpu().float().eval()
        self.out_indices = None if out_indices is None else list(out_indices)
        if self.out_indices is not None:
            self.net.prune_intermediate_layers(self.out_indices)  # type: ignore[operator]
        self._axes: list[_StageAxes] = []
        self.multiple: int | None = None
        if not isinstance(self.net, TransNeXt):
            return
        self.net.backend = "reference"
        if fixed_size is not None:
            self._remember_position_bias(fixed_size)
        else:
            self.multiple = size_multiple(self.net)
            self._follow_symbolic_sizes()

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Images `[B, in_chans, H, W]` to logits `[B, classes]`, or to maps `[B, C, H / stride, W / stride]`."""
        for axes in self._axes:
            axes.forget()
        if self.out_indices is None:
            outputs = [self.net(images)]
        else:
            outputs = self.net.forward_intermediates(images, indices=self.out_indices, intermediates_only=True)  # type: ignore[operator]
        if self.multiple is not None:
            factor = _nan_unless_multiples(images, self.multiple)
            outputs = [output * factor for output in outputs]
        return outputs[0] if self.out_indices is None else tuple(outputs)

    def _remember_position_bias(self, size: tuple[int, int]) -> None:
        assert isinstance(self.net, TransNeXt)
        mixers: list[Any] = [module for module in self.net.modules() if isinstance(module, Mixer)]
        for mixer in mixers:
            mixer.bias_of = _Remembered(mixer.bias_of)
        with torch.no_grad():
            self(torch.zeros(1, self.net.in_chans, *size))

    def _follow_symbolic_sizes(self) -> None:
        for stage in self.net.stages:  # type: ignore[union-attr]
            for block in stage.blocks:
                mixer = block.attn
                ratio = mixer.sr_ratio if isinstance(mixer, AggregatedAttention) else 1
                if block is stage.blocks[0]:
                    axes = _StageAxes(ratio)
                    self._axes.append(axes)
                mixer.bias_of = _BiasOfAnySize(mixer, axes)
                if isinstance(mixer, AggregatedAttention):
                    block.attn = _EvenlyPooled(mixer)


def _nan_unless_multiples(images: Tensor, multiple: int) -> Tensor:
    """1, or NaN for images whose sides are no multiples: what a runtime makes of them would be wrong unnoticed.

    Their last rows would be left out of the pooled keys. Pixels are counted, because symbols are known to be multiples:
    every question about them is answered while tracing.
    """
    column, row = images[0, 0, :, 0], images[0, 0, 0, :]
    sides = torch.stack([(line.abs() >= 0).sum() for line in (column, row)])
    return torch.where((sides % multiple == 0).all(), 1.0, math.nan)


def size_multiple(model: TransNeXt) -> int:
    """What the sides of images must be multiples of in a file for any size, pixels: of every bin of pooled keys."""
    bins = [1]
    for stage, info in zip(model.stages, model.feature_info, strict=False):
        mixer = stage.blocks[0].attn  # type: ignore[union-attr,index]
        bins.append(info["reduction"] * getattr(mixer, "sr_ratio", 1))
    return math.lcm(*bins)


class _Remembered:
    """The position bias of the first map it is asked for, from then on for all."""

    def __init__(self, bias_of: Callable[[Tensor], PositionBias]) -> None:
        self.bias_of = bias_of
        self.bias: PositionBias | None = None

    def __call__(self, x: Tensor) -> PositionBias:
        if self.bias is None:
            self.bias = self.bias_of(x)
        return self.bias


class _StageAxes:
    """The index of both axes of a stage, built once in a forward pass: its blocks see maps of one size.

    Pooled keys are those of bins of one width, so that none of the questions about divisibility arises that the index
    of any size has to answer.

    Args:
        ratio: Pixels of a bin along an axis; 1 for attention without pooling.
    """

    def __init__(self, ratio: int) -> None:
        self.ratio = ratio
        self._built: tuple[AxisIndex, AxisIndex] | None = None

    def forget(self) -> None:
        """To be called before each forward pass."""
        self._built = None

    def of(self, x: Tensor) -> tuple[AxisIndex, AxisIndex]:
        """Index of rows and columns of `[B, H, W, C]`."""
        if self._built is None:
            self._built = self._axis(x.shape[1], x.device), self._axis(x.shape[2], x.device)
        return self._built

    def _axis(self, size: int, device: torch.device) -> AxisIndex:
        width = self.ratio
        queries = torch.arange(size, device=device)
        keys = torch.arange(size // width, device=device) * width
        farthest = size - width
        # Offsets are multiples of 1/2 and far below 2 ** 23: float32 holds them exactly.
        steps = torch.arange(2 * size - width, device=device, dtype=torch.float32)
        taps = (queries[:, None] - keys[None, :] + farthest).unsqueeze(-1)
        return AxisIndex(steps - farthest - (width - 1) / 2, taps, None, None)


class _BiasOfAnySize:
    """`bias_of` of a mixer in extrapolating mode, for maps whose size is a multiple of the ratio of pooling."""

    def __init__(self, mixer: Mixer, axes: _StageAxes) -> None:
        self.mixer = mixer
        self.axes = axes

    def __call__(self, x: Tensor) -> PositionBias:
        rows, cols = self.axes.of(x)
        mixer = self.mixer
        coordinates = [
            log_spaced(axis.offsets, scale)
            for axis, scale in zip((rows, cols), mixer.geometry.pretrain_scale, strict=True)
        ]
        grid = torch.stack(torch.meshgrid(*coordinates, indexing="ij"), dim=-1)
        table = mixer.cpb_fc2(F.relu(mixer.cpb_fc1(grid))).permute(2, 0, 1)
        return PositionBias(table, rows, cols)


class _EvenlyPooled(nn.Module):
    """Aggregated attention for maps whose size is a multiple of `sr_ratio`: pooling is then that of a fixed window."""

    def __init__(self, mixer: AggregatedAttention) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, C]` to `[B, H, W, C]`."""
        mixer = self.mixer
        q = mixer.q(x).unflatten(-1, (mixer.num_heads, -1))
        k, v = _keys_and_values(mixer, x)
        z = F.gelu(mixer.sr(x.permute(0, 3, 1, 2)))
        pooled = F.avg_pool2d(z, mixer.sr_ratio).permute(0, 2, 3, 1)
        k_pool, v_pool = _keys_and_values(mixer, mixer.norm(pooled))
        return mixer.proj(aggregate(mixer, q, k, v, k_pool, v_pool, mixer.bias_of(x)))


def _keys_and_values(mixer: AggregatedAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    k, v = mixer.kv(x).unflatten(-1, (2, mixer.num_heads, -1)).unbind(-3)
    return k, v
