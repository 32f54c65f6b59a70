"""Aggregated attention: one program for each tile of queries of a head.

Shape legend: `N = H * W` queries, `P = P_h * P_w` pooled keys, `M` heads, `D` channels of a head, `K` neighbours.
"""

import triton
import triton.language as tl

from transnext.ops.triton.kernels.tiles import (
    SIZES,
    load_tile,
    log_length,
    pooled_logits,
    softplus,
    store_tile,
    unit_rows,
)


@triton.jit(do_not_specialize=SIZES)
def attention_forward(
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
    out,
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
    """Writes `out`, `[B, N, M, D]` contiguous. `k_pool` and `v_pool` are `[B, P, M, D]` contiguous.

    `SIZE` is for the choice of tile sizes alone, as in all kernels.
    """
    SIDE: tl.constexpr = 2 * RADIUS + 1
    K: tl.constexpr = SIDE * SIDE
    N = H * W
    P = P_h * P_w
    sizes = (H, W, P_h, P_w, U_w, T_h, T_w, TP_h, TP_w)
    tiles = tl.cdiv(N, BLOCK_Q)
    b = (tl.program_id(0) // tiles // M).to(tl.int64)
    m = tl.program_id(0) // tiles % M
    pixel = tl.program_id(0) % tiles * BLOCK_Q + tl.arange(0, BLOCK_Q)
    live = pixel < N
    y, x = tl.minimum(pixel, N - 1) // W, tl.minimum(pixel, N - 1) % W
    d = tl.arange(0, BLOCK_D)
    bias = table + m * U_h * U_w

    qn = unit_rows(load_tile(q + b * q_b + m * q_m, y, x, q_y, q_x, d, live, D, WIDE))
    embedding = tl.load(query_embedding + m * D + d, mask=d < D, other=0.0).to(tl.float32)
    scale = softplus(tl.load(temperature + m).to(tl.float32)) * log_length(y, x, H, W, P, RADIUS)
    qs = (qn + embedding[None, :]) * scale[:, None]

    # Pooled keys come first: every query sees them, so that its largest logit is finite from then on.
    largest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    mixed = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    pooled = (b * P * M + m) * D
    for start in range(0, P, BLOCK_K):
        p = start + tl.arange(0, BLOCK_K)
        there = p < P
        p = tl.minimum(p, P - 1)
        kn = unit_rows(load_tile(k_pool + pooled, p, p, M * D, 0, d, there, D, WIDE))
        values = load_tile(v_pool + pooled, p, p, M * D, 0, d, there, D, WIDE).to(tl.float32)
        both = live[:, None] & there[None, :]
        logits = pooled_logits(qs, kn, bias, y, x, p, both, sizes, TAPS, EVEN, PRECISION)
        logits = tl.where(there[None, :], logits, float("-inf"))
        peak = tl.maximum(largest, tl.max(logits, 1))
        shrink = tl.exp(largest - peak)
        share = tl.exp(logits - peak[:, None])
        total = total * shrink + tl.sum(share, 1)
        mixed = tl.dot(share, values, mixed * shrink[:, None], input_precision=PRECISION)
        largest = peak

    learned = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
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
        mixed = mixed * shrink[:, None] + share[:, None] * values
        largest = peak
        token = tl.load(tokens + (m * D + d) * K + o, mask=d < D, other=0.0).to(tl.float32)
        bonus = tl.sum(qn * token[None, :], 1) + tl.load(token_bias + m * K + o).to(tl.float32)
        learned += bonus[:, None] * values

    store_tile(out + (b * N * M + m) * D, pixel, d, live, mixed / total[:, None] + learned, M * D, D, WIDE)
