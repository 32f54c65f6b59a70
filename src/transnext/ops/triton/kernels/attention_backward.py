"""The gradient of aggregated attention: kernels by query, by local key, by pooled key, and for the position bias.

Each sums what is its own in a fixed order; none uses atomics. Shape legend: `N = H * W` queries, `P = P_h * P_w` pooled
keys, `M` heads, `D` channels of a head, `K` neighbours. With `A` the softmax weights and `dA` the gradients of all
weights, that of the logits is `A (dA - delta)`, `delta = sum A dA`.

`dA` is a product of the incoming gradient and values as they are: 16-bit ones need no more than 16-bit factors.
"""

import triton
import triton.language as tl

from transnext.ops.triton.kernels.tiles import (
    SIZES,
    bias_tile,
    inverse_lengths,
    key_term,
    load_tile,
    log_length,
    pooled_logits,
    query_step,
    rows_times_rows,
    softplus,
    store_tile,
    unit_rows,
    unit_rows_gradient,
)


@triton.jit(do_not_specialize=SIZES)
def query_gradient(
    grad,
    q,
    k,
    v,
    k_pool,
    v_pool,
    query_embedding,
    temperature,
    local_bias,
    tokens,
    token_bias,
    table,
    grad_q,
    log_sum,
    delta,
    partial,
    q_b,
    q_y,
    q_x,
    q_m,
    k_b,
    k_y,
    k_x,
    k_m,
    v_b,
    v_y,
    v_x,
    v_m,
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
    RADIUS: tl.constexpr,
    TAPS: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of queries and parameters; log-sum-exp of the logits and `delta` for the other kernels.

    Writes `grad_q`, `[B, N, M, D]`; `log_sum` and `delta`, `[B, M, N]` float32; and of each program its part of the
    sums over pixels, `partial`, `[B * tiles, M, D + 1 + 2 K + D K]` float32: query embedding, temperature, local bias,
    token bias, tokens. `grad`, `[B, N, M, D]`, and the pooled maps are contiguous.
    """
    SIDE: tl.constexpr = 2 * RADIUS + 1
    K: tl.constexpr = SIDE * SIDE
    N = H * W
    P = P_h * P_w
    sizes = (H, W, P_h, P_w, U_w, T_h, T_w, TP_h, TP_w)
    tiles = tl.cdiv(N, BLOCK_Q)
    tile = tl.program_id(0) % tiles
    b = (tl.program_id(0) // tiles // M).to(tl.int64)
    m = tl.program_id(0) // tiles % M
    pixel = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    live = pixel < N
    y, x = tl.minimum(pixel, N - 1) // W, tl.minimum(pixel, N - 1) % W
    d = tl.arange(0, BLOCK_D)
    bias = table + m * U_h * U_w

    queries = load_tile(q + b * q_b + m * q_m, y, x, q_y, q_x, d, live, D, WIDE).to(tl.float32)
    inverse = inverse_lengths(queries)
    qn = queries * inverse[:, None]
    embedding = tl.load(query_embedding + m * D + d, mask=d < D, other=0.0).to(tl.float32)
    raw_temperature = tl.load(temperature + m).to(tl.float32)
    length = log_length(y, x, H, W, P, RADIUS)
    scale = softplus(raw_temperature) * length
    qs = (qn + embedding[None, :]) * scale[:, None]
    grad_out = load_tile(grad + (b * N * M + m) * D, pixel, pixel, M * D, 0, d, live, D, WIDE)
    dout = grad_out.to(tl.float32)
    pooled = (b * P * M + m) * D

    # Once over all keys for the log-sum-exp and delta.
    largest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    mean = tl.zeros([BLOCK_Q], tl.float32)
    for start in range(0, P, BLOCK_K):
        p = start + tl.arange(0, BLOCK_K)
        there = p < P
        p = tl.minimum(p, P - 1)
        kn = unit_rows(load_tile(k_pool + pooled, p, p, M * D, 0, d, there, D, WIDE))
        values = load_tile(v_pool + pooled, p, p, M * D, 0, d, there, D, WIDE)
        both = live[:, None] & there[None, :]
        logits = pooled_logits(qs, kn, bias, y, x, p, both, sizes, TAPS, EVEN, PRECISION)
        logits = tl.where(there[None, :], logits, float("-inf"))
        dweights = rows_times_rows(grad_out, values, PRECISION)
        peak = tl.maximum(largest, tl.max(logits, 1))
        shrink = tl.exp(largest - peak)
        share = tl.exp(logits - peak[:, None])
        total = total * shrink + tl.sum(share, 1)
        mean = mean * shrink + tl.sum(share * dweights, 1)
        largest = peak
    for o in range(K):
        yy, xx = y + o // SIDE - RADIUS, x + o % SIDE - RADIUS
        inside = live & (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
        kn = unit_rows(load_tile(k + b * k_b + m * k_m, yy, xx, k_y, k_x, d, inside, D, WIDE))
        values = load_tile(v + b * v_b + m * v_m, yy, xx, v_y, v_x, d, inside, D, WIDE).to(tl.float32)
        logits = tl.sum(qs * kn, 1) + tl.load(local_bias + m * K + o).to(tl.float32)
        logits = tl.where(inside, logits, float("-inf"))
        peak = tl.maximum(largest, logits)
        shrink = tl.exp(largest - peak)
        share = tl.exp(logits - peak)
        total = total * shrink + share
        mean = mean * shrink + share * tl.sum(dout * values, 1)
        largest = peak
    log_total = largest + tl.log(total)
    mean = mean / total
    tl.store(log_sum + (b * M + m) * N + pixel, log_total, mask=live)
    tl.store(delta + (b * M + m) * N + pixel, mean, mask=live)

    # Once more for the gradients.
    dqs = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for start in range(0, P, BLOCK_K):
        p = start + tl.arange(0, BLOCK_K)
        there = p < P
        p = tl.minimum(p, P - 1)
        kn = unit_rows(load_tile(k_pool + pooled, p, p, M * D, 0, d, there, D, WIDE))
        values = load_tile(v_pool + pooled, p, p, M * D, 0, d, there, D, WIDE)
        both = live[:, None] & there[None, :]
        logits = pooled_logits(qs, kn, bias, y, x, p, both, sizes, TAPS, EVEN, PRECISION)
        dweights = rows_times_rows(grad_out, values, PRECISION)
        share = tl.where(both, tl.exp(logits - log_total[:, None]), 0.0)
        dqs = tl.dot(share * (dweights - mean[:, None]), kn, dqs, input_precision=PRECISION)

    SUMS: tl.constexpr = D + 1 + 2 * K + D * K
    sums = partial + ((b * tiles + tile) * M + m) * SUMS
    dqn = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for o in range(K):
        yy, xx = y + o // SIDE - RADIUS, x + o % SIDE - RADIUS
        inside = live & (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
        kn = unit_rows(load_tile(k + b * k_b + m * k_m, yy, xx, k_y, k_x, d, inside, D, WIDE))
        values = load_tile(v + b * v_b + m * v_m, yy, xx, v_y, v_x, d, inside, D, WIDE).to(tl.float32)
        logits = tl.sum(qs * kn, 1) + tl.load(local_bias + m * K + o).to(tl.float32)
        dweights = tl.sum(dout * values, 1)
        dlogits = tl.where(inside, tl.exp(logits - log_total) * (dweights - mean), 0.0)
        dqs += dlogits[:, None] * kn
        token = tl.load(tokens + (m * D + d) * K + o, mask=d < D, other=0.0).to(tl.float32)
        dqn += dweights[:, None] * token[None, :]
        tl.store(sums + D + 1 + o, tl.sum(dlogits, 0))
        tl.store(sums + D + 1 + K + o, tl.sum(dweights, 0))
        tl.store(sums + D + 1 + 2 * K + d * K + o, tl.sum(qn * dweights[:, None], 0), mask=d < D)

    tl.store(sums + d, tl.sum(dqs * scale[:, None], 0), mask=d < D)
    dscale = tl.sum(dqs * (qn + embedding[None, :]), 1)
    dscale = tl.where(live, dscale * length, 0.0)
    tl.store(sums + D, tl.sum(dscale, 0) * tl.sigmoid(raw_temperature))
    dq = unit_rows_gradient(dqn + dqs * scale[:, None], qn, inverse)
    store_tile(grad_q + (b * N * M + m) * D, pixel, d, live, dq, M * D, D, WIDE)


@triton.jit(do_not_specialize=SIZES)
def local_gradient(
    grad,
    q,
    k,
    v,
    query_embedding,
    temperature,
    local_bias,
    tokens,
    token_bias,
    log_sum,
    delta,
    grad_k,
    grad_v,
    q_b,
    q_y,
    q_x,
    q_m,
    k_b,
    k_y,
    k_x,
    k_m,
    v_b,
    v_y,
    v_x,
    v_m,
    M,
    H,
    W,
    P,
    SIZE,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    RADIUS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """Gradients of the keys and values of the map, `[B, N, M, D]`: each pixel asks the queries that see it."""
    SIDE: tl.constexpr = 2 * RADIUS + 1
    K: tl.constexpr = SIDE * SIDE
    N = H * W
    tiles = tl.cdiv(N, BLOCK_Q)
    b = (tl.program_id(0) // tiles // M).to(tl.int64)
    m = tl.program_id(0) // tiles % M
    pixel = tl.program_id(0) % tiles * BLOCK_Q + tl.arange(0, BLOCK_Q)
    live = pixel < N
    y, x = tl.minimum(pixel, N - 1) // W, tl.minimum(pixel, N - 1) % W
    d = tl.arange(0, BLOCK_D)

    keys = load_tile(k + b * k_b + m * k_m, y, x, k_y, k_x, d, live, D, WIDE).to(tl.float32)
    inverse = inverse_lengths(keys)
    kn = keys * inverse[:, None]
    values = load_tile(v + b * v_b + m * v_m, y, x, v_y, v_x, d, live, D, WIDE).to(tl.float32)
    embedding = tl.load(query_embedding + m * D + d, mask=d < D, other=0.0).to(tl.float32)
    temperature_of_head = softplus(tl.load(temperature + m).to(tl.float32))
    dkn = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    dvalues = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for o in range(K):
        # The query of which this pixel is neighbour `o`.
        yy, xx = y - (o // SIDE - RADIUS), x - (o % SIDE - RADIUS)
        inside = live & (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
        qn = unit_rows(load_tile(q + b * q_b + m * q_m, yy, xx, q_y, q_x, d, inside, D, WIDE))
        dout = load_tile(grad + (b * N * M + m) * D, yy, xx, W * M * D, M * D, d, inside, D, WIDE).to(tl.float32)
        query = tl.where(inside, yy * W + xx, 0)
        log_total = tl.load(log_sum + (b * M + m) * N + query)
        mean = tl.load(delta + (b * M + m) * N + query)
        scale = temperature_of_head * log_length(tl.where(inside, yy, 0), tl.where(inside, xx, 0), H, W, P, RADIUS)
        qs = (qn + embedding[None, :]) * scale[:, None]
        logits = tl.sum(qs * kn, 1) + tl.load(local_bias + m * K + o).to(tl.float32)
        share = tl.where(inside, tl.exp(logits - log_total), 0.0)
        token = tl.load(tokens + (m * D + d) * K + o, mask=d < D, other=0.0).to(tl.float32)
        bonus = tl.sum(qn * token[None, :], 1) + tl.load(token_bias + m * K + o).to(tl.float32)
        dvalues += (share + bonus)[:, None] * dout
        dkn += (share * (tl.sum(dout * values, 1) - mean))[:, None] * qs

    dk = unit_rows_gradient(dkn, kn, inverse)
    store_tile(grad_k + (b * N * M + m) * D, pixel, d, live, dk, M * D, D, WIDE)
    store_tile(grad_v + (b * N * M + m) * D, pixel, d, live, dvalues, M * D, D, WIDE)


@triton.jit(do_not_specialize=SIZES)
def pooled_gradient(
    grad,
    q,
    k_pool,
    v_pool,
    query_embedding,
    temperature,
    table,
    log_sum,
    delta,
    partial_k,
    partial_v,
    q_b,
    q_y,
    q_x,
    q_m,
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
    RADIUS: tl.constexpr,
    TAPS: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of the *unit* pooled keys and of the pooled values: each key asks a share of all queries.

    Writes `partial_k` and `partial_v`, `[SPLITS, B, P, M, D]` float32.
    """
    N = H * W
    P = P_h * P_w
    sizes = (H, W, P_h, P_w, U_w, T_h, T_w, TP_h, TP_w)
    key_tiles = tl.cdiv(P, BLOCK_K)
    split = tl.program_id(0) % SPLITS
    key_tile = tl.program_id(0) // SPLITS % key_tiles
    m = tl.program_id(0) // SPLITS // key_tiles % M
    b = (tl.program_id(0) // SPLITS // key_tiles // M).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    place = key_tile * BLOCK_K + tl.arange(0, BLOCK_K)
    there = place < P
    p = tl.minimum(place, P - 1)
    bias = table + m * U_h * U_w
    pooled = (b * P * M + m) * D
    kn = unit_rows(load_tile(k_pool + pooled, p, p, M * D, 0, d, there, D, WIDE))
    values = load_tile(v_pool + pooled, p, p, M * D, 0, d, there, D, WIDE)
    embedding = tl.load(query_embedding + m * D + d, mask=d < D, other=0.0).to(tl.float32)
    temperature_of_head = softplus(tl.load(temperature + m).to(tl.float32))
    dkn = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dvalues = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    for start in range(split * BLOCK_Q, N, SPLITS * BLOCK_Q):
        pixel = start + tl.arange(0, BLOCK_Q)
        live = pixel < N
        pixel = tl.minimum(pixel, N - 1)
        y, x = pixel // W, pixel % W
        qn = unit_rows(load_tile(q + b * q_b + m * q_m, y, x, q_y, q_x, d, live, D, WIDE))
        qs = (qn + embedding[None, :]) * (temperature_of_head * log_length(y, x, H, W, P, RADIUS))[:, None]
        dout = load_tile(grad + (b * N * M + m) * D, pixel, pixel, M * D, 0, d, live, D, WIDE)
        log_total = tl.load(log_sum + (b * M + m) * N + pixel)
        mean = tl.load(delta + (b * M + m) * N + pixel)
        both = live[:, None] & there[None, :]
        logits = pooled_logits(qs, kn, bias, y, x, p, both, sizes, TAPS, EVEN, PRECISION)
        share = tl.where(both, tl.exp(logits - log_total[:, None]), 0.0)
        dweights = rows_times_rows(dout, values, PRECISION)
        dvalues = tl.dot(tl.trans(share), dout.to(tl.float32), dvalues, input_precision=PRECISION)
        dlogits = share * (dweights - mean[:, None])
        dkn = tl.dot(tl.trans(dlogits), qs, dkn, input_precision=PRECISION)
    part = (split.to(tl.int64) * B * P * M + b * P * M + m) * D
    store_tile(partial_k + part, place, d, there, dkn, M * D, D, WIDE)
    store_tile(partial_v + part, place, d, there, dvalues, M * D, D, WIDE)


@triton.jit(do_not_specialize=SIZES)
def bias_gradient(
    grad,
    q,
    k_pool,
    v_pool,
    query_embedding,
    temperature,
    table,
    log_sum,
    delta,
    dense,
    q_b,
    q_y,
    q_x,
    q_m,
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
    RADIUS: tl.constexpr,
    TAPS: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of the position bias of some rows of queries, summed over a share of the images.

    Writes `dense`, `[SPLITS, M, P, num_rows * W]` float32.
    """
    N = H * W
    P = P_h * P_w
    sizes = (H, W, P_h, P_w, U_w, T_h, T_w, TP_h, TP_w)
    pixels = num_rows * W
    tiles = tl.cdiv(pixels, BLOCK_Q)
    key_tiles = tl.cdiv(P, BLOCK_K)
    tile = tl.program_id(0) % tiles
    key_tile = tl.program_id(0) // tiles % key_tiles
    m = tl.program_id(0) // tiles // key_tiles % M
    split = tl.program_id(0) // tiles // key_tiles // M
    d = tl.arange(0, BLOCK_D)
    place = key_tile * BLOCK_K + tl.arange(0, BLOCK_K)
    there = place < P
    p = tl.minimum(place, P - 1)
    query = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    live = query < pixels
    pixel = first_row * W + tl.minimum(query, pixels - 1)
    y, x = pixel // W, pixel % W
    both = live[:, None] & there[None, :]
    embedding = tl.load(query_embedding + m * D + d, mask=d < D, other=0.0).to(tl.float32)
    scale = softplus(tl.load(temperature + m).to(tl.float32)) * log_length(y, x, H, W, P, RADIUS)
    bias = bias_tile(table + m * U_h * U_w, y, x, p, both, sizes, TAPS, EVEN)
    dbias = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
    for image in range(split, B, SPLITS):
        b = tl.cast(image, tl.int64)
        qn = unit_rows(load_tile(q + b * q_b + m * q_m, y, x, q_y, q_x, d, live, D, WIDE))
        qs = (qn + embedding[None, :]) * scale[:, None]
        dout = load_tile(grad + (b * N * M + m) * D, pixel, pixel, M * D, 0, d, live, D, WIDE)
        pooled = (b * P * M + m) * D
        kn = unit_rows(load_tile(k_pool + pooled, p, p, M * D, 0, d, there, D, WIDE))
        values = load_tile(v_pool + pooled, p, p, M * D, 0, d, there, D, WIDE)
        log_total = tl.load(log_sum + (b * M + m) * N + pixel)
        mean = tl.load(delta + (b * M + m) * N + pixel)
        logits = rows_times_rows(qs, kn, PRECISION) + bias
        dweights = rows_times_rows(dout, values, PRECISION)
        dbias += tl.where(both, tl.exp(logits - log_total[:, None]) * (dweights - mean[:, None]), 0.0)
    entries = ((split * M + m).to(tl.int64) * P + place)[None, :] * pixels + query[:, None]
    tl.store(dense + entries, dbias, mask=both)


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

    For tables that are read without resizing.
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
