"""GELU and adaptive average pooling on a GPU, and the gradient. Arguments are those of the op in the library."""

import math

import triton
from torch import Tensor

from transnext.ops.triton.kernels import gelu_pool as kernels
from transnext.ops.triton.launch import Kernel, config, dense_channels, size_class, stride_unit

PIXELS_OF_A_LANE = 4
"""Pixels of a bin for which one lane is enough."""

MAX_LANES = 32
"""Lanes that share the pixels of a bin."""

MAX_SIDE = (1 << 15) - 1
"""Rows or columns of a map, with which bins are computed in 32 bits."""

FORWARD = Kernel(
    kernels.gelu_pool,
    [config(4, ROWS=128), config(2, ROWS=128), config(8, ROWS=256)],
    ("LANES", "UNIT", "WIDE", "SIZE"),
)
BACKWARD = Kernel(
    kernels.gelu_pool_gradient,
    [config(4, ROWS=128), config(2, ROWS=128), config(8, ROWS=256)],
    ("UNIT", "WIDE", "SIZE"),
)


def forward(x: Tensor, P_h: int, P_w: int) -> Tensor:
    """`[B, P_h, P_w, C]` in the dtype of `x`.

    Args:
        x: `[B, H, W, C]`, float32, bfloat16 or float16.
        P_h: Rows of bins, at least 1.
        P_w: Columns of bins, at least 1.
    """
    _check_sides(x, P_h, P_w)
    x = dense_channels(x)
    B, H, W, C = x.shape
    out = x.new_empty((B, P_h, P_w, C))
    if out.numel():
        unit = _unit(x)
        pixels = _widest(H, P_h) * _widest(W, P_w)
        lanes = min(MAX_LANES, triton.next_power_of_2(triton.cdiv(pixels, PIXELS_OF_A_LANE)))
        rows = B * P_h * P_w * (C // unit)
        FORWARD[lambda meta: (triton.cdiv(rows, meta["ROWS"] // lanes),)](
            x,
            out,
            *(stride // unit for stride in x.stride()[:3]),
            rows,
            C // unit,
            H,
            W,
            P_h,
            P_w,
            triton.cdiv(pixels, lanes),
            LANES=lanes,
            UNIT=unit,
            WIDE=_is_wide(x, P_h * P_w),
            SIZE=size_class(x, rows),
        )
    return out


def backward(grad: Tensor, x: Tensor, P_h: int, P_w: int) -> Tensor:
    """Gradient of the map, `[B, H, W, C]`, in its dtype; the same from run to run.

    Args:
        grad: Gradient of the output, `[B, P_h, P_w, C]`.
        x: As the others, an argument of `forward`.
        P_h: Rows of bins.
        P_w: Columns of bins.
    """
    _check_sides(x, P_h, P_w)
    x, grad = dense_channels(x), grad.contiguous()
    B, H, W, C = x.shape
    grad_x = x.new_empty(x.shape)
    if x.numel():
        unit = _unit(x)
        rows = B * H * W * (C // unit)
        BACKWARD[lambda meta: (triton.cdiv(rows, meta["ROWS"]),)](
            grad,
            x,
            grad_x,
            *(stride // unit for stride in x.stride()[:3]),
            rows,
            C // unit,
            H,
            W,
            P_h,
            P_w,
            # As many bins see a pixel as a bin of the transposed pooling has pixels.
            _widest(P_h, H),
            _widest(P_w, W),
            UNIT=unit,
            WIDE=_is_wide(x, P_h * P_w),
            SIZE=size_class(x, rows),
        )
    return grad_x


def _unit(x: Tensor) -> int:
    """Channels that are read at once, of which all channels and all strides are multiples."""
    return math.gcd(stride_unit(x), x.shape[-1])


def _is_wide(x: Tensor, bins: int) -> bool:
    """Whether an offset in the map, in its gradient or in the pooled one exceeds 32 bits."""
    last = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return max(last + 1, x.numel(), x.shape[0] * bins * x.shape[3]) >= 2**31


def _widest(size: int, bins: int) -> int:
    """Positions of the widest of `bins` bins over `size` positions, or one more."""
    return size // bins if size % bins == 0 else min(size, size // bins + 2)


def _check_sides(x: Tensor, P_h: int, P_w: int) -> None:
    H, W = x.shape[1:3]
    if max(H, W, P_h, P_w) > MAX_SIDE:
        raise ValueError(f"a map of {H}x{W} and a pooled one of {P_h}x{P_w}: the kernels go to {MAX_SIDE} a side")
