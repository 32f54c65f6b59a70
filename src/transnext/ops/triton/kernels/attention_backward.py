"""The gradient of aggregated attention by query and by local key; `attention_pooled_backward` has the other kernels.

Each sums what is its own in a fixed order; none uses atomics. Shape legend: `N = H * W` queries, `P = P_h * P_w` pooled
keys, `M` heads, `D` channels of a head, `K` neighbours; `N4` and `P4` are rounded up to multiples of 4. With `A` the
softmax weights and `dA` the gradients of all weights, that of the logits is `A (dA - delta)`, `delta = sum A dA`.

Arguments that `attention_forward` has too are described there.
"""

# ruff: noqa: RUF005 - Triton knows sums of tuples, and no unpacking in them.
# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

from transnext.ops.triton.kernels.position_bias import bias_like, load_key_places, table_of_head
from transnext.ops.triton.kernels.tiles import (
    LOG2_E,
    SIZES,
    add_scaled,
    along_unit,
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
    of_unknown_origin,
    pixels_of,
    rough_parts,
    rows_of,
    rows_times_rows,
    scale_of_queries,
    scaled_queries,
    store_chunks,
    tile_of_pixels,
    weighted_parts,
    weighted_sum,
    zero_parts,
    zeros_like_chunks,
)


@triton.jit(do_not_specialize=SIZES)
def query_gradient(
    grad,
    out,
    maps,
    parameters,
    factors,
    places,
    log_sum,
    grad_q,
    of_queries,
    of_window,
    partial,
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
    C: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of queries and parameters, and what the other kernels want to know of a query.

    Writes `grad_q`, `[B, N, M, D]`; `of_queries`, `[B, M, 4, N4]` float32: log-sum-exp (infinite beyond `N`, so that
    weights are 0), `delta`, one over the length of the query, the scale of the unit query; `of_window`,
    `[B, M, 2 K, N4]` float32: weights of the neighbours, those of the learnable tokens among them, and gradients of
    their logits; and of each program its part of the sums over pixels, `partial`, `[B * tiles, M, D + 1 + 2 K + D K]`
    float32: query embedding, temperature, local bias, token bias, tokens with channels last. `grad` and `out`,
    `[B, N, M, D]`, are contiguous.

    Pooled keys are gone through once. `out` was rounded, so that the `delta` which it gives is a guess; what is added
    to the gradient of a query with it is corrected by the mean of the keys times what the guess was off by.
    BLOCK_T is a power of two from K on, and at least 16.
    """
    strides = (q_batch, q_row, q_column, q_head, k_batch, k_row, k_column, k_head, v_batch, v_row, v_column, v_head)
    SIDE: tl.constexpr = 2 * RADIUS + 1
    K: tl.constexpr = SIDE * SIDE
    SUMS: tl.constexpr = D + 1 + 2 * K + D * K
    CHUNKS: tl.constexpr = (D + C - 1) // C
    shape = (M, H, W, P_h, P_w)
    table_shape = (U_h, U_w, T_h, T_w, TP_h, TP_w)
    q, k, v, k_pool, v_pool = maps
    query_embedding, temperature, local_bias, tokens, token_bias, table = parameters
    N = H * W
    P = P_h * P_w
    P4 = tl.cdiv(P, 4) * 4
    b, m, tile, pixel, y, x = tile_of_pixels(tl.program_id(0), M, N, W, BLOCK_Q)
    live = pixel < N
    query = pixels_of(image_of_head(q, strides, b, m, 0, UNIT), y, x, strides, 0, UNIT, WIDE)
    result = rows_of((b * N * M + m) * D, y * W + x, M, D, True)
    queries = load_chunks(query, D, C)
    inverse = inverse_length(dot(queries, queries))
    raw_temperature = tl.load(temperature + m).to(tl.float32)
    length = log_length(y, x, H, W, P, RADIUS)
    scale = scale_of_queries(raw_temperature, length)
    log_total = tl.load(log_sum + (b * M + m) * N + y * W + x)

    # Gradients of the weights of the window. The guess: the output's share of the gradient without the tokens' part.
    # In memory in between: loops that are not unrolled, as registers would want it, leave enough of those.
    N4 = tl.cdiv(N, 4) * 4
    window = of_window + (b * M + m) * 2 * K * N4 + pixel
    v = image_of_head(v, strides, b, m, 8, UNIT)
    douts = load_chunks(grad + result, D, C)
    guess = dot(douts, load_chunks(out + result, D, C))
    for o in range(K):
        yy, xx, inside = neighbour(y, x, H, W, o // SIDE - RADIUS, o % SIDE - RADIUS)
        dweight = dot(douts, load_chunks(pixels_of(v, yy, xx, strides, 8, UNIT, WIDE), D, C))
        dweight = tl.where(inside, dweight, 0.0)
        bonus = dot(queries, load_row(tokens + (m * K + o) * D, D, C)) * inverse
        guess -= (bonus + tl.load(token_bias + m * K + o).to(tl.float32)) * dweight
        tl.store(window + (K + o) * N4, dweight, mask=live)

    query_tile = load_tile(query, D, BLOCK_D)
    grad_tile = load_tile(grad + result, D, BLOCK_D)
    k_pool += (b * P * M + m) * D
    v_pool += (b * P * M + m) * D
    factors += (b * M + m) * 2 * P4
    table = table_of_head(table, m, shape, table_shape, TAPS)
    off = tl.zeros([BLOCK_Q], tl.float32)
    changed = zero_parts(BLOCK_Q, MAIN, REST)
    mean = zero_parts(BLOCK_Q, MAIN, REST)
    for start in range(0, P, BLOCK_K):
        p = start + tl.arange(0, BLOCK_K)
        row = tl.minimum(p, P - 1)
        of_key, of_embedding = key_factors(factors, p, P4)
        keys = load_tile(rows_of(k_pool, row, M, D, WIDE), D, BLOCK_D)
        values = load_tile(rows_of(v_pool, row, M, D, WIDE), D, BLOCK_D)
        logits = rows_times_rows(query_tile, keys, PRECISION)
        bias = bias_like(logits, table, y, x, load_key_places(places, row, P4, TAPS), shape, table_shape, TAPS)
        bias += scale[:, None] * of_embedding[None, :]
        logits = logits * of_key[None, :] * (scale * inverse)[:, None] + bias
        share = tl.exp2(logits * LOG2_E - (log_total * LOG2_E)[:, None])
        dlogits = share * (rows_times_rows(grad_tile, values, PRECISION) - guess[:, None])
        off += tl.sum(dlogits, 1)
        parts = load_parts(rows_of(k_pool, row, M, D, WIDE), D, MAIN, REST)
        changed = weighted_parts(dlogits * of_key[None, :], parts, changed, PRECISION, False)
        mean = rough_parts(share * of_key[None, :], parts, mean)

    off = apart(off)
    b, m, tile, pixel, y, x = tile_of_pixels(of_unknown_origin(tl.program_id(0)), M, N, W, BLOCK_Q)
    live = pixel < N
    query = pixels_of(image_of_head(q, strides, b, m, 0, UNIT), y, x, strides, 0, UNIT, WIDE)
    result = rows_of((b * N * M + m) * D, y * W + x, M, D, True)
    k = image_of_head(k, strides, b, m, 4, UNIT)
    # Queries are loaded anew where they are used, as what is in registers in between is little.
    queries = load_chunks(query, D, C)
    window = of_window + (b * M + m) * 2 * K * N4 + pixel
    scaled = scaled_queries(queries, load_row(query_embedding + m * D, D, C), scale, inverse)
    dscaled, means = chunks_of_parts(changed, D, C), chunks_of_parts(mean, D, C)
    for o in range(K):
        yy, xx, inside = neighbour(y, x, H, W, o // SIDE - RADIUS, o % SIDE - RADIUS)
        keys = load_chunks(pixels_of(k, yy, xx, strides, 4, UNIT, WIDE), D, C)
        of_key = inverse_length(dot(keys, keys))
        logits = dot(scaled, keys) * of_key + tl.load(local_bias + m * K + o).to(tl.float32)
        share = tl.where(inside, tl.exp2((logits - log_total) * LOG2_E), 0.0)
        dlogits = share * (tl.load(window + (K + o) * N4, mask=live, other=0.0) - guess)
        off += dlogits
        dscaled = add_scaled(dscaled, dlogits * of_key, keys)
        means = add_scaled(means, share * of_key, keys)
        tl.store(window + o * N4, share, mask=live)

    delta = guess + off
    of_query = of_queries + (b * M + m) * 4 * N4 + pixel
    tl.store(of_query, tl.where(live, log_total, float("inf")), mask=pixel < N4)
    tl.store(of_query + N4, delta, mask=pixel < N4)
    tl.store(of_query + 2 * N4, inverse, mask=pixel < N4)
    tl.store(of_query + 3 * N4, scale, mask=pixel < N4)

    # Sums over the pixels of the program.
    queries = load_chunks(query, D, C)
    squares = dot(queries, queries)
    inverse = inverse_length(squares)
    embedding = load_row(query_embedding + m * D, D, C)
    dscaled = add_scaled(dscaled, -off, means)
    sums = partial + ((b * tl.cdiv(N, BLOCK_Q) + tile) * M + m) * SUMS
    d = tl.arange(0, C)
    along = tl.zeros([BLOCK_Q], tl.float32)
    for i in tl.static_range(CHUNKS):
        part = tl.where(live[:, None], dscaled[i] * scale[:, None], 0.0)
        tl.store(sums + i * C + d, tl.sum(part, 0), mask=i * C + d < D)
        along += tl.sum(dscaled[i] * (queries[i] * inverse[:, None] + embedding[i]), 1)
    dtemperature = tl.sum(tl.where(live, along * length, 0.0), 0) * tl.sigmoid(raw_temperature)
    tl.store(sums + D, dtemperature)
    tl.debug_barrier()  # other threads read what was written
    tap, channel = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_D)
    of_taps = window[None, :] + tap[:, None] * N4
    there = (tap < K)[:, None] & live[None, :]
    dweights = tl.load(of_taps + K * N4, mask=there, other=0.0)
    dlogits = tl.load(of_taps, mask=there, other=0.0) * (dweights - delta[None, :])
    tl.store(sums + D + 1 + tap, tl.sum(dlogits, 1), mask=tap < K)
    tl.store(sums + D + 1 + K + tap, tl.sum(dweights, 1), mask=tap < K)
    of_tokens = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    of_tokens = weighted_sum(dweights * inverse[None, :], load_tile(query, D, BLOCK_D), of_tokens, PRECISION, False)
    of_tap = sums + D + 1 + 2 * K + tap[:, None] * D + channel[None, :]
    tl.store(of_tap, of_tokens, mask=(tap < K)[:, None] & (channel < D)[None, :])
    tl.debug_barrier()

    dunits = add_scaled(zeros_like_chunks(dscaled, CHUNKS), scale, dscaled)
    for o in range(tl.minimum(N, 1) * K):  # K, which may not be known: it would be unrolled and want more registers
        _, _, inside = neighbour(y, x, H, W, o // SIDE - RADIUS, o % SIDE - RADIUS)
        share = tl.load(window + o * N4, mask=live, other=0.0)
        dweight = tl.load(window + (K + o) * N4, mask=live, other=0.0)
        token = load_row(tokens + (m * K + o) * D, D, C)
        dunits = add_scaled(dunits, dweight, token)
        bonus = dot(queries, token) * inverse + tl.load(token_bias + m * K + o).to(tl.float32)
        tl.store(window + o * N4, share + tl.where(inside, bonus, 0.0), mask=live)
        tl.store(window + (K + o) * N4, share * (dweight - delta), mask=live)
    along = along_unit(dot(dunits, queries) * inverse, squares)
    dqueries = ()
    for i in tl.static_range(CHUNKS):
        dqueries = dqueries + ((dunits[i] - queries[i] * (inverse * along)[:, None]) * inverse[:, None],)
    store_chunks(grad_q + result, dqueries, live, D)


@triton.jit(do_not_specialize=SIZES)
def local_gradient(
    grad,
    maps,
    query_embedding,
    of_queries,
    of_window,
    grad_k,
    grad_v,
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
    SIZE,
    D: tl.constexpr,
    RADIUS: tl.constexpr,
    C: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """Gradients of the keys and values of the map, `[B, N, M, D]`: each pixel asks the queries that see it.

    What they give it is in `of_queries` and `of_window`, which `query_gradient` has written.
    """
    strides = (q_batch, q_row, q_column, q_head, k_batch, k_row, k_column, k_head, v_batch, v_row, v_column, v_head)
    SIDE: tl.constexpr = 2 * RADIUS + 1
    K: tl.constexpr = SIDE * SIDE
    CHUNKS: tl.constexpr = (D + C - 1) // C
    q, k, _, _, _ = maps
    N = H * W
    N4 = tl.cdiv(N, 4) * 4
    b, m, _, pixel, y, x = tile_of_pixels(tl.program_id(0), M, N, W, BLOCK_Q)
    keys = load_chunks(pixels_of(image_of_head(k, strides, b, m, 4, UNIT), y, x, strides, 4, UNIT, WIDE), D, C)
    q = image_of_head(q, strides, b, m, 0, UNIT)
    grad += (b * N * M + m) * D
    of_queries += (b * M + m) * 4 * N4
    of_window += (b * M + m) * 2 * K * N4
    of_embedding = tl.zeros([BLOCK_Q], tl.float32)
    dunits = zeros_like_chunks(keys, CHUNKS)
    dvalues = zeros_like_chunks(keys, CHUNKS)
    for o in range(K):
        # The query of which this pixel is neighbour `o`.
        yy, xx, inside = neighbour(y, x, H, W, RADIUS - o // SIDE, RADIUS - o % SIDE)
        query = yy * W + xx
        weight = tl.where(inside, tl.load(of_window + o * N4 + query), 0.0)
        dlogits = tl.where(inside, tl.load(of_window + (K + o) * N4 + query), 0.0)
        dlogits *= tl.load(of_queries + 3 * N4 + query)
        of_embedding += dlogits
        queries = load_chunks(pixels_of(q, yy, xx, strides, 0, UNIT, WIDE), D, C)
        dunits = add_scaled(dunits, dlogits * tl.load(of_queries + 2 * N4 + query), queries)
        dvalues = add_scaled(dvalues, weight, load_chunks(rows_of(grad, query, M, D, WIDE), D, C))

    dunits = add_scaled(dunits, of_embedding, load_row(query_embedding + m * D, D, C))
    squares = dot(keys, keys)
    inverse = inverse_length(squares)
    along = along_unit(dot(dunits, keys) * inverse, squares)
    dkeys = ()
    for i in tl.static_range(CHUNKS):
        dkeys = dkeys + ((dunits[i] - keys[i] * (inverse * along)[:, None]) * inverse[:, None],)
    result = rows_of((b * N * M + m) * D, pixel, M, D, True)
    store_chunks(grad_k + result, dkeys, pixel < N, D)
    store_chunks(grad_v + result, dvalues, pixel < N, D)
