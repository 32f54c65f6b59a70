"""The position bias of a tile, read from its table: places in closed form, one load each, or two where it is resized.

A table that is made for other sizes (interpolating mode) is resized along its rows beforehand, once for each call: what
is then read, `[H, P_h, U_w]`, has rows for the queries and pooled keys there are, and columns as they were.

Shape legend: `H`, `W` queries, `P_h`, `P_w` pooled keys, `U_h`, `U_w` table, which is made for `T_h`, `T_w` queries and
`TP_h`, `TP_w` pooled keys; `P4` is `P_h * P_w` rounded up to a multiple of 4.
"""

import triton
import triton.language as tl

from transnext.ops.triton.kernels.tiles import INTERPRETED, SIZES


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
    """Position left of place `i` of `size_out` that are resized linearly from `size_in`, and the weight of the next.

    The last has no next: its weight is 0.
    """
    place = tl.maximum((2 * i + 1) * size_in - size_out, 0)  # in units of 1 / (2 * size_out)
    of_unit = 1.0 / (2 * size_out).to(tl.float32)
    # Which may be off by 1. A division of whole numbers is left in a loop that might make no trip.
    left = (place.to(tl.float32) * of_unit).to(tl.int32)
    rest = place - left * 2 * size_out
    left += (rest >= 2 * size_out).to(tl.int32) - (rest < 0).to(tl.int32)
    of_next = (place - left * 2 * size_out).to(tl.float32) * of_unit
    return left, tl.where(left == size_in - 1, 0.0, of_next)


@triton.jit
def query_places(y, x, shape, table_shape, TAPS: tl.constexpr):
    """First part of the place `query - key` of a bias in what is read, int32, and the weight of the next query there.

    TAPS is 1 where the table is made for the sizes of the map, and nothing has to be weighted, else 2.
    """
    _, _, W, P_h, _ = shape
    _, U_w, T_h, T_w, TP_h, TP_w = table_shape
    if TAPS == 1:
        return y * query_step(T_h, TP_h) * U_w + x * query_step(T_w, TP_w), 0.0
    else:
        left, of_next = resized_place(x, T_w, W)
        return y * P_h * U_w + left * query_step(T_w, TP_w), of_next


@triton.jit
def store_key_places(places, place, p, shape, table_shape, P4, TAPS: tl.constexpr, EVEN: tl.constexpr):
    """Writes the second part for pooled keys `p` to `places`, `[P4]` int32.

    Where TAPS is 2 it is `[3, P4]`: places of the keys left and right, and the bits of the weight of the latter,
    float32. EVEN says that the table's pooled keys divide its queries.
    """
    _, H, W, P_h, P_w = shape
    _, U_w, _, T_w, _, TP_w = table_shape
    row, column = p // P_w, p % P_w
    if TAPS == 1:
        key = key_term(row, H, P_h, EVEN) * U_w + key_term(column, W, P_w, EVEN)
        tl.store(places + place, key, mask=place < P4)
    else:
        left, of_right = resized_place(column, TP_w, P_w)
        right = tl.minimum(left + 1, TP_w - 1)
        tl.store(places + place, key_term(left, T_w, TP_w, EVEN) - row * U_w, mask=place < P4)
        tl.store(places + P4 + place, key_term(right, T_w, TP_w, EVEN) - row * U_w, mask=place < P4)
        tl.store(places + 2 * P4 + place, of_right.to(tl.int32, bitcast=True), mask=place < P4)


@triton.jit
def load_key_places(places, p, P4, TAPS: tl.constexpr):
    """What `store_key_places` wrote for pooled keys `p`, as a tuple."""
    if TAPS == 1:
        return (tl.load(places + p),)
    else:
        of_right = tl.load(places + 2 * P4 + p).to(tl.float32, bitcast=True)
        return tl.load(places + p), tl.load(places + P4 + p), of_right


@triton.jit
def table_of_head(table, m, shape, table_shape, TAPS: tl.constexpr):
    """Pointer to what a head reads."""
    _, H, _, P_h, _ = shape
    if TAPS == 1:
        return table + m * table_shape[0] * table_shape[1]
    else:
        return table + m.to(tl.int64) * (2 * H * P_h * table_shape[1])


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
def pairs_like(x, base, rows, columns):
    """The same for pairs of numbers, of which a place counts as one."""
    if INTERPRETED or not tl.target_info.is_cuda():
        places = base + 2 * (rows[:, None] + columns[None, :])
        return tl.load(places), tl.load(places + 1)
    else:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 near; .reg .b64 place; add.s32 near, $4, $5; cvt.u64.u32 place, near; "
            "add.s64 place, place, $3; ld.global.nc.v2.f32 {$0, $1}, [place]; }",
            "=f,=f,f,l,r,r",
            [x, base.to(tl.int64), 8 * rows[:, None], 8 * columns[None, :]],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )


@triton.jit
def bias_like(logits, table, y, x, key, shape, table_shape, TAPS: tl.constexpr):
    """Position bias of queries `(y, x)` and pooled keys for their `logits`, `[Q, P]` float32, in the layout of those.

    `table` points to what the head reads, `key` is what `load_key_places` gives for the keys. Neighbouring lanes have
    neighbouring queries, whose entries lie next to one another.
    """
    query, of_next = query_places(y, x, shape, table_shape, TAPS)
    if TAPS == 1:
        return entries_like(logits, table, query, -key[0])
    else:
        of_left, more = pairs_like(logits, table, query, -key[0])
        of_left += of_next[:, None] * more
        of_right, more = pairs_like(logits, table, query, -key[1])
        of_right += of_next[:, None] * more
        return of_left + key[2][None, :] * (of_right - of_left)


@triton.jit(do_not_specialize=SIZES)
def resize_rows(
    table,
    resized,
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
    EVEN: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """Resizes a table, `[M, U_h, U_w]`, along its rows.

    Writes `resized`, `[M, H, P_h, U_w, 2]` float32: pairs of an entry, and of what that of the next query has more.
    """
    u_tiles = tl.cdiv(U_w, BLOCK_U)
    u = tl.program_id(0) % u_tiles * BLOCK_U + tl.arange(0, BLOCK_U)
    row = tl.program_id(0) // u_tiles * BLOCK_R + tl.arange(0, BLOCK_R)
    there = (row < M * H * P_h)[:, None] & (u < U_w)[None, :]
    row = tl.minimum(row, M * H * P_h - 1)
    upper, of_lower = resized_place(row // P_h % H, T_h, H)
    upper_key, of_lower_key = resized_place(row % P_h, TP_h, P_h)
    step = query_step(T_w, TP_w)
    has_next = there & (u + step < U_w)[None, :]
    this, following = tl.zeros([BLOCK_R, BLOCK_U], tl.float32), tl.zeros([BLOCK_R, BLOCK_U], tl.float32)
    for tap in tl.static_range(4):
        if tap % 2 == 0:
            query, of_query = upper, 1.0 - of_lower
        else:
            query, of_query = tl.minimum(upper + 1, T_h - 1), of_lower
        if tap < 2:
            key, of_key = upper_key, 1.0 - of_lower_key
        else:
            key, of_key = tl.minimum(upper_key + 1, TP_h - 1), of_lower_key
        place = (row // P_h // H) * U_h + query * query_step(T_h, TP_h) - key_term(key, T_h, TP_h, EVEN)
        entries = table + place.to(tl.int64)[:, None] * U_w + u[None, :]
        weight = (of_query * of_key)[:, None]
        this += weight * tl.load(entries, mask=there, other=0.0).to(tl.float32)
        following += weight * tl.load(entries + step, mask=has_next, other=0.0).to(tl.float32)
    pairs = resized + 2 * (row.to(tl.int64)[:, None] * U_w + u[None, :])
    tl.store(pairs, this, mask=there)
    tl.store(pairs + 1, tl.where(has_next, following - this, 0.0), mask=there)


@triton.jit(do_not_specialize=SIZES)
def resize_gradient(
    grad,
    result,
    R,
    size,
    inner,
    trained,
    trips,
    r_step,
    t_step,
    SPLITS,
    BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Gradient of linear resizing along an axis, from `trained` places to `size`: each asks the places that it gave to.

    It gave to those whose position on the trained axis is less than 1 away: 1 minus the distance is the weight. At the
    ends positions are moved onto the axis.

    Args:
        grad: `[SPLITS, R, size, inner]` float32, the first of which is summed.
        result: Written: `[R, trained, inner]` float32, the last axis contiguous.
        R: Rows.
        size: Places of the axis.
        inner: What follows it.
        trained: Places that it is resized from.
        trips: Places of the axis that one of those may have given to, at most: `2 * size / trained`, rounded up.
        r_step: Stride of the rows of `result`.
        t_step: Stride of its places.
        SPLITS: Summands.
        BLOCK_R: Rows of a program.
        BLOCK_T: Numbers of a row that it writes.
    """
    tiles = tl.cdiv(trained * inner, BLOCK_T)
    row = tl.program_id(0) // tiles * BLOCK_R + tl.arange(0, BLOCK_R)
    place = tl.program_id(0) % tiles * BLOCK_T + tl.arange(0, BLOCK_T)
    there = (row < R)[:, None] & (place < trained * inner)[None, :]
    t, i = place // inner, place % inner
    # Units are 1 / (2 * size), in which all of what matters is a whole number that float32 has.
    first = tl.maximum((2 * t - 1) * size + trained, 0) // (2 * trained)
    away = ((2 * first + 1) * trained - size - 2 * size * t).to(tl.float32)
    nearest = tl.where(t == 0, 0.0, float("-inf"))
    farthest = tl.where(t == trained - 1, 0.0, float("inf"))
    unit, step = (2 * size).to(tl.float32), (2 * trained).to(tl.float32)
    total = tl.zeros([BLOCK_R, BLOCK_T], tl.float32)
    for split in range(SPLITS):
        part = grad + (tl.cast(split, tl.int64) * R + row)[:, None] * size * inner
        part += (first * inner + i)[None, :]
        distance = away
        for j in range(trips):
            weight = tl.maximum(unit - tl.abs(tl.minimum(tl.maximum(distance, nearest), farthest)), 0.0)
            inside = there & ((first + j < size) & (weight > 0))[None, :]
            total += weight[None, :] * tl.load(part + j * inner, mask=inside, other=0.0)
            distance += step
    places = result + row.to(tl.int64)[:, None] * r_step + (t * t_step + i)[None, :]
    tl.store(places, total / unit, mask=there)
