"""The gradient of aggregated attention by pooled key and for the position bias; see `attention_backward`.

Shape legend: `N = H * W` queries, `P = P_h * P_w` pooled keys, `M` heads, `D` channels of a head; `N4` and `P4` are
rounded up to multiples of 4.
"""

import triton
import triton.language as tl

from transnext.ops.triton.kernels.position_bias import (
    bias_like,
    key_term,
    load_key_places,
    query_step,
    table_of_head,
)
from transnext.ops.triton.kernels.tiles import (
    LOG2_E,
    SIZES,
    along_unit,
    image_of_head,
    inverse_length,
    key_factors,
    load_tile,
    pixels_of,
    rows_of,
    rows_times_rows,
    store_tile,
    weighted_sum,
)


@triton.jit
def query_factors(of_query, pixel, N4):
    """Of queries: log-sum-exp, infinite beyond the map, `delta`, one over the length, the scale: `[Q]` each."""
    there = pixel < N4
    return (
        tl.load(of_query + pixel, mask=there, other=float("inf")),
        tl.load(of_query + N4 + pixel, mask=there, other=0.0),
        tl.load(of_query + 2 * N4 + pixel, mask=there, other=0.0),
        tl.load(of_query + 3 * N4 + pixel, mask=there, other=1.0),
    )


@triton.jit(do_not_specialize=SIZES)
def pooled_gradient(
    grad,
    maps,
    table,
    factors,
    places,
    of_queries,
    partial_k,
    partial_v,
    partial_e,
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
    B,
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
    SPLITS,
    SIZE,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TAPS: tl.constexpr,
    PRECISION: tl.constexpr,
    SHIFT: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of the *unit* pooled keys and of the pooled values: each key asks a share of all queries.

    Writes `partial_k` and `partial_v`, `[SPLITS, B, P, M, D]` float32, and `partial_e`, `[SPLITS, B, P, M]`: that of
    the unit keys is the first plus the last times the query embedding.
    """
    strides = (q_batch, q_row, q_column, q_head, k_batch, k_row, k_column, k_head, v_batch, v_row, v_column, v_head)
    shape = (M, H, W, P_h, P_w)
    table_shape = (U_h, U_w, T_h, T_w, TP_h, TP_w)
    q, _, _, k_pool, v_pool = maps
    N = H * W
    N4 = tl.cdiv(N, 4) * 4
    P = P_h * P_w
    P4 = tl.cdiv(P, 4) * 4
    key_tiles = tl.cdiv(P, BLOCK_K)
    split = tl.program_id(0) % SPLITS
    key_tile = tl.program_id(0) // SPLITS % key_tiles
    m = tl.program_id(0) // SPLITS // key_tiles % M
    b = (tl.program_id(0) // SPLITS // key_tiles // M).to(tl.int64)
    place = key_tile * BLOCK_K + tl.arange(0, BLOCK_K)
    p = tl.minimum(place, P - 1)
    row = rows_of((b * P * M + m) * D, p, M, D, True)
    keys = load_tile(k_pool + row, D, BLOCK_D)
    values = load_tile(v_pool + row, D, BLOCK_D)
    factors += (b * M + m) * 2 * P4
    of_key, of_embedding = key_factors(factors, place, P4)
    key = load_key_places(places, p, P4, TAPS)
    table = table_of_head(table, m, shape, table_shape, TAPS)
    q = image_of_head(q, strides, b, m, 0, UNIT)
    grad += (b * N * M + m) * D
    of_queries += (b * M + m) * 4 * N4
    dkeys = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dvalues = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dembedding = tl.zeros([BLOCK_K], tl.float32)
    for start in range(split * BLOCK_Q, N, SPLITS * BLOCK_Q):
        pixel = start + tl.arange(0, BLOCK_Q)
        log_total, delta, of_length, scale = query_factors(of_queries, pixel, N4)
        pixel = tl.minimum(pixel, N - 1)
        y, x = pixel // W, pixel % W
        queries = load_tile(pixels_of(q, y, x, strides, 0, UNIT, WIDE), D, BLOCK_D)
        dout = load_tile(rows_of(grad, pixel, M, D, WIDE), D, BLOCK_D)
        logits = rows_times_rows(queries, keys, PRECISION)
        bias = bias_like(logits, table, y, x, key, shape, table_shape, TAPS)
        bias += scale[:, None] * of_embedding[None, :]
        logits = logits * of_key[None, :] * (scale * of_length)[:, None] + bias
        share = tl.exp2(logits * LOG2_E - (log_total * LOG2_E - SHIFT)[:, None])
        dlogits = share * (rows_times_rows(dout, values, PRECISION) - delta[:, None])
        dvalues = weighted_sum(tl.trans(share), dout, dvalues, PRECISION, True)
        dkeys = weighted_sum(tl.trans(dlogits * (scale * of_length)[:, None]), queries, dkeys, PRECISION, False)
        dembedding += tl.sum(dlogits * scale[:, None], 0)
    unshift: tl.constexpr = 2.0**-SHIFT
    part = split.to(tl.int64) * B * P * M + b * P * M + m
    row = rows_of(part * D, place, M, D, True)
    store_tile(partial_k + row, dkeys * unshift, place < P, D)
    store_tile(partial_v + row, dvalues * unshift, place < P, D)
    tl.store(partial_e + part + place * M, dembedding * unshift, mask=place < P)


@triton.jit(do_not_specialize=SIZES)
def finish_pooled_gradient(
    k_pool,
    query_embedding,
    partial_k,
    partial_v,
    partial_e,
    grad_k_pool,
    grad_v_pool,
    M,
    R,
    SPLITS,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Gradients of pooled keys and values, `[R, D]` with `R = B P M`: sums what `pooled_gradient` wrote."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    there = row < R
    row = tl.minimum(row, R - 1)
    d = tl.arange(0, BLOCK_D)
    embedding = query_embedding + (row % M * D)[:, None] + d[None, :]
    dkeys = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    dvalues = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    dembedding = tl.zeros([BLOCK_R], tl.float32)
    for split in range(SPLITS):
        part = tl.cast(split, tl.int64) * R + row
        dkeys += load_tile(partial_k + part * D, D, BLOCK_D)
        dvalues += load_tile(partial_v + part * D, D, BLOCK_D)
        dembedding += tl.load(partial_e + part)
    dunits = dkeys + dembedding[:, None] * tl.load(embedding, mask=(d < D)[None, :], other=0.0).to(tl.float32)
    keys = load_tile(k_pool + row * D, D, BLOCK_D).to(tl.float32)
    squares = tl.sum(keys * keys, 1)
    inverse = inverse_length(squares)
    along = along_unit(tl.sum(dunits * keys, 1) * inverse, squares)
    dkeys = (dunits - keys * (inverse * along)[:, None]) * inverse[:, None]
    store_tile(grad_k_pool + row * D, dkeys, there, D)
    store_tile(grad_v_pool + row * D, dvalues, there, D)


@triton.jit(do_not_specialize=SIZES)
def bias_gradient(
    grad,
    maps,
    table,
    factors,
    places,
    of_queries,
    dense,
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
    B,
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
    first_row,
    num_rows,
    SPLITS,
    SIZE,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TAPS: tl.constexpr,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of the position bias of some rows of queries, summed over a share of the images.

    Writes `dense`, `[SPLITS, M, P, num_rows * W]` float32.
    """
    strides = (q_batch, q_row, q_column, q_head, k_batch, k_row, k_column, k_head, v_batch, v_row, v_column, v_head)
    shape = (M, H, W, P_h, P_w)
    table_shape = (U_h, U_w, T_h, T_w, TP_h, TP_w)
    q, _, _, k_pool, v_pool = maps
    N = H * W
    N4 = tl.cdiv(N, 4) * 4
    P = P_h * P_w
    P4 = tl.cdiv(P, 4) * 4
    pixels = num_rows * W
    tiles = tl.cdiv(pixels, BLOCK_Q)
    key_tiles = tl.cdiv(P, BLOCK_K)
    tile = tl.program_id(0) % tiles
    key_tile = tl.program_id(0) // tiles % key_tiles
    m = tl.program_id(0) // tiles // key_tiles % M
    split = tl.program_id(0) // tiles // key_tiles // M
    place = key_tile * BLOCK_K + tl.arange(0, BLOCK_K)
    p = tl.minimum(place, P - 1)
    query = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    pixel = first_row * W + tl.minimum(query, pixels - 1)
    y, x = pixel // W, pixel % W
    table = table_of_head(table, m, shape, table_shape, TAPS)
    key = load_key_places(places, p, P4, TAPS)
    dbias = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
    bias = bias_like(dbias, table, y, x, key, shape, table_shape, TAPS)
    for image in range(split, B, SPLITS):
        b = tl.cast(image, tl.int64)
        log_total, delta, of_length, scale = query_factors(of_queries + (b * M + m) * 4 * N4, pixel, N4)
        of_key, of_embedding = key_factors(factors + (b * M + m) * 2 * P4, place, P4)
        row = rows_of((b * P * M + m) * D, p, M, D, True)
        queries = pixels_of(image_of_head(q, strides, b, m, 0, UNIT), y, x, strides, 0, UNIT, WIDE)
        dout = load_tile(rows_of(grad + (b * N * M + m) * D, pixel, M, D, WIDE), D, BLOCK_D)
        logits = rows_times_rows(load_tile(queries, D, BLOCK_D), load_tile(k_pool + row, D, BLOCK_D), PRECISION)
        logits *= of_key[None, :] * (scale * of_length)[:, None]
        logits += bias + scale[:, None] * of_embedding[None, :]
        share = tl.exp2(logits * LOG2_E - (log_total * LOG2_E)[:, None])
        dweights = rows_times_rows(dout, load_tile(v_pool + row, D, BLOCK_D), PRECISION)
        dbias += share * (dweights - delta[:, None])
    entries = ((split * M + m).to(tl.int64) * P + place)[None, :] * pixels + query[:, None]
    tl.store(dense + entries, dbias, mask=(query < pixels)[:, None] & (place < P)[None, :])


@triton.jit(do_not_specialize=SIZES)
def fold_bias_gradient(
    dense,
    table_gradient,
    M,
    H,
    W,
    P_h,
    P_w,
    U_h,
    U_w,
    first_row,
    num_rows,
    SPLITS,
    EVEN: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """Adds what `bias_gradient` wrote to `[M, U_h, U_w]` float32: each entry of the table asks all of its pairs.

    Of a table that is resized these are the pairs of the size that it is made for.
    """
    u_tiles = tl.cdiv(U_w, BLOCK_U)
    u_x = tl.program_id(0) % u_tiles * BLOCK_U + tl.arange(0, BLOCK_U)
    u_y = tl.program_id(0) // u_tiles % U_h
    m = tl.program_id(0) // u_tiles // U_h
    wanted = u_x < U_w
    pixels = num_rows * W
    step_y, step_x = query_step(H, P_h), query_step(W, P_w)
    total = tl.zeros([BLOCK_U], tl.float32)
    for p_y in range(P_h):
        # The entry is `row * step_y - key_term`.
        ahead_y = u_y + key_term(p_y, H, P_h, EVEN)
        row = ahead_y // step_y - first_row
        if (ahead_y >= 0) & (ahead_y % step_y == 0) & (row >= 0) & (row < num_rows):
            for p_x in range(P_w):
                ahead_x = u_x + key_term(p_x, W, P_w, EVEN)
                column = ahead_x // step_x
                hit = wanted & (ahead_x >= 0) & (ahead_x % step_x == 0) & (column < W)
                column = tl.where(hit, column, 0)
                for split in range(SPLITS):
                    pairs = ((split * M + m).to(tl.int64) * P_h * P_w + p_y * P_w + p_x) * pixels
                    total += tl.load(dense + pairs + row * W + column, mask=hit, other=0.0)
    entry = table_gradient + (m * U_h + u_y) * U_w + u_x
    tl.store(entry, tl.load(entry, mask=wanted, other=0.0) + total, mask=wanted)
