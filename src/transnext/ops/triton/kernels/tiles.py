"""Parts that the kernels of attention share: unit vectors, tiles of maps, the position bias of a tile, lengths."""

import triton
import triton.language as tl

NORM_EPS = tl.constexpr(1e-12)
"""`transnext.ops.reference.NORM_EPS`; a kernel sees constants of Triton only."""

SIZES = [
    *("B", "M", "H", "W", "R", "P", "P_h", "P_w", "U_h", "U_w", "T_h", "T_w", "TP_h", "TP_w"),
    *("SIZE", "SPLITS", "first_row", "num_rows"),
]
"""Arguments for whose values nothing is compiled anew, be they 1 or multiples of 16. Strides are not among them."""

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
    """Number of pixels of the window around `(y, x)` that lie on the map."""
    rows = tl.minimum(y + RADIUS, H - 1) - tl.maximum(y - RADIUS, 0) + 1
    columns = tl.minimum(x + RADIUS, W - 1) - tl.maximum(x - RADIUS, 0) + 1
    return rows * columns


@triton.jit
def log_length(y, x, H, W, P, RADIUS: tl.constexpr):
    """Logarithm of the number of keys that each query sees."""
    return tl.log((keys_in_sight(y, x, H, W, RADIUS) + P).to(tl.float32))


@triton.jit
def pooled_logits(qs, kn, table, y, x, p, mask, sizes, TAPS: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr):
    """Logits `[Q, P]` of scaled queries `qs` and unit pooled keys `kn`; what follows is as in `bias_tile`."""
    return rows_times_rows(qs, kn, PRECISION) + bias_tile(table, y, x, p, mask, sizes, TAPS, EVEN)


@triton.jit
def query_step(N, P):
    """Entries of the bias table between neighbouring queries of an axis of `N` queries and `P` pooled keys."""
    return tl.where(N % P == 0, 1, 2)


@triton.jit
def key_term(p, N, P, EVEN: tl.constexpr):
    """Subtracted from `i * query_step(N, P)`, gives the entry of the bias table of query `i` and pooled key `p`.

    It is what `transnext.ops.position_bias` calls `(start + end - 1 - far) // step`. Bin `p` begins at `start`; `end`
    is `start + N // P`, or one or two more where `P` does not divide `N`. EVEN says that it does, and saves a division.
    """
    if EVEN:
        return (p + 1) * (N // P) - N
    rest = N % P
    start = p * N // P
    wider = (p * N - start * P + rest > P).to(tl.int32)
    return tl.where(rest == 0, start + N // P - N, 2 * start + N // P + wider - 2 * (N - 1))


@triton.jit
def resized_place(i, size_in, size_out):
    """Position left of place `i` of `size_out` that are resized linearly from `size_in`, and the weight of the next."""
    place = tl.maximum((2 * i + 1) * size_in - size_out, 0)  # in units of 1 / (2 * size_out)
    left = place // (2 * size_out)
    return left, (place - left * 2 * size_out).to(tl.float32) / (2 * size_out).to(tl.float32)


@triton.jit
def either(number, bit, of_0, of_1):
    """One of two by a bit of a number."""
    return tl.where((number >> bit) % 2 == 0, of_0, of_1)


@triton.jit
def bias_tile(table, y, x, p, mask, sizes, TAPS: tl.constexpr, EVEN: tl.constexpr):
    """Position bias `[Q, P]` float32 of queries `(y, x)` and pooled keys `p`, 0 where masked.

    `table` points to the bias of the head, `[U_h, U_w]`, made for `T_h T_w` queries and `TP_h TP_w` keys. TAPS is 1
    where those are the sizes of the map, and 2 where the bias is resized from there. EVEN says that the numbers of keys
    divide those of queries.
    """
    H, W, P_h, P_w, U_w, T_h, T_w, TP_h, TP_w = sizes
    step_y, step_x = query_step(T_h, TP_h) * U_w, query_step(T_w, TP_w)
    p_y, p_x = p // P_w, p % P_w
    if TAPS == 1:
        key = key_term(p_y, H, P_h, EVEN) * U_w + key_term(p_x, W, P_w, EVEN)
        return tl.load(table + (y * step_y + x * step_x)[:, None] - key[None, :], mask=mask, other=0.0).to(tl.float32)
    y, of_lower = resized_place(y, T_h, H)
    x, of_right = resized_place(x, T_w, W)
    upper, lower = y * step_y, tl.minimum(y + 1, T_h - 1) * step_y
    left, right = x * step_x, tl.minimum(x + 1, T_w - 1) * step_x
    p_y, of_lower_key = resized_place(p_y, TP_h, P_h)
    p_x, of_right_key = resized_place(p_x, TP_w, P_w)
    upper_key = key_term(p_y, T_h, TP_h, EVEN) * U_w
    lower_key = key_term(tl.minimum(p_y + 1, TP_h - 1), T_h, TP_h, EVEN) * U_w
    left_key = key_term(p_x, T_w, TP_w, EVEN)
    right_key = key_term(tl.minimum(p_x + 1, TP_w - 1), T_w, TP_w, EVEN)
    bias = tl.zeros([y.shape[0], p.shape[0]], tl.float32)
    for tap in range(16):
        query = either(tap, 0, upper, lower) + either(tap, 1, left, right)
        of_query = either(tap, 0, 1.0 - of_lower, of_lower) * either(tap, 1, 1.0 - of_right, of_right)
        key = either(tap, 2, upper_key, lower_key) + either(tap, 3, left_key, right_key)
        of_key = either(tap, 2, 1.0 - of_lower_key, of_lower_key) * either(tap, 3, 1.0 - of_right_key, of_right_key)
        entry = tl.load(table + query[:, None] - key[None, :], mask=mask, other=0.0).to(tl.float32)
        bias += of_query[:, None] * of_key[None, :] * entry
    return bias
