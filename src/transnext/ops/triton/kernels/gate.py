"""Depthwise convolution, GELU and gate: programs march down the rows of a map, and load each row once.

A program has `BLOCK_G` *groups* of `PIXELS` pixels side by side, of any images, and `BLOCK_F` channels. A thread has a
group to itself, so that a pixel that it loads serves three columns; numbers of a group are a tuple of `[G, C]`, one for
each pixel. A row that is loaded is added to the sums of the row above it, its own and the one below, which are kept.

Shape legend: `B` images, `H`, `W` map, `F` channels of each half, `G` groups and `C` channels of a program.
"""

# ruff: noqa: RUF005, SIM108 - Triton knows sums of tuples, and no unpacking in them; cases of types are plainer as such.
# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

from transnext.ops.triton.kernels.tiles import INTERPRETED, in_float32, rounded

SIZES = ["x_b", "x_y", "x_x", "B", "H", "W", "F", "rows", "parts", "SIZE"]
"""Arguments for whose values nothing is compiled anew. Strides of `x` and `F` are in units of UNIT."""

TAPS = tl.constexpr(9)
TAIL_SLOPE = tl.constexpr(0.275)
DENSITY_OF_0 = tl.constexpr(0.3989422804014327)
HALF_LOG2_E = tl.constexpr(0.7213475204444817)


@triton.jit
def normal(c):
    """Distribution of the standard normal, `(1 + erf(c / sqrt(2))) / 2`, and `exp(-c^2 / 2)`, which makes its density.

    The tail is the latter times a polynomial of `1 / (1 + 0.275 |c|)`, fitted to it on |c| <= 6.5 so that the largest
    error is least: 5e-9, to which rounding adds up to 3e-7. Beyond, both go to 0.
    """
    power, t = c * c * -HALF_LOG2_E, tl.abs(c) * TAIL_SLOPE + 1.0
    if INTERPRETED or not tl.target_info.is_cuda():
        power, t = tl.exp2(power), 1.0 / t
    else:  # an instruction for each, without those for numbers that are tiny
        power = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [power], dtype=tl.float32, is_pure=True, pack=1
        )
        t = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [t], dtype=tl.float32, is_pure=True, pack=1)
    tail = -0.11485814 * t + 0.45199795
    tail = tail * t - 0.33099222
    tail = tail * t + 0.33393137
    tail = tail * t + 0.04211183
    tail = (tail * t + 0.1178092) * t * power
    return tl.where(c >= 0, 1.0 - tail, tail), power


@triton.jit
def load_taps(taps, f, F, FLIPPED: tl.constexpr):
    """The nine weights as a tuple of `[1, C]` float32; `taps` is `[9, F]`."""
    result = ()
    for o in tl.static_range(TAPS):
        place = taps + (TAPS - 1 - o if FLIPPED else o) * F
        result = result + (tl.load(place + f, mask=f < F, other=0.0).to(tl.float32)[None, :],)
    return result


@triton.jit
def load_bias(bias, f, F, HAS_BIAS: tl.constexpr, BLOCK_G: tl.constexpr):
    """What sums begin with, `[G, C]` float32 as a tuple of one. It is loaded again for each row, to save registers."""
    if HAS_BIAS:
        places = bias + (tl.zeros([BLOCK_G, 1], tl.int32) + f[None, :])
        return (tl.load(places, mask=(f < F)[None, :], other=0.0).to(tl.float32),)
    else:
        return (tl.zeros([BLOCK_G, f.shape[0]], tl.float32),)


@triton.jit
def units_of(B, H, W, rows, BLOCK_G: tl.constexpr, PIXELS: tl.constexpr):
    """Number of pieces of work: tiles of groups times strips of rows."""
    return tl.cdiv(B * tl.cdiv(W, PIXELS), BLOCK_G) * tl.cdiv(H, rows)


@triton.jit
def groups_of(unit, B, H, W, rows, BLOCK_G: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr):
    """First row of a piece of work, and the one behind its last; of each group, `[G]`, image, first column, and whether
    there is one. Those that there are not are moved onto the last one. All of them are int64 if they are WIDE."""
    if WIDE:
        B, rows = B.to(tl.int64), rows.to(tl.int64)
    in_row = tl.cdiv(W, PIXELS)
    strips = tl.cdiv(H, rows)
    first = unit % strips * rows
    group = unit // strips * BLOCK_G + tl.arange(0, BLOCK_G)
    there = group < B * in_row
    group = tl.minimum(group, B * in_row - 1)
    return first, tl.minimum(first + rows, H), group // in_row, group % in_row * PIXELS, there


@triton.jit
def load_pixels(places, step, column, W, mask, AROUND: tl.constexpr, PIXELS: tl.constexpr):
    """Pixels of groups as they are, 0 where there is none; with those on both sides of a group if they are AROUND.

    Args:
        places: `[G, C]`, to the first pixel of each group.
        step: From a pixel to the next.
        column: `[G]`, of the first pixel.
        W: Columns.
        mask: `[G, C]`.
        AROUND: 1 or 0.
        PIXELS: Of a group.
    """
    result = ()
    for i in tl.static_range(-AROUND, PIXELS + AROUND):
        inside = column + i < W
        if i < 0:
            inside = column > 0
        result = result + (tl.load(places + i * step, mask=inside[:, None] & mask, other=0.0),)
    return result


@triton.jit
def store_pixels(places, step, column, W, mask, values):
    """Writes a tuple of float32 to the pixels of groups."""
    for i in tl.static_range(len(values)):
        value = values[i]
        if places.dtype.element_ty == tl.bfloat16:
            value = rounded(value, tl.bfloat16)
        else:
            value = value.to(places.dtype.element_ty)
        tl.store(places + i * step, value, mask=(column + i < W)[:, None] & mask)


@triton.jit
def in_float32s(values):
    """Each of a tuple in float32. The interpreter, to which calls are dear, is spared some."""
    result = ()
    for i in tl.static_range(len(values)):
        if INTERPRETED:
            result = result + (values[i].to(tl.float32),)
        else:
            result = result + (in_float32(values[i]),)
    return result


@triton.jit
def in_words(tiles):
    """16-bit tiles of a tuple as `[G, C / 2]` uint32, two numbers a register, as they are kept. Others stay."""
    result = ()
    for i in tl.static_range(len(tiles)):
        tile = tiles[i]
        if tile.dtype.primitive_bitwidth == 16 and tile.shape[1] > 1:
            low, high = tl.split(tl.reshape(tile, [tile.shape[0], tile.shape[1] // 2, 2]))
            low, high = low.to(tl.uint16, bitcast=True), high.to(tl.uint16, bitcast=True)
            result = result + (low.to(tl.uint32) | (high.to(tl.uint32) << 16),)
        else:
            result = result + (tile,)
    return result


@triton.jit
def of_words(words, DTYPE: tl.constexpr):
    """The numbers, in float32."""
    result = ()
    for i in tl.static_range(len(words)):
        word = words[i]
        if word.dtype != tl.uint32:
            if INTERPRETED:
                result = result + (word.to(tl.float32),)
            else:
                result = result + (in_float32(word),)
        else:
            if tl.bfloat16 == DTYPE:
                low, high = (word << 16).to(tl.float32, bitcast=True), (word & 0xFFFF0000).to(tl.float32, bitcast=True)
            else:
                low = word.to(tl.uint16).to(DTYPE, bitcast=True).to(tl.float32)
                high = (word >> 16).to(tl.uint16).to(DTYPE, bitcast=True).to(tl.float32)
            result = result + (tl.reshape(tl.join(low, high), [word.shape[0], word.shape[1] * 2]),)
    return result


@triton.jit
def add_row(sums, row, taps, FIRST: tl.constexpr):
    """Sums of groups, plus a row of pixels times three of the nine weights; sums may be one `[G, C]` for all."""
    PIXELS: tl.constexpr = len(row) - 2
    result = ()
    for i in tl.static_range(PIXELS):
        total = sums[i if len(sums) > 1 else 0]
        for j in tl.static_range(3):
            total = total + row[i + j] * taps[FIRST + j]
        result = result + (total,)
    return result


@triton.jit
def add_products(sums, row, factors):
    """Three sums, plus the products of factors of pixels and of the pixels to the left, themselves, to the right."""
    result = ()
    for j in tl.static_range(3):
        total = sums[j]
        for i in tl.static_range(len(factors)):
            total = total + row[i + j] * factors[i]
        result = result + (total,)
    return result


@triton.jit
def add_all(total, values):
    """`total` plus each of a tuple."""
    for i in tl.static_range(len(values)):
        total = total + values[i]
    return total


@triton.jit(do_not_specialize=SIZES)
def gate_forward(
    x,
    taps,
    bias,
    out,
    x_b,
    x_y,
    x_x,
    B,
    H,
    W,
    F,
    rows,
    SIZE,
    HAS_BIAS: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_G: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Writes `out`, `[B, H, W, F]`."""
    F = F * UNIT
    if WIDE:
        W, x_y = W.to(tl.int64), x_y.to(tl.int64)
    f_tiles = tl.cdiv(F, BLOCK_F)
    f = tl.program_id(0) % f_tiles * BLOCK_F + tl.arange(0, BLOCK_F)
    first, end, b, column, there = groups_of(tl.program_id(0) // f_tiles, B, H, W, rows, BLOCK_G, PIXELS, WIDE)
    mask = there[:, None] & (f < F)[None, :]
    w = load_taps(taps, f, F, False)
    row_step, step = x_y * UNIT, x_x * UNIT
    places = ((b * x_b + column * x_x) * UNIT)[:, None] + f[None, :]
    results = ((b * H * W + column) * F)[:, None] + f[None, :]
    start = load_bias(bias, f, F, HAS_BIAS, BLOCK_G)
    above = load_pixels(x + (first - 1) * row_step + places, step, column, W, mask & (first > 0), 1, PIXELS)
    here = in_float32s(load_pixels(x + first * row_step + places, step, column, W, mask, 1, PIXELS))
    sums = add_row(add_row(start, in_float32s(above), w, 0), here, w, 3)
    below = add_row(start, here, w, 0)
    for y in range(first, end):
        row = load_pixels(x + (y + 1) * row_step + places, step, column, W, mask & (y + 1 < H), 1, PIXELS)
        gates = load_pixels(x + F + y * row_step + places, step, column, W, mask, 0, PIXELS)
        values, gates = in_float32s(row), in_float32s(gates)
        sums = add_row(sums, values, w, 6)
        gated = ()
        for i in tl.static_range(PIXELS):
            share, _ = normal(sums[i])
            gated = gated + (sums[i] * share * gates[i],)
        store_pixels(out + y * (W * F) + results, F, column, W, mask, gated)
        sums = add_row(below, values, w, 3)
        below = add_row(load_bias(bias, f, F, HAS_BIAS, BLOCK_G), values, w, 0)


@triton.jit(do_not_specialize=SIZES)
def gate_and_conv_gradient(
    grad,
    x,
    taps,
    bias,
    grad_x,
    grad_conv,
    partial,
    x_b,
    x_y,
    x_x,
    B,
    H,
    W,
    F,
    rows,
    parts,
    SIZE,
    HAS_BIAS: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_G: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Gradients of the gate and of the convolution's result, and of the convolution's weights a part of the sums.

    Writes the second half of `grad_x`, `[B, H, W, 2 F]`; `grad_conv`, `[B, H, W, F]`, of any dtype; and `partial`,
    `[parts, TAPS + 1, F]` float32, the last of them for the bias.
    """
    F = F * UNIT
    if WIDE:
        W, x_y = W.to(tl.int64), x_y.to(tl.int64)
    f_tiles = tl.cdiv(F, BLOCK_F)
    part = tl.program_id(0) // f_tiles
    f = tl.program_id(0) % f_tiles * BLOCK_F + tl.arange(0, BLOCK_F)
    w = load_taps(taps, f, F, False)
    grads = ()
    for _ in tl.static_range(TAPS + 1):
        grads = grads + (tl.zeros([BLOCK_G, BLOCK_F], tl.float32),)
    row_step, step = x_y * UNIT, x_x * UNIT
    for unit in range(part, units_of(B, H, W, rows, BLOCK_G, PIXELS), parts):
        first, end, b, column, there = groups_of(unit, B, H, W, rows, BLOCK_G, PIXELS, WIDE)
        mask = there[:, None] & (f < F)[None, :]
        places = ((b * x_b + column * x_x) * UNIT)[:, None] + f[None, :]
        results = ((b * H * W + column) * F)[:, None] + f[None, :]
        results_of_gate = ((b * H * W + column) * (2 * F) + F)[:, None] + f[None, :]
        above = load_pixels(x + (first - 1) * row_step + places, step, column, W, mask & (first > 0), 1, PIXELS)
        here = load_pixels(x + first * row_step + places, step, column, W, mask, 1, PIXELS)
        start = load_bias(bias, f, F, HAS_BIAS, BLOCK_G)
        sums = add_row(add_row(start, in_float32s(above), w, 0), in_float32s(here), w, 3)
        above, here = in_words(above), in_words(here)
        for y in range(first, end):
            row = load_pixels(x + (y + 1) * row_step + places, step, column, W, mask & (y + 1 < H), 1, PIXELS)
            gates = load_pixels(x + F + y * row_step + places, step, column, W, mask, 0, PIXELS)
            dout = load_pixels(grad + y * (W * F) + results, F, column, W, mask, 0, PIXELS)
            row = in_words(row)
            values = of_words(row, x.dtype.element_ty)
            sums = add_row(sums, values, w, 6)
            gates, dout = in_float32s(gates), in_float32s(dout)
            of_gate, of_conv = (), ()
            for i in tl.static_range(PIXELS):
                share, power = normal(sums[i])
                of_gate = of_gate + (sums[i] * share * dout[i],)
                of_conv = of_conv + ((share + sums[i] * DENSITY_OF_0 * power) * (dout[i] * gates[i]),)
            store_pixels(grad_x + y * (W * 2 * F) + results_of_gate, 2 * F, column, W, mask, of_gate)
            store_pixels(grad_conv + y * (W * F) + results, F, column, W, mask, of_conv)
            centre = of_words(here, x.dtype.element_ty)
            grads = (
                add_products(grads[0:3], of_words(above, x.dtype.element_ty), of_conv)
                + add_products(grads[3:6], centre, of_conv)
                + add_products(grads[6:9], values, of_conv)
                + (add_all(grads[9], of_conv),)
            )
            start = load_bias(bias, f, F, HAS_BIAS, BLOCK_G)
            sums = add_row(add_row(start, centre, w, 0), values, w, 3)
            above, here = here, row
    result = partial + part.to(tl.int64) * (TAPS + 1) * F + f
    for o in tl.static_range(TAPS + 1):
        tl.store(result + o * F, tl.sum(grads[o], 0), mask=f < F)


@triton.jit(do_not_specialize=SIZES)
def conv_input_gradient(
    grad_conv,
    taps,
    grad_x,
    B,
    H,
    W,
    F,
    rows,
    SIZE,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_G: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Writes the first half of `grad_x`, `[B, H, W, 2 F]`: the convolution with the weights turned round."""
    F = F * UNIT
    if WIDE:
        W = W.to(tl.int64)
    f_tiles = tl.cdiv(F, BLOCK_F)
    f = tl.program_id(0) % f_tiles * BLOCK_F + tl.arange(0, BLOCK_F)
    first, end, b, column, there = groups_of(tl.program_id(0) // f_tiles, B, H, W, rows, BLOCK_G, PIXELS, WIDE)
    mask = there[:, None] & (f < F)[None, :]
    w = load_taps(taps, f, F, True)
    start = load_bias(taps, f, F, False, BLOCK_G)
    places = ((b * H * W + column) * F)[:, None] + f[None, :]
    results = ((b * H * W + column) * (2 * F))[:, None] + f[None, :]
    above = load_pixels(grad_conv + (first - 1) * (W * F) + places, F, column, W, mask & (first > 0), 1, PIXELS)
    here = in_float32s(load_pixels(grad_conv + first * (W * F) + places, F, column, W, mask, 1, PIXELS))
    sums = add_row(add_row(start, in_float32s(above), w, 0), here, w, 3)
    below = add_row(start, here, w, 0)
    for y in range(first, end):
        row = load_pixels(grad_conv + (y + 1) * (W * F) + places, F, column, W, mask & (y + 1 < H), 1, PIXELS)
        values = in_float32s(row)
        store_pixels(grad_x + y * (W * 2 * F) + results, 2 * F, column, W, mask, add_row(sums, values, w, 6))
        sums = add_row(below, values, w, 3)
        below = add_row(start, values, w, 0)
