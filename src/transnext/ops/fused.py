"""Inference in one pass: LayerNorm, matrix product, activation and residual sum without memory for what lies between.

These have no reference of their own: they are compositions of PyTorch's modules, for the CPU kernels alone. Only the
position bias has a gradient. Products are computed in float32 from packed weights.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.ops.library import CPU_KERNELS, LIBRARY
from transnext.ops.second_order import differentiable_gradients


class PackedLinear(NamedTuple):
    """A Linear's parameters in the order in which the kernels read them.

    Attributes:
        panels: `[ceil(N / width), K, width]` float32, zero-padded.
        bias: `[ceil(N / width) * width]` float32, zero-padded.
        out_features: `N`.
    """

    panels: Tensor
    bias: Tensor
    out_features: int


def panel_width() -> int:
    """Output channels of a panel, which depends on the instruction set in use."""
    assert CPU_KERNELS is not None
    width: int = CPU_KERNELS.panel_width()
    return width


def pack_linear(weight: Tensor, bias: Tensor | None) -> PackedLinear:
    """Packs the parameters of a Linear.

    Args:
        weight: `[N, K]`.
        bias: `[N]` or None.
    """
    width = panel_width()
    padding = -weight.shape[0] % width
    panels = F.pad(weight.float(), (0, 0, 0, padding)).unflatten(0, (-1, width)).transpose(1, 2).contiguous()
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return PackedLinear(panels, F.pad(bias.float(), (0, padding)), weight.shape[0])


class Norm(NamedTuple):
    """A LayerNorm's parameters, `[C]` float32 each, and its eps."""

    weight: Tensor
    bias: Tensor
    eps: float


def norm_linear(
    x: Tensor, norm: Norm | None, linear: PackedLinear, residual: Tensor | None = None, gelu_from: int | None = None
) -> Tensor:
    """`linear(norm(x))`, GELU on the output channels from `gelu_from` on, plus `residual`.

    Args:
        x: `[..., K]`, float32, bfloat16 or float16.
        norm: None to leave the LayerNorm out.
        linear: Packed by `pack_linear`.
        residual: `[..., N]`, or None.
        gelu_from: First output channel with GELU; None for none.

    Returns:
        `[..., N]` in the dtype of `x`.
    """
    weight, bias, eps = norm if norm is not None else (None, None, 0.0)
    first_gelu = linear.out_features if gelu_from is None else gelu_from
    out: Tensor = torch.ops.transnext.norm_linear(
        x, weight, bias, eps, linear.panels, linear.bias, linear.out_features, first_gelu, residual
    )
    return out


def conv_glu(
    x: Tensor, norm: Norm, fc1: PackedLinear, conv_weight: Tensor, conv_bias: Tensor | None, fc2: PackedLinear
) -> Tensor:
    """`x + fc2(GELU(conv(a)) * g)` with `a, g = fc1(norm(x))`: a whole convolutional GLU, by strips of rows.

    Args:
        x: `[B, H, W, C]`, float32, bfloat16 or float16.
        norm: LayerNorm of `C` channels.
        fc1: `C` to `2 F` channels.
        conv_weight: `[F, 1, 3, 3]`.
        conv_bias: `[F]` or None.
        fc2: `F` to `C` channels.

    Returns:
        `[B, H, W, C]` in the dtype of `x`.
    """
    out: Tensor = torch.ops.transnext.conv_glu(
        x, *norm, fc1.panels, fc1.bias, conv_weight, conv_bias, fc2.panels, fc2.bias
    )
    return out


def adaptive_average_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling of a channels-last map of any strides, `[B, H, W, C]` to `[B, P_h, P_w, C]`."""
    out: Tensor = torch.ops.transnext.adaptive_average_pool(x, *size)
    return out


def position_bias_table(
    row_coordinates: Tensor,
    column_coordinates: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
) -> Tensor:
    """The MLP of the position bias over the grid of coordinates, without memory for its hidden units.

    Args:
        row_coordinates: Log-spaced offsets of rows, `[U_h]`.
        column_coordinates: Log-spaced offsets of columns, `[U_w]`.
        fc1_weight: `[hidden, 2]`, for row and column.
        fc1_bias: `[hidden]`.
        fc2_weight: `[M, hidden]`.
        fc2_bias: `[M]`.

    Returns:
        `[M, U_h, U_w]`, float32.
    """
    out: Tensor = torch.ops.transnext.position_bias_table(
        row_coordinates, column_coordinates, fc1_weight, fc1_bias, fc2_weight, fc2_bias
    )
    return out


def _plain_table(rows: Tensor, columns: Tensor, fc1: Tensor, bias1: Tensor, fc2: Tensor, bias2: Tensor) -> Tensor:
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    return F.linear(F.relu(F.linear(grid, fc1, bias1)), fc2, bias2).permute(2, 0, 1)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _table_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    if torch.is_grad_enabled() or ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        with torch.enable_grad():
            return differentiable_gradients(_plain_table, inputs, grad)
    return (None, None, *torch.ops.transnext.position_bias_table_backward(grad, *inputs))


torch.library.register_autograd(
    "transnext::position_bias_table", _table_gradient, setup_context=_keep_inputs, lib=LIBRARY
)
