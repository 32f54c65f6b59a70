"""Aggregated attention: one program for each tile of queries of a head, and one kernel before it for what all need.

Shape legend: `N = H * W` queries, `P = P_h * P_w` pooled keys, `M` heads, `D` channels of a head, `K` neighbours. `P4`
is `P` rounded up to a multiple of 4, so that rows of so many numbers are aligned.

Queries and keys are multiplied as they are, which is exact for 16-bit ones, and logits made of the products by
factors of rows and columns: with `a = scale / |q|` and `c = 1 / |k|` they are `a (q . k) c + scale (e . k) c + bias`.
"""

# ruff: noqa: RUF005 - Triton knows sums of tuples, and no unpacking in them.
# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

from transnext.ops.triton.kernels.position_bias import (
    bias_like,
    load_key_places,
    store_key_places,
    table_of_head,
)
from transnext.ops.triton.kernels.tiles import (
    LOG2_E,
    SIZES,
    add_scaled,
    apart,
    chunks_of_parts,
    dot,
    image_of_head,
    inverse_length,
    key_factors,
    load_chunks,
    load_parts,
    load_row,
    load_tile,
    log_length,
    neighbour,
    pixels_of,
    rows_of,
    rows_times_rows,
    scale_of_queries,
    scaled_queries,
    store_chunks,
    tile_of_pixels,
    weighted_parts,
    zero_parts,
    zeros_like_chunks,
)


@triton.jit(do_not_specialize=SIZES)
def attention_factors(
    k_pool,
    query_embedding,
    tokens,
    factors,
    places,
    tokens_by_tap,
    M,
    H,
    W,
    P_h,
    P_w,
    U_h,
    U_w,
    T_h,
    T_w,
    TP_h,
    TP_w,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TAPS: tl.constexpr,
    EVEN: tl.constexpr,
    RADIUS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """What programs of the other kernels would all compute again.

    Writes `factors`, `[B, M, 2, P4]` float32: one over the lengths of the pooled keys, and the products of unit keys
    and the query embedding; beyond `P` 0 and minus infinity, so that weights there are 0. Also `places`, where
    keys read the bias table (see `store_key_places`); and `tokens`, `[M, D, K]`, with channels last, `[M, K, D]`
    float32.
    """
    shape = (M, H, W, P_h, P_w)
    table_shape = (U_h, U_w, T_h, T_w, TP_h, TP_w)
    P = P_h * P_w
    P4 = tl.cdiv(P, 4) * 4
    b, m, tile, place, _, p = tile_of_pixels(tl.program_id(0), M, P, P, BLOCK_K)
    keys = load_tile(rows_of(k_pool + (b * P * M + m) * D, p, M, D, True), D, BLOCK_D).to(tl.float32)
    d = tl.arange(0, BLOCK_D)
    embedding = tl.load(query_embedding + m * D + d, mask=d < D, other=0.0).to(tl.float32)
    inverse = tl.where(place < P, inverse_length(tl.sum(keys * keys, 1)), 0.0)
    row = factors + (b * M + m) * 2 * P4 + place
    tl.store(row, inverse, mask=place < P4)
    with_embedding = tl.sum(keys * embedding[None, :], 1) * inverse
    tl.store(row + P4, tl.where(place < P, with_embedding, float("-inf")), mask=place < P4)
    if b == 0:
        if m == 0:
            store_key_places(places, place, p, shape, table_shape, P4, TAPS, EVEN)
        if tile == 0:
            K: tl.constexpr = (2 * RADIUS + 1) * (2 * RADIUS + 1)
            for o in range(K):
                token = tl.load(tokens + (m * D + d) * K + o, mask=d < D, other=0.0).to(tl.float32)
                tl.store(tokens_by_tap + (m * K + o) * D + d, token, mask=d < D)


@triton.jit(do_not_specialize=SIZES)
def attention_forward(
    maps,
    parameters,
    factors,
    places,
    out,
    log_sum,
    q_batch,
    q_row,
    q_column,
    q_head,
    k_batch,
    k_row,
    k_column,
    k_head,
    v_batch,
    v_row,
    v_column,
    v_head,
    M,
    H,
    W,
    P_h,
    P_w,
    U_h,
    U_w,
    T_h,
    T_w,
    TP_h,
    TP_w,
    SIZE,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    RADIUS: tl.constexpr,
    TAPS: tl.constexpr,
    PRECISION: tl.constexpr,
    SHIFT: tl.constexpr,
    C: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Writes `out`, `[B, N, M, D]` contiguous, and `log_sum`, `[B, M, N]` float32: that of the exponentials of logits.

    Args:
        maps: `q`, `k`, `v`, any strides; `k_pool` and `v_pool`, `[B, P, M, D]` contiguous.
        parameters: Query embedding, temperature, local bias, tokens `[M, K, D]` float32, token bias, bias table
            (float32; where TAPS is 2, what `resize_rows` made of it).
        factors: As `attention_factors` writes them.
        places: Those as well.
        out: Written.
        log_sum: Written.
        q_batch: Stride of `q`, in units of UNIT.
        q_row: Stride of `q`, in units of UNIT.
        q_column: Stride of `q`, in units of UNIT.
        q_head: Stride of `q`, in units of UNIT.
        k_batch: Stride of `k`, in units of UNIT.
        k_row: Stride of `k`, in units of UNIT.
        k_column: Stride of `k`, in units of UNIT.
        k_head: Stride of `k`, in units of UNIT.
        v_batch: Stride of `v`, in units of UNIT.
        v_row: Stride of `v`, in units of UNIT.
        v_column: Stride of `v`, in units of UNIT.
        v_head: Stride of `v`, in units of UNIT.
        M: Heads. Sizes are no tuples: Triton would compile anew for some values in one.
        H: Rows of queries.
        W: Columns of queries.
        P_h: Rows of pooled keys.
        P_w: Columns of pooled keys.
        U_h: Rows of the bias table.
        U_w: Columns of the bias table.
        T_h: Rows of the queries that it is made for.
        T_w: Columns of these.
        TP_h: Rows of the pooled keys that it is made for.
        TP_w: Columns of these.
        SIZE: For the choice of tile sizes alone, as in all kernels.
        D: Channels.
        BLOCK_D: Of a tile.
        MAIN: See `load_parts`.
        REST: Likewise.
        RADIUS: Of the window.
        TAPS: See `query_places`.
        PRECISION: Of products of float32.
        SHIFT: Weights are multiplied by 2 to this before they are rounded: float16 has no small numbers.
        C: Channels of a chunk.
        UNIT: Of strides.
        WIDE: See `pixels_of`.
        BLOCK_Q: Queries of a program.
        BLOCK_K: Pooled keys at once.
    """
    strides = (q_batch, q_row, q_column, q_head, k_batch, k_row, k_column, k_head, v_batch, v_row, v_column, v_head)
    SIDE: tl.constexpr = 2 * RADIUS + 1
    K: tl.constexpr = SIDE * SIDE
    shape = (M, H, W, P_h, P_w)
    table_shape = (U_h, U_w, T_h, T_w, TP_h, TP_w)
    q, k, v, k_pool, v_pool = maps
    query_embedding, temperature, local_bias, tokens, token_bias, table = parameters
    N = H * W
    P = P_h * P_w
    P4 = tl.cdiv(P, 4) * 4
    b, m, _, pixel, y, x = tile_of_pixels(tl.program_id(0), M, N, W, BLOCK_Q)
    query = pixels_of(image_of_head(q, strides, b, m, 0, UNIT), y, x, strides, 0, UNIT, WIDE)
    queries = load_chunks(query, D, C)
    inverse = inverse_length(dot(queries, queries))
    scale = scale_of_queries(tl.load(temperature + m).to(tl.float32), log_length(y, x, H, W, P, RADIUS))

    # Pooled keys come first: every query sees them, so that its largest logit is finite from then on.
    query_tile = load_tile(query, D, BLOCK_D)
    largest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    mixed = zero_parts(BLOCK_Q, MAIN, REST)
    k_pool += (b * P * M + m) * D
    v_pool += (b * P * M + m) * D
    factors += (b * M + m) * 2 * P4
    table = table_of_head(table, m, shape, table_shape, TAPS)
    for start in range(0, P, BLOCK_K):
        p = start + tl.arange(0, BLOCK_K)
        row = tl.minimum(p, P - 1)
        of_key, of_embedding = key_factors(factors, p, P4)
        logits = rows_times_rows(query_tile, load_tile(rows_of(k_pool, row, M, D, WIDE), D, BLOCK_D), PRECISION)
        bias = bias_like(logits, table, y, x, load_key_places(places, row, P4, TAPS), shape, table_shape, TAPS)
        bias += scale[:, None] * of_embedding[None, :]
        logits = logits * of_key[None, :] * (scale * inverse)[:, None] + bias
        peak = tl.maximum(largest, tl.max(logits, 1))
        shrink = tl.exp2((largest - peak) * LOG2_E)
        share = tl.exp2(logits * LOG2_E - (peak * LOG2_E - SHIFT)[:, None])
        total = total * shrink + tl.sum(share, 1)
        values = load_parts(rows_of(v_pool, row, M, D, WIDE), D, MAIN, REST)
        shrunk = ()
        for i in tl.static_range(len(mixed)):
            shrunk = shrunk + (mixed[i] * shrink[:, None],)
        mixed = weighted_parts(share, values, shrunk, PRECISION, True)
        largest = peak
    largest, total = apart(largest - SHIFT / LOG2_E), apart(total)

    # Logits of the window, and what the learnable tokens add to its weights.
    bonuses = ()
    for o in tl.static_range(K):
        bonus = dot(queries, load_row(tokens + (m * K + o) * D, D, C)) * inverse
        bonuses = bonuses + (bonus + tl.load(token_bias + m * K + o).to(tl.float32),)
    scaled = scaled_queries(queries, load_row(query_embedding + m * D, D, C), scale, inverse)
    k = image_of_head(k, strides, b, m, 4, UNIT)
    peak = largest
    window = ()
    for o in tl.static_range(K):
        yy, xx, inside = neighbour(y, x, H, W, o // SIDE - RADIUS, o % SIDE - RADIUS)
        keys = load_chunks(pixels_of(k, yy, xx, strides, 4, UNIT, WIDE), D, C)
        logits = dot(scaled, keys) * inverse_length(dot(keys, keys)) + tl.load(local_bias + m * K + o).to(tl.float32)
        window = window + (tl.where(inside, logits, float("-inf")),)
        peak = tl.maximum(peak, window[o])
    of_pooled = tl.exp2((largest - peak) * LOG2_E)
    total *= of_pooled
    for o in tl.static_range(K):
        total += tl.exp2((window[o] - peak) * LOG2_E)
    tl.store(log_sum + (b * M + m) * N + pixel, peak + tl.log(total), mask=pixel < N)

    v = image_of_head(v, strides, b, m, 8, UNIT)
    local = zeros_like_chunks(queries, len(queries))
    for o in tl.static_range(K):
        yy, xx, inside = neighbour(y, x, H, W, o // SIDE - RADIUS, o % SIDE - RADIUS)
        values = load_chunks(pixels_of(v, yy, xx, strides, 8, UNIT, WIDE), D, C)
        share = tl.exp2((window[o] - peak) * LOG2_E) / total
        local = add_scaled(local, tl.where(inside, share + bonuses[o], 0.0), values)
    local = add_scaled(local, of_pooled / total, chunks_of_parts(mixed, D, C))
    store_chunks(rows_of(out + (b * N * M + m) * D, pixel, M, D, WIDE), local, pixel < N, D)
