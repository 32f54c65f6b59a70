"""A residual sum and its LayerNorm: a program holds whole rows, of which it has mean and variance at once.

Shape legend: `R` rows, `C` channels.
"""

import triton
import triton.language as tl

SIZES = ["eps", "R", "units", "trips", "SIZE"]
"""Arguments for whose values nothing is compiled anew, be they 1 or multiples of 16."""


@triton.jit
def normed_rows(x, inside, C, eps):
    """`x` less its mean, divided by its standard deviation, `[rows, C]`, and one over the latter, `[rows]`."""
    mean = tl.sum(x, 1) / C
    x = tl.where(inside, x - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 1) / C + eps)
    return x * inverse[:, None], inverse


@triton.jit(do_not_specialize=SIZES)
def add_layer_norm(
    x,
    branch,
    weight,
    bias,
    total,
    normed,
    eps,
    R,
    units,
    SIZE,
    HAS_BIAS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    UNIT: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """Writes `total` and `normed`, `[R, C]`."""
    ROWS: tl.constexpr = max(1, NUMBERS // BLOCK_C)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK_C)
    C = units * UNIT
    inside = (row < R)[:, None] & (c < C)[None, :]
    places = (row * C)[:, None] + c[None, :]
    s = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    s += tl.load(branch + places, mask=inside, other=0.0).to(tl.float32)
    rounded = s.to(total.dtype.element_ty)
    tl.store(total + places, rounded, mask=inside)
    unit_rows, _ = normed_rows(rounded.to(tl.float32), inside, C, eps)
    n = unit_rows * tl.load(weight + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        n += tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    tl.store(normed + places, n.to(normed.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def add_layer_norm_gradient(
    grad_total,
    grad_normed,
    total,
    weight,
    grad,
    partial,
    eps,
    R,
    units,
    trips,
    BLOCK_C: tl.constexpr,
    UNIT: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """Writes `grad`, `[R, C]`, and this program's part of the gradients of weight and bias, `[programs, 2, C]`."""
    ROWS: tl.constexpr = max(1, NUMBERS // BLOCK_C)
    c = tl.arange(0, BLOCK_C)
    C = units * UNIT
    w = tl.load(weight + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    of_weight = tl.zeros([ROWS, BLOCK_C], tl.float32)
    of_bias = tl.zeros([ROWS, BLOCK_C], tl.float32)
    for t in range(trips):
        row = (tl.program_id(0).to(tl.int64) * trips + t) * ROWS + tl.arange(0, ROWS)
        inside = (row < R)[:, None] & (c < C)[None, :]
        places = (row * C)[:, None] + c[None, :]
        s = tl.load(total + places, mask=inside, other=0.0).to(tl.float32)
        unit_rows, inverse = normed_rows(s, inside, C, eps)
        dn = tl.load(grad_normed + places, mask=inside, other=0.0).to(tl.float32)
        of_weight += dn * unit_rows
        of_bias += dn
        g = dn * w
        along = tl.sum(g * unit_rows, 1) / C
        ds = (g - (tl.sum(g, 1) / C)[:, None] - unit_rows * along[:, None]) * inverse[:, None]
        ds += tl.load(grad_total + places, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad + places, ds.to(grad.dtype.element_ty), mask=inside)
    sums = partial + tl.program_id(0).to(tl.int64) * 2 * C + c
    tl.store(sums, tl.sum(of_weight, 0), mask=c < C)
    tl.store(sums + C, tl.sum(of_bias, 0), mask=c < C)
