"""The position bias of a tile, read from its table: places in closed form, one load each, or 16 where it is resized."""

import triton
import triton.language as tl

from transnext.ops.triton.kernels.tiles import INTERPRETED


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
def query_places(y, x, table_shape):
    """First part of the place `query - key` of a bias in its table, which is not resized: int32."""
    _, U_w, T_h, T_w, TP_h, TP_w = table_shape
    return y * query_step(T_h, TP_h) * U_w + x * query_step(T_w, TP_w)


@triton.jit
def key_places(p, shape, table_shape, EVEN: tl.constexpr):
    """Its second part."""
    _, H, W, P_h, P_w = shape
    return key_term(p // P_w, H, P_h, EVEN) * table_shape[1] + key_term(p % P_w, W, P_w, EVEN)


@triton.jit
def entries_like(x, base, rows, columns):
    """Numbers float32 at `base + rows[:, None] + columns[None, :]`, int32 whose sum is not negative, for `x`, `[R, C]`.

    They are loaded in the layout of `x`. `tl.load` has one of its own, and would go through shared memory.
    """
    if INTERPRETED or not tl.target_info.is_cuda():
        return tl.load(base + rows[:, None] + columns[None, :])
    else:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 near; .reg .b64 place; add.s32 near, $3, $4; cvt.u64.u32 place, near; "
            "add.s64 place, place, $2; ld.global.nc.f32 $0, [place]; }",
            "=f,f,l,r,r",
            [x, base.to(tl.int64), 4 * rows[:, None], 4 * columns[None, :]],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )


@triton.jit
def resized_bias(like, table, y, x, p, shape, table_shape, EVEN: tl.constexpr):
    """Position bias `[Q, P]` float32 of queries `(y, x)` and pooled keys `p` from a table that is made for other sizes.

    It is made in the layout of `like`.

    Weighted sum of 16 entries: 2x2 of the query times 2x2 of the key. `table` points to the bias of the head,
    `[U_h, U_w]`, made for `T_h T_w` queries and `TP_h TP_w` keys. EVEN says that these divide those.
    """
    _, H, W, P_h, P_w = shape
    _, U_w, T_h, T_w, TP_h, TP_w = table_shape
    step_y, step_x = query_step(T_h, TP_h) * U_w, query_step(T_w, TP_w)
    y, of_lower = resized_place(y, T_h, H)
    x, of_right = resized_place(x, T_w, W)
    upper, lower = y * step_y, tl.minimum(y + 1, T_h - 1) * step_y
    left, right = x * step_x, tl.minimum(x + 1, T_w - 1) * step_x
    p_y, of_lower_key = resized_place(p // P_w, TP_h, P_h)
    p_x, of_right_key = resized_place(p % P_w, TP_w, P_w)
    upper_key = key_term(p_y, T_h, TP_h, EVEN) * U_w
    lower_key = key_term(tl.minimum(p_y + 1, TP_h - 1), T_h, TP_h, EVEN) * U_w
    left_key = key_term(p_x, T_w, TP_w, EVEN)
    right_key = key_term(tl.minimum(p_x + 1, TP_w - 1), T_w, TP_w, EVEN)
    bias = tl.zeros([y.shape[0], p.shape[0]], tl.float32)
    for tap in range(tl.minimum(H, 1) * 16):  # 16, which may not be known: it would be unrolled and want more registers
        query = either(tap, 0, upper, lower) + either(tap, 1, left, right)
        of_query = either(tap, 0, 1.0 - of_lower, of_lower) * either(tap, 1, 1.0 - of_right, of_right)
        key = either(tap, 2, upper_key, lower_key) + either(tap, 3, left_key, right_key)
        of_key = either(tap, 2, 1.0 - of_lower_key, of_lower_key) * either(tap, 3, 1.0 - of_right_key, of_right_key)
        bias += of_query[:, None] * of_key[None, :] * entries_like(like, table, query, -key)
    return bias


@triton.jit
def bias_like(logits, table, y, x, p, key, shape, table_shape, TAPS: tl.constexpr, EVEN: tl.constexpr):
    """Position bias of queries `(y, x)` and pooled keys `p` for their `logits`, `[Q, P]` float32.

    `key` holds the `key_places` of `p`. TAPS is 1 where the table is made for the sizes of the map, else 2.
    Neighbouring lanes have neighbouring queries, whose entries lie next to one another.
    """
    if TAPS == 1:
        return entries_like(logits, table, query_places(y, x, table_shape), -key)
    else:
        return resized_bias(logits, table, y, x, p, shape, table_shape, EVEN)
