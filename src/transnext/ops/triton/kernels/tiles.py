"""Parts that the kernels of attention share: where pixels lie, tiles and chunks of maps, products, the position bias.

Two layouts take turns. Products with pooled keys want tiles, `[R, BLOCK_D]`, of pixels x all channels. What is computed
from single neighbours wants *chunks*: a tuple of `[R, C]`, each as many channels as a thread loads at once, so that a
thread has a pixel to itself and adds up its channels without the others.
"""

# ruff: noqa: RUF005 - Triton knows sums of tuples, and no unpacking in them.
# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

NORM_EPS = tl.constexpr(1e-12)
"""`transnext.ops.reference.NORM_EPS`; a kernel sees constants of Triton only."""

LOG2_E = tl.constexpr(1.4426950408889634)
"""What natural exponents are multiplied by for `exp2`, the one that GPUs have."""

SIZES = [
    *("M", "H", "W", "P", "P_h", "P_w", "U_h", "U_w", "T_h", "T_w", "TP_h", "TP_w"),
    *(f"{of}_{axis}" for of in "qkv" for axis in ("batch", "row", "column", "head")),
    *("B", "R", "SIZE", "SPLITS", "first_row", "num_rows"),
    *("size", "inner", "trained", "trips", "r_step", "t_step"),
]
"""Arguments for whose values nothing is compiled anew, be they 1 or multiples of 16. Strides are in units."""

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def of_unknown_origin(x):
    """A whole number as it is, of which compilers do not know that it was there before.

    What is computed from it is computed again, instead of being kept in registers through a loop that wants them all.
    """
    if INTERPRETED or not tl.target_info.is_cuda():
        return x
    else:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def tile_of_pixels(program, M, N, W, BLOCK: tl.constexpr):
    """Place of a program: image (int64), head, tile; `[BLOCK]` pixels, their rows and columns.

    Pixels beyond the map have the row and the column of the last one, so that everything may be loaded.
    """
    tiles = tl.cdiv(N, BLOCK)
    tile = program % tiles
    b = (program // tiles // M).to(tl.int64)
    m = program // tiles % M
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    inside = tl.minimum(pixel, N - 1)
    return b, m, tile, pixel, inside // W, inside % W


@triton.jit
def neighbour(y, x, H, W, down, right):
    """Row and column of the pixels so far away, and whether they are on the map; those that are not are moved onto it.

    A pixel that was moved is in the same window: a NaN there would have come in anyway.
    """
    yy, xx = y + down, x + right
    inside = (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
    return tl.minimum(tl.maximum(yy, 0), H - 1), tl.minimum(tl.maximum(xx, 0), W - 1), inside


@triton.jit
def image_of_head(base, strides, b, m, FIRST: tl.constexpr, UNIT: tl.constexpr):
    """Pointer to an image and head of a map. `strides[FIRST:]` are batch, rows, columns and heads in units of UNIT."""
    return base + (b * strides[FIRST] + m.to(tl.int64) * strides[FIRST + 3]) * UNIT


@triton.jit
def pixels_of(base, y, x, strides, FIRST: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr):
    """Pointers `[R]` to the pixels `(y, x)`. Strides are as in `image_of_head`.

    They are multiples of UNIT, which Triton would not know: on that depends how much it loads at once. WIDE is for maps
    whose offsets do not fit into 32 bits.
    """
    if WIDE:
        y, x = y.to(tl.int64), x.to(tl.int64)
    return base + (y * strides[FIRST + 1] + x * strides[FIRST + 2]) * UNIT


@triton.jit
def rows_of(base, row, stride, D: tl.constexpr, WIDE: tl.constexpr):
    """Pointers `[R]` to rows of `D` numbers that lie `stride` such rows apart."""
    if WIDE:
        row = row.to(tl.int64)
    return base + row * stride * D


@triton.jit
def load_tile(places, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """`[R, BLOCK_D]` in the dtype of the map, 0 beyond its channels; `places` points to the first ones."""
    d = tl.arange(0, BLOCK_D)
    return tl.load(places[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0)


@triton.jit
def load_parts(places, D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr):
    """The same as one tile of `MAIN` channels, and where there are more of them one of the `REST`.

    Where channels are what a product leaves, that saves registers and products.
    """
    main = load_tile(places, D, MAIN)
    if REST == 0:
        return (main,)
    else:
        return (main, load_tile(places + MAIN, D - MAIN, REST))


@triton.jit
def zero_parts(R: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr):
    """Parts `[R, MAIN]` and `[R, REST]` float32, all 0."""
    if REST == 0:
        return (tl.zeros([R, MAIN], tl.float32),)
    else:
        return (tl.zeros([R, MAIN], tl.float32), tl.zeros([R, REST], tl.float32))


@triton.jit
def chunks_of_parts(parts, D: tl.constexpr, C: tl.constexpr):
    """The same numbers as chunks, of which Triton does not carry back the layout."""
    chunks = ()
    for i in tl.static_range(len(parts)):
        chunks = chunks + chunks_of(parts[i], parts[i].shape[1] // C)
    return settled_chunks(chunks[: (D + C - 1) // C])


@triton.jit
def store_tile(places, values, mask, D: tl.constexpr):
    """Writes `[R, BLOCK_D]` to where `mask`, `[R]`, is true."""
    d = tl.arange(0, values.shape[1])
    values = rounded(values, places.dtype.element_ty)
    tl.store(places[:, None] + d[None, :], values, mask=mask[:, None] & (d < D)[None, :])


@triton.jit
def load_chunks(places, D: tl.constexpr, C: tl.constexpr):
    """The channels of pixels as a tuple of `[R, C]` float32."""
    chunks = ()
    for start in tl.static_range(0, D, C):
        d = start + tl.arange(0, C)
        if start + C <= D:
            chunk = tl.load(places[:, None] + d[None, :])
        else:
            chunk = tl.load(places[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0)
        chunks = chunks + (in_float32(chunk),)
    return chunks


@triton.jit
def load_row(base, D: tl.constexpr, C: tl.constexpr):
    """`D` numbers that all pixels share, as a tuple of `[1, C]` float32."""
    chunks = ()
    for start in tl.static_range(0, D, C):
        d = start + tl.arange(0, C)
        chunks = chunks + (tl.load(base + d, mask=d < D, other=0.0).to(tl.float32)[None, :],)
    return chunks


@triton.jit
def store_chunks(places, chunks, mask, D: tl.constexpr):
    """Writes chunks to where `mask`, `[R]`, is true."""
    C: tl.constexpr = chunks[0].shape[1]
    for start in tl.static_range(0, D, C):
        d = start + tl.arange(0, C)
        values = rounded(chunks[start // C], places.dtype.element_ty)
        if start + C <= D:
            tl.store(places[:, None] + d[None, :], values, mask=mask[:, None])
        else:
            tl.store(places[:, None] + d[None, :], values, mask=mask[:, None] & (d < D)[None, :])


@triton.jit
def chunks_of(tile, NUMBER: tl.constexpr):
    """The same numbers as chunks."""
    if NUMBER == 1:
        return (tile,)
    else:  # so that Triton does not read on in the other case
        half: tl.constexpr = tile.shape[1] // 2
        left, right = tl.split(tl.permute(tl.reshape(tile, [tile.shape[0], 2, half]), [0, 2, 1]))
        return chunks_of(left, NUMBER // 2) + chunks_of(right, NUMBER // 2)


@triton.jit
def dot(a, b):
    """Products `[R]` of two tuples of chunks."""
    total = a[0] * b[0]
    for i in tl.static_range(1, len(a)):
        total += a[i] * b[i]
    return tl.sum(total, 1)


@triton.jit
def add_scaled(total, factor, chunks):
    """`total + factor * chunks`, chunk by chunk; `factor` is `[R]`."""
    result = ()
    for i in tl.static_range(len(chunks)):
        result = result + (total[i] + factor[:, None] * chunks[i],)
    return result


@triton.jit
def zeros_like_chunks(chunks, NUMBER: tl.constexpr):
    """So many of the first chunks, all 0."""
    result = ()
    for i in tl.static_range(NUMBER):
        result = result + (tl.zeros(chunks[i].shape, tl.float32),)
    return result


@triton.jit
def scaled_queries(queries, embedding, scale, inverse):
    """`(q / |q| + e) * scale` as chunks."""
    result = ()
    for i in tl.static_range(len(queries)):
        result = result + (scale[:, None] * embedding[i] + (scale * inverse)[:, None] * queries[i],)
    return result


@triton.jit
def inverse_length(squares):
    """One over a length, from its square."""
    return tl.rsqrt(tl.maximum(squares, NORM_EPS * NORM_EPS))


@triton.jit
def along_unit(grad_times_unit, squares):
    """How much of the gradient of a unit vector lies along it and is lost. A vector too short is only scaled."""
    return tl.where(squares > NORM_EPS * NORM_EPS, grad_times_unit, 0.0)


@triton.jit
def softplus(x):
    """That of PyTorch, which is linear from 20 on."""
    return tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(tl.minimum(x, 20.0))))


@triton.jit
def halves(x, DTYPE: tl.constexpr):
    """`x`, float32, as the sum of two of a 16-bit dtype, each rounded to the nearest."""
    if tl.bfloat16 == DTYPE and not INTERPRETED and tl.target_info.is_cuda():
        # In pairs, as they are multiplied; Triton would take them apart and convert each by itself.
        return tl.inline_asm_elementwise(
            "{ .reg .b32 low, high; cvt.rn.bf16x2.f32 $0, $3, $2; shl.b32 low, $0, 16; and.b32 high, $0, 0xffff0000; "
            "sub.f32 low, $2, low; sub.f32 high, $3, high; cvt.rn.bf16x2.f32 $1, high, low; }",
            "=&r,=r,f,f",
            [x],
            dtype=(tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=2,
        )
    else:
        high = rounded(x, DTYPE)
        return high, rounded(x - high.to(tl.float32), DTYPE)


@triton.jit
def in_float32(x):
    """16-bit numbers as float32."""
    if x.dtype == tl.bfloat16 and not INTERPRETED and tl.target_info.is_cuda():
        return tl.inline_asm_elementwise(  # in pairs again: an instruction for each
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;",
            "=&r,=r,r",
            [x],
            dtype=tl.float32,
            is_pure=True,
            pack=2,
        )
    else:
        return x.to(tl.float32)


@triton.jit
def rounded(x, DTYPE: tl.constexpr):
    """float32 rounded to the nearest of a dtype. The interpreter, which cuts off, gets bfloat16 as float32."""
    if INTERPRETED and DTYPE == tl.bfloat16:  # noqa: SIM300 - a parameter
        bits = x.to(tl.int32, bitcast=True)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def scale_of_queries(temperature, length):
    """What unit queries are multiplied by; above 0, so that it times minus infinity is no NaN."""
    scale = softplus(temperature) * length
    return tl.where(scale < 1e-30, 1e-30, scale)


@triton.jit
def rows_times_rows(a, b, PRECISION: tl.constexpr):
    """Products `[A, B]` float32 of rows `[A, D]` and `[B, D]` of one dtype, which is exact for 16-bit ones."""
    if INTERPRETED:  # it takes the bits of bfloat16 for whole numbers there
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, tl.trans(b), input_precision=PRECISION)


@triton.jit
def key_factors(factors, p, P4):
    """Of pooled keys: one over the length, the product with the query embedding; minus infinity where there is none."""
    of_key = tl.load(factors + p, mask=p < P4, other=0.0)
    return of_key, tl.load(factors + P4 + p, mask=p < P4, other=float("-inf"))


@triton.jit
def weighted_sum(weights, rows, total, PRECISION: tl.constexpr, BOUNDED: tl.constexpr):
    """`total` plus products `[A, D]` of weights `[A, B]` float32 and rows `[B, D]` as they come.

    16-bit rows are multiplied as they are, by weights that are the sum of two 16-bit numbers: 2e-6 of error. Where
    PRECISION is "tf32", which nothing asks for but a measurement, weights are rounded to one. float16 has a short
    range, and takes part where weights are BOUNDED, by 2 ** 14 or so and not all tiny.
    """
    if rows.dtype == tl.float32 or (rows.dtype == tl.float16 and not BOUNDED):
        return tl.dot(weights, rows.to(tl.float32), total, input_precision=PRECISION)
    if PRECISION == "tf32":
        weights = rounded(weights, rows.dtype)
        if INTERPRETED:
            weights, rows = weights.to(tl.float32), rows.to(tl.float32)
        return tl.dot(weights, rows, total)
    high, low = halves(weights, rows.dtype)
    if INTERPRETED:
        high, low, rows = high.to(tl.float32), low.to(tl.float32), rows.to(tl.float32)
    return tl.dot(low, rows, tl.dot(high, rows, total))


@triton.jit
def weighted_parts(weights, rows, totals, PRECISION: tl.constexpr, BOUNDED: tl.constexpr):
    """`weighted_sum` of each of the parts."""
    result = ()
    for i in tl.static_range(len(rows)):
        result = result + (weighted_sum(weights, rows[i], totals[i], PRECISION, BOUNDED),)
    return result


@triton.jit
def rough_parts(weights, rows, totals):
    """`rough_sum` of each of the parts."""
    result = ()
    for i in tl.static_range(len(rows)):
        result = result + (rough_sum(weights, rows[i], totals[i]),)
    return result


@triton.jit
def rough_sum(weights, rows, total):
    """`total` plus the same products, in bfloat16 alone, for what is small beside what it is added to."""
    weights, rows = rounded(weights, tl.bfloat16), rounded(rows.to(tl.float32), tl.bfloat16)
    return tl.dot(weights, rows, total)


@triton.jit
def keys_in_sight(y, x, H, W, RADIUS: tl.constexpr):
    """Number of pixels of the window around `(y, x)` that lie on the map."""
    rows = tl.minimum(y + RADIUS, H - 1) - tl.maximum(y - RADIUS, 0) + 1
    columns = tl.minimum(x + RADIUS, W - 1) - tl.maximum(x - RADIUS, 0) + 1
    return rows * columns


@triton.jit
def log_length(y, x, H, W, P, RADIUS: tl.constexpr):
    """Logarithm of the number of keys that each query sees."""
    return tl.log((keys_in_sight(y, x, H, W, RADIUS) + P).to(tl.float32))


@triton.jit
def settled(x):
    """`x` as it is, beyond which Triton does not carry back the layout that someone wants it in."""
    if INTERPRETED or not tl.target_info.is_cuda():
        return x
    else:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=False, pack=1)


@triton.jit
def apart(x):
    """`x`, `[R]`, of which Triton does not carry the layout on to what is computed with it: that has the one of chunks.

    Otherwise all of it would take that of the products of tiles, to which every chunk would be brought.
    """
    if INTERPRETED or not tl.target_info.is_cuda():
        return x
    else:
        return tl.gather(x, tl.arange(0, x.shape[0]), 0)


@triton.jit
def settled_chunks(chunks):
    """The same for a tuple."""
    result = ()
    for i in tl.static_range(len(chunks)):
        result = result + (settled(chunks[i]),)
    return result
