"""A residual sum and its LayerNorm on a GPU, and the gradient. Arguments are those of the op in the library."""

import math

import torch
import triton
from torch import Tensor

from transnext.ops.triton.kernels import add_norm as kernels
from transnext.ops.triton.launch import Kernel, config, size_class

MAX_PROGRAMS = 1024
"""Programs that sum the gradients of weight and bias, each over several tiles: a few for each processor of a GPU."""

NUMBERS = 2048
"""Numbers of a tile of that kernel: fixed, because its sums are laid out by it."""

FORWARD = Kernel(
    kernels.add_layer_norm,
    [config(4, NUMBERS=2048), config(2, NUMBERS=1024), config(8, NUMBERS=4096)],
    ("BLOCK_C", "UNIT", "SIZE"),
)
BACKWARD = Kernel(kernels.add_layer_norm_gradient, [config(4, NUMBERS=NUMBERS)])


def forward(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The sum and its norm, `[..., C]` each.

    Args:
        x: `[..., C]`, float32, bfloat16 or float16.
        branch: Of the same shape.
        weight: `[C]`.
        bias: `[C]` or None.
        eps: Added to the variance.
        dtype: Of the norm.
    """
    if x.shape != branch.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} and branch {tuple(branch.shape)}: expected the same")
    x, branch, weight = x.contiguous(), branch.contiguous(), weight.contiguous()
    total = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, branch.dtype))
    normed = x.new_empty(x.shape, dtype=dtype)
    if x.numel():
        C = x.shape[-1]
        R, unit, block = x.numel() // C, _unit(C, x, branch, total, normed), triton.next_power_of_2(C)
        FORWARD[lambda meta: (triton.cdiv(R, max(1, meta["NUMBERS"] // block)),)](
            x,
            branch,
            weight,
            weight if bias is None else bias.contiguous(),
            total,
            normed,
            eps,
            R,
            C // unit,
            HAS_BIAS=bias is not None,
            BLOCK_C=block,
            UNIT=unit,
            SIZE=size_class(x, R),
        )
    return total, normed


def backward(
    grad_total: Tensor, grad_normed: Tensor, total: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the sum, weight and bias, in their dtypes; that of the bias is empty where there is none.

    Args:
        grad_total: Gradient of the sum, `[..., C]`.
        grad_normed: Gradient of the norm, `[..., C]`.
        total: The sum.
        weight: `[C]`.
        bias: `[C]` or None.
        eps: Added to the variance.
    """
    grad_total, grad_normed, total = grad_total.contiguous(), grad_normed.contiguous(), total.contiguous()
    weight = weight.contiguous()
    C = total.shape[-1]
    block = triton.next_power_of_2(C)
    R, rows = total.numel() // max(1, C), max(1, NUMBERS // block)
    trips = max(1, triton.cdiv(triton.cdiv(R, rows), MAX_PROGRAMS))
    programs = triton.cdiv(R, rows * trips)
    grad = total.new_empty(total.shape)
    partial = total.new_empty((programs, 2, C), dtype=torch.float32)
    if total.numel():
        unit = _unit(C, grad_total, grad_normed, total)
        BACKWARD[(programs,)](
            grad_total,
            grad_normed,
            total,
            weight,
            grad,
            partial,
            eps,
            R,
            C // unit,
            trips,
            BLOCK_C=block,
            UNIT=unit,
        )
    # Each summed by itself: results of an op must not be views of one tensor.
    grad_weight = partial[:, 0].sum(0).to(weight.dtype)
    return grad, grad_weight, weight.new_empty(0) if bias is None else partial[:, 1].sum(0).to(bias.dtype)


def _unit(C: int, *maps: Tensor) -> int:
    """Numbers, at most 16 bytes of them, of which the channels are a multiple."""
    return math.gcd(C, *(16 // t.itemsize for t in maps))
