"""Depthwise convolution, GELU and gate on a GPU, and the gradient. Arguments are those of the op in the library."""

import math
from typing import Any

import torch
import triton
from torch import Tensor

from transnext.ops.triton.kernels import gate as kernels
from transnext.ops.triton.launch import (
    MOST_REGISTERS,
    PROGRAMS_WANTED,
    Kernel,
    config,
    dense_channels,
    size_class,
    stride_unit,
)

LEAST_ROWS = 4
"""Of a program that marches down a map: it loads two more."""

KEY = ("UNIT", "SIZE")
FORWARD = Kernel(
    kernels.gate_forward,
    [
        config(4, 1, MOST_REGISTERS, BLOCK_G=16, PIXELS=2, BLOCK_F=64),
        config(2, 1, MOST_REGISTERS, BLOCK_G=8, PIXELS=2, BLOCK_F=64),
        config(4, 1, MOST_REGISTERS, BLOCK_G=8, PIXELS=4, BLOCK_F=64),
        config(4, 1, MOST_REGISTERS, BLOCK_G=32, PIXELS=2, BLOCK_F=32),
    ],
    KEY,
    bound_units=(8, 4),
)
GATE_GRADIENT = Kernel(
    kernels.gate_and_conv_gradient,
    [
        config(4, 1, MOST_REGISTERS, BLOCK_G=8, PIXELS=2, BLOCK_F=64),
        config(2, 1, MOST_REGISTERS, BLOCK_G=4, PIXELS=2, BLOCK_F=64),
        config(8, 1, MOST_REGISTERS, BLOCK_G=8, PIXELS=3, BLOCK_F=64),
    ],
    KEY,
)
INPUT_GRADIENT = Kernel(
    kernels.conv_input_gradient,
    [
        config(4, 1, MOST_REGISTERS, BLOCK_G=16, PIXELS=2, BLOCK_F=64),
        config(2, 1, MOST_REGISTERS, BLOCK_G=8, PIXELS=2, BLOCK_F=64),
        config(4, 1, MOST_REGISTERS, BLOCK_G=8, PIXELS=4, BLOCK_F=64),
    ],
    KEY,
    bound_units=(8, 4),
)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`[B, H, W, F]` in the dtype of `x`.

    Args:
        x: `[B, H, W, 2 F]`, float32, bfloat16 or float16.
        weight: `[F, 1, 3, 3]`.
        bias: `[F]` or None.
    """
    taps = _taps(weight)
    x = dense_channels(x)
    B, H, W, F = *x.shape[:3], weight.shape[0]
    out = x.new_empty((B, H, W, F))
    if out.numel():
        constants = _constants(x, F)
        rows = _rows(FORWARD, B, H, W, F)
        FORWARD[_grid(B, H, W, F, rows)](
            x,
            taps,
            taps if bias is None else bias.contiguous(),
            out,
            *_strides(x, constants["UNIT"]),
            B,
            H,
            W,
            F // constants["UNIT"],
            rows,
            HAS_BIAS=bias is not None,
            **constants,
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
    taps = _taps(weight)
    grad, x = grad.contiguous(), dense_channels(x)
    B, H, W, F = grad.shape
    grad_x = x.new_empty((B, H, W, 2 * F))
    parts = 0
    if grad.numel():
        rows = _rows(GATE_GRADIENT, B, H, W, F)
        parts = _parts(B, H, W, F, rows)
    partial = x.new_empty((parts, kernels.TAPS.value + 1, F), dtype=torch.float32)
    if grad.numel():
        constants = _constants(x, F)
        sizes = (B, H, W, F // constants["UNIT"])
        # As autograd has it, but for float16: a scaled loss may take it beyond the range, where the results are not.
        grad_conv = torch.empty_like(grad, dtype=torch.float32 if grad.dtype == torch.float16 else None)
        GATE_GRADIENT[lambda meta: (parts * triton.cdiv(F, meta["BLOCK_F"]),)](
            grad,
            x,
            taps,
            taps if bias is None else bias.contiguous(),
            grad_x,
            grad_conv,
            partial,
            *_strides(x, constants["UNIT"]),
            *sizes,
            rows,
            parts,
            HAS_BIAS=bias is not None,
            **constants,
        )
        rows = _rows(INPUT_GRADIENT, B, H, W, F)
        INPUT_GRADIENT[_grid(B, H, W, F, rows)](grad_conv, taps, grad_x, *sizes, rows, **constants)
    # Contiguous, and each in memory of its own, as results of an op must be.
    grad_weight = partial[:, :-1].sum(0).t().contiguous().view(weight.shape).to(weight.dtype)
    return grad_x, grad_weight, weight.new_empty(0) if bias is None else partial[:, -1].sum(0).to(bias.dtype)


def _taps(weight: Tensor) -> Tensor:
    """The weights as the kernels read them, `[9, F]`.

    Raises:
        ValueError: They are none of a 3x3 kernel, which only a direct call of the op in the library could bring here.
    """
    if tuple(weight.shape[1:]) != (1, 3, 3):
        raise ValueError(f"weight has shape {tuple(weight.shape)}: the kernels are for [F, 1, 3, 3]")
    return weight.reshape(weight.shape[0], 9).t().contiguous()


def _constants(x: Tensor, F: int) -> dict[str, Any]:
    """Arguments by name that all kernels of a call share, for a map with dense channels."""
    last = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return {
        "SIZE": size_class(x, x.numel() // (2 * F), F),
        "UNIT": math.gcd(stride_unit(x), F),
        "WIDE": max(last + 1, x.numel()) >= 2**31,
    }


def _strides(x: Tensor, unit: int) -> tuple[int, ...]:
    return tuple(s // unit for s in x.stride()[:3])


def _tiles(blocks: dict[str, int], B: int, W: int) -> int:
    """Tiles of groups of pixels in a row of all images."""
    return triton.cdiv(B * triton.cdiv(W, blocks["PIXELS"]), blocks["BLOCK_G"])


def _rows(kernel: Kernel, B: int, H: int, W: int, F: int) -> int:
    """Rows that a program marches down: all of them, where there are enough programs, by the first configuration."""
    blocks = kernel.configs[0].kwargs
    strips = triton.cdiv(PROGRAMS_WANTED, _tiles(blocks, B, W) * triton.cdiv(F, blocks["BLOCK_F"]))
    return triton.cdiv(H, min(strips, triton.cdiv(H, LEAST_ROWS)))


def _parts(B: int, H: int, W: int, F: int, rows: int) -> int:
    """Parts of the sums over all pixels: one for each program of some channels, with about equal shares."""
    blocks = GATE_GRADIENT.configs[0].kwargs
    units = _tiles(blocks, B, W) * triton.cdiv(H, rows)
    return triton.cdiv(units, triton.cdiv(units * triton.cdiv(F, blocks["BLOCK_F"]), PROGRAMS_WANTED))


def _grid(B: int, H: int, W: int, F: int, rows: int) -> Any:
    return lambda meta: (_tiles(meta, B, W) * triton.cdiv(H, rows) * triton.cdiv(F, meta["BLOCK_F"]),)
