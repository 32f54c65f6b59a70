"""What the kernels of attention share: unit vectors, tiles of maps, the position bias of a tile, lengths."""

import triton
import triton.language as tl

NORM_EPS = tl.constexpr(1e-12)
"""`transnext.ops.reference.NORM_EPS`; a kernel sees constants of Triton only."""

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def inverse_lengths(x):
    """One over the lengths of the rows of `[R, D]` float32, `[R]`."""
    return 1.0 / tl.maximum(tl.sqrt(tl.sum(x * x, 1)), NORM_EPS)


@triton.jit
def unit_rows(x):
    """Rows `[R, D]` divided by their lengths, float32."""
    x = x.to(tl.float32)
    return x * inverse_lengths(x)[:, None]


@triton.jit
def unit_rows_gradient(grad, unit, inverse):
    """Gradient of `x` from that of its unit vectors. A vector shorter than the smallest length is only scaled."""
    along = tl.where(inverse < 1.0 / NORM_EPS, tl.sum(grad * unit, 1), 0.0)
    return (grad - unit * along[:, None]) * inverse[:, None]


@triton.jit
def softplus(x):
    """That of PyTorch, which is linear from 20 on."""
    return tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(tl.minimum(x, 20.0))))


@triton.jit
def load_tile(base, rows, columns, stride_rows, stride_columns, channels, mask, D: tl.constexpr, WIDE: tl.constexpr):
    """`[R, BLOCK_D]` in the dtype of the map: the channels of the pixels `(rows, columns)`, 0 where masked.

    WIDE is for maps whose offsets do not fit into 32 bits.
    """
    if WIDE:
        rows = rows.to(tl.int64)
        columns = columns.to(tl.int64)
    places = base + (rows * stride_rows + columns * stride_columns)[:, None] + channels[None, :]
    return tl.load(places, mask=mask[:, None] & (channels < D)[None, :], other=0.0)


@triton.jit
def store_tile(base, pixels, channels, mask, values, stride, D: tl.constexpr, WIDE: tl.constexpr):
    """Writes `[R, BLOCK_D]` to the channels of pixels that lie `stride` apart."""
    if WIDE:
        pixels = pixels.to(tl.int64)
    places = base + (pixels * stride)[:, None] + channels[None, :]
    tl.store(places, values.to(base.dtype.element_ty), mask=mask[:, None] & (channels < D)[None, :])


@triton.jit
def rows_times_rows(a, b, PRECISION: tl.constexpr):
    """Products `[A, B]` float32 of rows `[A, D]` and `[B, D]` of one dtype, which is exact for 16-bit ones."""
    if INTERPRETED:  # it takes the bits of bfloat16 for whole numbers there
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, tl.trans(b), input_precision=PRECISION)


@triton.jit
def keys_in_sight(y, x, H, W, RADIUS: tl.constexpr):
    """How many pixels of the window around `(y, x)` lie on the map."""
    rows = tl.minimum(y + RADIUS, H - 1) - tl.maximum(y - RADIUS, 0) + 1
    columns = tl.minimum(x + RADIUS, W - 1) - tl.maximum(x - RADIUS, 0) + 1
    return rows * columns


@triton.jit
def log_length(y, x, H, W, P, RADIUS: tl.constexpr):
    """Logarithm of the number of keys that each query sees."""
    return tl.log((keys_in_sight(y, x, H, W, RADIUS) + P).to(tl.float32))


@triton.jit
def pooled_logits(
    qs, kn, table, terms, weights, y, x, p, mask, H, P_h, W, P_w, U_w, TAPS: tl.constexpr, PRECISION: tl.constexpr
):
    """Logits `[Q, P]` of scaled queries `qs` at `(y, x)` and unit pooled keys `kn`, numbered `p`.

    `table` points to the bias of the head, `[U_h, U_w]`; `terms`, `weights` and `TAPS` are those of `BiasTerms`.
    """
    bias = bias_tile(table, terms, weights, y, x, p, mask, H, P_h, W, P_w, U_w, TAPS)
    return rows_times_rows(qs, kn, PRECISION) + bias


@triton.jit
def bias_tile(table, terms, weights, y, x, p, mask, H, P_h, W, P_w, U_w, TAPS: tl.constexpr):
    """Position bias `[Q, P]` float32 of queries `(y, x)` and pooled keys `p`, 0 where masked."""
    query_rows, query_columns = y * TAPS, (H + P_h + x) * TAPS
    key_rows, key_columns = (H + p // P_w) * TAPS, (H + P_h + W + p % P_w) * TAPS
    if TAPS == 1:
        query = tl.load(terms + query_rows) * U_w + tl.load(terms + query_columns)
        key = tl.load(terms + key_rows) * U_w + tl.load(terms + key_columns)
        return tl.load(table + query[:, None] - key[None, :], mask=mask, other=0.0).to(tl.float32)
    bias = tl.zeros([y.shape[0], p.shape[0]], tl.float32)
    for tap in range(TAPS * TAPS * TAPS * TAPS):
        row, column = query_rows + tap % TAPS, query_columns + tap // TAPS % TAPS
        query = tl.load(terms + row) * U_w + tl.load(terms + column)
        of_query = tl.load(weights + row) * tl.load(weights + column)
        row, column = key_rows + tap // (TAPS * TAPS) % TAPS, key_columns + tap // (TAPS * TAPS * TAPS)
        key = tl.load(terms + row) * U_w + tl.load(terms + column)
        of_key = tl.load(weights + row) * tl.load(weights + column)
        entry = tl.load(table + query[:, None] - key[None, :], mask=mask, other=0.0).to(tl.float32)
        bias += of_query[:, None] * of_key[None, :] * entry
    return bias
