"""GELU and adaptive average pooling: a row of a tile is a unit of channels, of a bin or of a pixel.

Shape legend: `R` rows of all tiles: bins, or pixels, of all images times units of channels.
"""

import triton
import triton.language as tl

from transnext.ops.triton.kernels.gate import DENSITY_OF_0, normal

SIZES = ["x_b", "x_y", "x_x", "R", "units", "H", "W", "P_h", "P_w", "trips", "bins_y", "bins_x", "SIZE"]
"""Arguments for whose values nothing is compiled anew, be they 1 or multiples of 16. Strides are in units."""


@triton.jit
def first_of(bin, size, bins):
    """First position of a bin of adaptive average pooling."""
    return bin * size // bins


@triton.jit
def end_of(bin, size, bins):
    """The position after a bin's last."""
    return ((bin + 1) * size + bins - 1) // bins


@triton.jit(do_not_specialize=SIZES)
def gelu_pool(
    x,
    out,
    x_b,
    x_y,
    x_x,
    R,
    units,
    H,
    W,
    P_h,
    P_w,
    trips,
    SIZE,
    LANES: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Writes `out`, `[B, P_h, P_w, C]`: `LANES` rows share the pixels of a bin. WIDE is for 64-bit offsets."""
    GROUPS: tl.constexpr = ROWS // LANES
    first = tl.program_id(0) * GROUPS
    if WIDE:
        first, x_y, x_x = first.to(tl.int64), x_y.to(tl.int64), x_x.to(tl.int64)
    row = tl.minimum(first + tl.arange(0, ROWS) % GROUPS, R - 1)
    lane = tl.arange(0, ROWS) // GROUPS
    unit, place = row % units, row // units
    b, bin = place // (P_h * P_w), (place % (P_h * P_w)).to(tl.int32)
    top, left = first_of(bin // P_w, H, P_h), first_of(bin % P_w, W, P_w)
    width = end_of(bin % P_w, W, P_w) - left
    count = (end_of(bin // P_w, H, P_h) - top) * width
    c = tl.arange(0, UNIT)
    origin = b * x_b + unit
    total = tl.zeros([ROWS, UNIT], tl.float32)
    for t in range(trips):
        n = t * LANES + lane
        y, x_of = top + n // width, left + n % width
        places = x + ((origin + y * x_y + x_of * x_x) * UNIT)[:, None] + c[None, :]
        z = tl.load(places, mask=(n < count)[:, None], other=0.0).to(tl.float32)
        below, _ = normal(z)
        total += z * below  # 0 of 0
    total = tl.sum(tl.reshape(total / count.to(tl.float32)[:, None], [LANES, GROUPS, UNIT]), 0)
    row = first + tl.arange(0, GROUPS)
    places = out + (row * UNIT)[:, None] + c[None, :]
    tl.store(places, total.to(out.dtype.element_ty), mask=(row < R)[:, None])


@triton.jit(do_not_specialize=SIZES)
def gelu_pool_gradient(
    grad,
    x,
    grad_x,
    x_b,
    x_y,
    x_x,
    R,
    units,
    H,
    W,
    P_h,
    P_w,
    bins_y,
    bins_x,
    SIZE,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Writes `grad_x`, `[B, H, W, C]`: each pixel gathers from the bins that it is in. WIDE is for 64-bit offsets."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if WIDE:
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        x_y, x_x = x_y.to(tl.int64), x_x.to(tl.int64)
    live = row < R
    row = tl.minimum(row, R - 1)
    unit, place = row % units, row // units
    b, pixel = place // (H * W), (place % (H * W)).to(tl.int32)
    y, x_of = pixel // W, pixel % W
    # The bins that a pixel is in are the pixels of a bin, with the two sizes exchanged.
    top, left = first_of(y, P_h, H), first_of(x_of, P_w, W)
    bottom, right = end_of(y, P_h, H), end_of(x_of, P_w, W)
    c = tl.arange(0, UNIT)
    total = tl.zeros([ROWS, UNIT], tl.float32)
    for t in range(bins_y * bins_x):
        p_y, p_x = top + t // bins_x, left + t % bins_x
        sees = live & (p_y < bottom) & (p_x < right)
        pixels = (end_of(p_y, H, P_h) - first_of(p_y, H, P_h)) * (end_of(p_x, W, P_w) - first_of(p_x, W, P_w))
        share = tl.where(sees, 1.0 / pixels.to(tl.float32), 0.0)
        places = grad + (((b * P_h + p_y) * P_w + p_x) * units + unit)[:, None] * UNIT + c[None, :]
        total += tl.load(places, mask=sees[:, None], other=0.0).to(tl.float32) * share[:, None]
    origin = b * x_b + y * x_y + x_of * x_x + unit
    z = tl.load(x + (origin * UNIT)[:, None] + c[None, :], mask=live[:, None], other=0.0).to(tl.float32)
    below, power = normal(z)
    places = grad_x + (row * UNIT)[:, None] + c[None, :]
    tl.store(places, (total * (below + z * DENSITY_OF_0 * power)).to(grad_x.dtype.element_ty), mask=live[:, None])
