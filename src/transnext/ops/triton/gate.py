"""Depthwise convolution, GELU and gate on a GPU, and the gradient. Arguments are those of the op in the library."""

from typing import Any

import torch
import triton
from torch import Tensor

from transnext.ops.triton.kernels import gate as kernels
from transnext.ops.triton.launch import Kernel, config, dense_channels, size_class

SUMS_BLOCK_R = 64
"""Pixels of a program that sums the gradients of the weights: fixed, because its sums are laid out by it."""

KEY = ("F", "SIZE")
FORWARD = Kernel(
    kernels.gate_forward,
    [
        config(4, BLOCK_R=32, BLOCK_F=32),
        config(4, BLOCK_R=16, BLOCK_F=64),
        config(8, BLOCK_R=64, BLOCK_F=32),
        config(8, BLOCK_R=32, BLOCK_F=64),
    ],
    KEY,
)
INPUT_GRADIENT = Kernel(
    kernels.conv_input_gradient,
    [
        config(4, BLOCK_R=32, BLOCK_F=32),
        config(4, BLOCK_R=16, BLOCK_F=64),
        config(4, BLOCK_R=32, BLOCK_F=64),
        config(8, BLOCK_R=64, BLOCK_F=64),
    ],
    KEY,
)
GATE_GRADIENT = Kernel(kernels.gate_and_conv_gradient, [config(8, BLOCK_R=SUMS_BLOCK_R, BLOCK_F=32)])


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`[B, H, W, F]` in the dtype of `x`.

    Args:
        x: `[B, H, W, 2 F]`, float32, bfloat16 or float16.
        weight: `[F, 1, 3, 3]`.
        bias: `[F]` or None.
    """
    _check_side(weight)
    x, weight = dense_channels(x), weight.contiguous()
    B, H, W, F = *x.shape[:3], weight.shape[0]
    out = x.new_empty((B, H, W, F))
    if out.numel():
        FORWARD[_grid(B * H * W, F)](
            x,
            weight,
            weight if bias is None else bias.contiguous(),
            out,
            *x.stride()[:3],
            B * H * W,
            H,
            W,
            F=F,
            HAS_BIAS=bias is not None,
            SIZE=size_class(x, B * H * W),
        )
    return out


def backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the three, in their dtypes; that of the bias is empty where there is none. The same from run to run.

    Args:
        grad: Gradient of the output, `[B, H, W, F]`.
        x: As the others, an argument of `forward`.
        weight: `[F, 1, 3, 3]`.
        bias: `[F]` or None.
    """
    _check_side(weight)
    grad, x, weight = grad.contiguous(), dense_channels(x), weight.contiguous()
    B, H, W, F = grad.shape
    R = B * H * W
    grad_x = x.new_empty((B, H, W, 2 * F))
    grad_conv = grad.new_empty((R, F), dtype=torch.float32)
    tiles = triton.cdiv(R, SUMS_BLOCK_R)
    partial = grad_conv.new_empty((tiles, kernels.TAPS.value + 1, F))
    if grad.numel():
        GATE_GRADIENT[_grid(R, F)](
            grad,
            x,
            weight,
            weight if bias is None else bias.contiguous(),
            grad_x,
            grad_conv,
            partial,
            *x.stride()[:3],
            R,
            H,
            W,
            F,
            HAS_BIAS=bias is not None,
        )
        INPUT_GRADIENT[_grid(R, F)](grad_conv, weight, grad_x, R, H, W, F=F, SIZE=size_class(x, R))
    # Contiguous, and each in memory of its own, as results of an op must be.
    grad_weight = partial[:, :-1].sum(0).t().contiguous().view(weight.shape).to(weight.dtype)
    return grad_x, grad_weight, weight.new_empty(0) if bias is None else partial[:, -1].sum(0).to(bias.dtype)


def _check_side(weight: Tensor) -> None:
    """Refuses other kernels than 3x3, which only a direct call of the op in the library could bring here."""
    if tuple(weight.shape[1:]) != (1, 3, 3):
        raise ValueError(f"weight has shape {tuple(weight.shape)}: the kernels are for [F, 1, 3, 3]")


def _grid(pixels: int, channels: int) -> Any:
    return lambda meta: (triton.cdiv(pixels, meta["BLOCK_R"]) * triton.cdiv(channels, meta["BLOCK_F"]),)
