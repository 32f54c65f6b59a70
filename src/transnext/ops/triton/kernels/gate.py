"""Depthwise convolution, GELU and gate: one program for each tile of pixels and channels.

Shape legend: `R = B * H * W` pixels of all images, `F` channels of each half.
"""

import triton
import triton.language as tl

from transnext.ops.triton.kernels.tiles import SIZES

TAPS = tl.constexpr(9)
SQRT_HALF = tl.constexpr(0.7071067811865476)
SQRT_TWO_PI = tl.constexpr(2.5066282746310002)


@triton.jit
def conv_tile(x, weight, bias, b, y, x_of, live, f, H, W, F, x_b, x_y, x_x, HAS_BIAS: tl.constexpr):
    """`depthwise_conv(a) + bias` of a tile, `[R, C]` float32; `x` points to the map, `a` is its first half."""
    total = tl.zeros([y.shape[0], f.shape[0]], tl.float32)
    for o in range(TAPS):
        yy, xx = y + o // 3 - 1, x_of + o % 3 - 1
        inside = live & (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
        places = x + (b * x_b + yy * x_y + xx * x_x)[:, None] + f[None, :]
        a = tl.load(places, mask=inside[:, None] & (f < F)[None, :], other=0.0).to(tl.float32)
        total += a * tl.load(weight + f * TAPS + o, mask=f < F, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + f, mask=f < F, other=0.0).to(tl.float32)[None, :]
    return total


@triton.jit(do_not_specialize=SIZES)
def gate_forward(
    x,
    weight,
    bias,
    out,
    x_b,
    x_y,
    x_x,
    R,
    H,
    W,
    F,
    SIZE,
    HAS_BIAS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Writes `out`, `[R, F]`."""
    f_tiles = tl.cdiv(F, BLOCK_F)
    f = tl.program_id(0) % f_tiles * BLOCK_F + tl.arange(0, BLOCK_F)
    pixel = (tl.program_id(0) // f_tiles).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = pixel < R
    pixel = tl.minimum(pixel, R - 1)
    b, y, x_of = pixel // W // H, pixel // W % H, pixel % W
    c = conv_tile(x, weight, bias, b, y, x_of, live, f, H, W, F, x_b, x_y, x_x, HAS_BIAS)
    both = live[:, None] & (f < F)[None, :]
    g = tl.load(x + (b * x_b + y * x_y + x_of * x_x)[:, None] + F + f[None, :], mask=both, other=0.0).to(tl.float32)
    gated = 0.5 * c * (1.0 + tl.erf(c * SQRT_HALF)) * g
    tl.store(out + (pixel * F)[:, None] + f[None, :], gated.to(out.dtype.element_ty), mask=both)


@triton.jit(do_not_specialize=SIZES)
def gate_and_conv_gradient(
    grad,
    x,
    weight,
    bias,
    grad_x,
    grad_conv,
    partial,
    x_b,
    x_y,
    x_x,
    R,
    H,
    W,
    F,
    HAS_BIAS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Gradients of the gate and of the convolution's result, and this program's part of those of its weights.

    Writes the second half of `grad_x`, `[R, 2 F]`; `grad_conv`, `[R, F]` float32; and `partial`,
    `[tiles, TAPS + 1, F]` float32, the last of them for the bias.
    """
    f_tiles = tl.cdiv(F, BLOCK_F)
    tile = (tl.program_id(0) // f_tiles).to(tl.int64)
    f = tl.program_id(0) % f_tiles * BLOCK_F + tl.arange(0, BLOCK_F)
    pixel = tile * BLOCK_R + tl.arange(0, BLOCK_R)
    live = pixel < R
    pixel = tl.minimum(pixel, R - 1)
    b, y, x_of = pixel // W // H, pixel // W % H, pixel % W
    c = conv_tile(x, weight, bias, b, y, x_of, live, f, H, W, F, x_b, x_y, x_x, HAS_BIAS)
    both = live[:, None] & (f < F)[None, :]
    g = tl.load(x + (b * x_b + y * x_y + x_of * x_x)[:, None] + F + f[None, :], mask=both, other=0.0).to(tl.float32)
    dout = tl.load(grad + (pixel * F)[:, None] + f[None, :], mask=both, other=0.0).to(tl.float32)
    below = 0.5 * (1.0 + tl.erf(c * SQRT_HALF))
    slope = below + c * tl.exp(-0.5 * c * c) / SQRT_TWO_PI
    dg = dout * c * below
    dc = dout * g * slope
    tl.store(grad_x + (pixel * 2 * F + F)[:, None] + f[None, :], dg.to(grad_x.dtype.element_ty), mask=both)
    tl.store(grad_conv + (pixel * F)[:, None] + f[None, :], dc, mask=both)

    sums = partial + tile * (TAPS + 1) * F + f
    for o in range(TAPS):
        yy, xx = y + o // 3 - 1, x_of + o % 3 - 1
        inside = live & (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
        places = x + (b * x_b + yy * x_y + xx * x_x)[:, None] + f[None, :]
        a = tl.load(places, mask=inside[:, None] & (f < F)[None, :], other=0.0).to(tl.float32)
        tl.store(sums + o * F, tl.sum(a * dc, 0), mask=f < F)
    tl.store(sums + TAPS * F, tl.sum(dc, 0), mask=f < F)


@triton.jit(do_not_specialize=SIZES)
def conv_input_gradient(
    grad_conv,
    weight,
    grad_x,
    R,
    H,
    W,
    F,
    SIZE,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Writes the first half of `grad_x`, `[R, 2 F]`: the convolution transposed."""
    f_tiles = tl.cdiv(F, BLOCK_F)
    f = tl.program_id(0) % f_tiles * BLOCK_F + tl.arange(0, BLOCK_F)
    pixel = (tl.program_id(0) // f_tiles).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = pixel < R
    pixel = tl.minimum(pixel, R - 1)
    y, x = pixel // W % H, pixel % W
    total = tl.zeros([BLOCK_R, BLOCK_F], tl.float32)
    for o in range(TAPS):
        # The result of which this pixel was input `o`.
        down, right = 1 - o // 3, 1 - o % 3
        inside = live & (y + down >= 0) & (y + down < H) & (x + right >= 0) & (x + right < W)
        places = grad_conv + ((pixel + down * W + right) * F)[:, None] + f[None, :]
        dc = tl.load(places, mask=inside[:, None] & (f < F)[None, :], other=0.0)
        total += dc * tl.load(weight + f * TAPS + o, mask=f < F, other=0.0).to(tl.float32)[None, :]
    both = live[:, None] & (f < F)[None, :]
    tl.store(grad_x + (pixel * 2 * F)[:, None] + f[None, :], total.to(grad_x.dtype.element_ty), mask=both)
