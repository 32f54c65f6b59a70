"""Aggregated attention and its gradient on a GPU. Arguments are those of the op in `transnext.ops.register`."""

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from transnext.ops.triton.kernels import attention_backward as backward_kernels
from transnext.ops.triton.kernels import attention_forward as forward_kernels
from transnext.ops.triton.kernels import attention_pooled_backward as pooled_kernels
from transnext.ops.triton.launch import (
    MOST_REGISTERS,
    PROGRAMS_WANTED,
    Kernel,
    block_of,
    config,
    dense_channels,
    parts_of,
    product_precision,
    size_class,
    stride_unit,
    wants_64_bits,
)
from transnext.ops.triton.resized_bias import resize_gradient, resize_rows

MAX_DENSE_ENTRIES = 1 << 22
"""Query-key pairs times heads whose bias gradient is in memory at once: 16 MB, which the L2 of a large GPU holds."""

BLOCK_U = 64
"""Entries of the bias table that a program sums."""

BLOCK_R = 64
"""Pooled keys whose shares of the gradient a program sums."""

FACTORS_BLOCK_K = 64
"""Pooled keys of a program that computes factors of logits."""

MAX_SIDE = (1 << 15) - 1
"""Rows or columns of a map, with which places on an axis are computed in 32 bits."""

MAX_TABLE_ENTRIES = 1 << 29
"""Entries of the bias of a head, with which their places are computed in 32 bits, in bytes."""

SUMS_BLOCK_Q = 32
"""Queries of a program that sums the gradients of parameters: fixed, because its sums are laid out by it."""

HALF_SHIFT = 14
"""Powers of two by which weights are multiplied before they are rounded to float16, whose smallest number is 6e-8."""


OF_POOLED = ("D", "TAPS", "PRECISION", "SIZE")
KEY = (*OF_POOLED, "RADIUS")
FACTORS = Kernel(forward_kernels.attention_factors, [config(4, BLOCK_K=FACTORS_BLOCK_K)])
FORWARD = Kernel(
    forward_kernels.attention_forward,
    [
        config(1, 1, MOST_REGISTERS, BLOCK_Q=32, BLOCK_K=16),
        config(1, 1, MOST_REGISTERS, BLOCK_Q=32, BLOCK_K=32),
        config(2, 1, MOST_REGISTERS, BLOCK_Q=64, BLOCK_K=32),
        config(4, 1, BLOCK_Q=128, BLOCK_K=32),
    ],
    KEY,
)
QUERY_GRADIENT = Kernel(
    backward_kernels.query_gradient,
    [
        config(1, 1, MOST_REGISTERS, BLOCK_K=16),
        config(1, 1, MOST_REGISTERS, BLOCK_K=32),
        config(2, 1, MOST_REGISTERS, BLOCK_K=32),
    ],
    KEY,
)
LOCAL_GRADIENT = Kernel(
    backward_kernels.local_gradient,
    [
        config(1, 1, MOST_REGISTERS, BLOCK_Q=32),
        config(2, 1, MOST_REGISTERS, BLOCK_Q=64),
        config(4, 1, MOST_REGISTERS, BLOCK_Q=128),
    ],
    ("D", "RADIUS", "SIZE"),
)
POOLED_GRADIENT = Kernel(
    pooled_kernels.pooled_gradient,
    [
        config(1, 1, MOST_REGISTERS, BLOCK_Q=32, BLOCK_K=16),
        config(1, 1, MOST_REGISTERS, BLOCK_Q=32, BLOCK_K=32),
        config(4, 1, MOST_REGISTERS, BLOCK_Q=32, BLOCK_K=64),
    ],
    OF_POOLED,
)
FINISH_POOLED = Kernel(pooled_kernels.finish_pooled_gradient, [config(4, BLOCK_R=BLOCK_R)])
BIAS_GRADIENT = Kernel(
    pooled_kernels.bias_gradient,
    [
        config(1, 1, MOST_REGISTERS, BLOCK_Q=32, BLOCK_K=16),
        config(2, 1, MOST_REGISTERS, BLOCK_Q=64, BLOCK_K=16),
        config(1, 1, BLOCK_Q=32, BLOCK_K=32),
    ],
    OF_POOLED,
)
FOLD = Kernel(pooled_kernels.fold_bias_gradient, [config(4, BLOCK_U=BLOCK_U)])


class _Call(NamedTuple):
    """Arguments that all kernels of a call share.

    Attributes:
        maps: `q`, `k`, `v`, `k_pool`, `v_pool`, channels next to one another and the pooled ones contiguous.
        parameters: The six parameters, contiguous, tokens with channels last; the last is the bias table, float32, or
            what it is resized to.
        factors: What `attention_factors` writes: of pooled keys, and where they read the bias table.
        strides: Of `q`, `k` and `v`: batch, rows, columns, heads, in units of UNIT.
        shape: Heads; rows and columns of queries and of pooled keys.
        table_shape: Rows and columns of the bias table; queries and keys that it is made for.
        constants: Arguments that a kernel is compiled for.
        of_tiles: Those of the kernels that make products of tiles: how the table is read, how products are made.
        even: Whether the table's pooled keys divide its queries.
        of_chunks: Those of the kernels that go over neighbours.
    """

    maps: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    factors: tuple[Tensor, Tensor]
    strides: tuple[int, ...]
    shape: tuple[int, ...]
    table_shape: tuple[int, ...]
    constants: dict[str, Any]
    of_tiles: dict[str, Any]
    even: bool
    of_chunks: dict[str, Any]

    @property
    def images(self) -> int:
        """Of the batch."""
        return self.maps[0].shape[0]

    @property
    def queries(self) -> int:
        """Of an image."""
        return self.shape[1] * self.shape[2]

    @property
    def pooled_keys(self) -> int:
        """Of an image."""
        return self.shape[3] * self.shape[4]

    @property
    def shift(self) -> int:
        """Powers of two by which weights are multiplied."""
        return HALF_SHIFT if self.maps[0].dtype == torch.float16 else 0


def forward(q: Tensor, k: Tensor, v: Tensor, k_pool: Tensor, v_pool: Tensor, *rest: Any) -> Tensor:
    """Output `[B, H, W, M, D]` in the dtype of `q`.

    Args:
        q: Queries, `[B, H, W, M, D]`; as all maps float32, bfloat16 or float16.
        k: Keys, as `q`.
        v: Values, as `q`.
        k_pool: Pooled keys, `[B, P_h, P_w, M, D]`.
        v_pool: Pooled values, as `k_pool`.
        rest: The six parameters and the four sizes of the table, as the op has them.
    """
    if q.numel() == 0:
        return q.new_empty(q.shape)
    return _forward(_prepare((q, k, v, k_pool, v_pool), rest[:6], rest[6:]))[0]


def forward_training(q: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """The output, and the log-sum-exp of each query's logits, `[B, M, N]` float32, which the gradient wants.

    Args:
        q: As the others, an argument of `forward`.
        arguments: The other ones.
    """
    if q.numel() == 0:
        B, H, W, M, _ = q.shape
        return q.new_empty(q.shape), q.new_empty((B, M, H * W), dtype=torch.float32)
    return _forward(_prepare((q, *arguments[:4]), arguments[4:10], arguments[10:]))


def backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of the eleven tensors, in their dtypes; the same from run to run. It computes the output again.

    Args:
        grad: Gradient of the output, `[B, H, W, M, D]`.
        arguments: Those of `forward`.
    """
    if grad.numel() == 0:
        return tuple(t.new_zeros(t.shape) for t in arguments[:11])
    call = _prepare(arguments[:5], arguments[5:11], arguments[11:])
    return _backward(call, grad.contiguous(), *_forward(call), arguments[5:11])


def backward_training(grad: Tensor, out: Tensor, log_sum: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """The same from what `forward_training` returned.

    Args:
        grad: Gradient of the output, `[B, H, W, M, D]`.
        out: The output.
        log_sum: The log-sum-exp.
        arguments: Those of `forward`.
    """
    if grad.numel() == 0:
        return tuple(t.new_zeros(t.shape) for t in arguments[:11])
    call = _prepare(arguments[:5], arguments[5:11], arguments[11:])
    return _backward(call, grad.contiguous(), out.contiguous(), log_sum.contiguous(), arguments[5:11])


def _forward(call: _Call) -> tuple[Tensor, Tensor]:
    """Output, and log-sum-exp of the logits, `[B, M, N]` float32."""
    q, M = call.maps[0], call.shape[0]
    out = q.new_empty(q.shape)
    log_sum = q.new_empty((call.images, M, call.queries), dtype=torch.float32)
    FORWARD[lambda meta: (triton.cdiv(call.queries, meta["BLOCK_Q"]) * call.images * M,)](
        call.maps,
        call.parameters,
        *call.factors,
        out,
        log_sum,
        *call.strides,
        *call.shape,
        *call.table_shape,
        SHIFT=call.shift,
        MAIN=call.of_tiles["BLOCK_D"],  # whose padding costs less here than what two products want beside it
        REST=0,
        C=call.of_chunks["C"],
        **call.constants,
        **call.of_tiles,
    )
    return out, log_sum


def _backward(
    call: _Call, grad: Tensor, out: Tensor, log_sum: Tensor, parameters: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    q = call.maps[0]
    B, _, _, M, D = q.shape
    K = call.parameters[2].shape[1]
    tiles = triton.cdiv(call.queries, SUMS_BLOCK_Q)
    grad_q, grad_k, grad_v = (q.new_empty(q.shape) for _ in range(3))
    of_queries = q.new_empty((B, M, 4, _rounded_up(call.queries)), dtype=torch.float32)
    of_window = q.new_empty((B, M, 2 * K, _rounded_up(call.queries)), dtype=torch.float32)
    sums = q.new_empty((B * tiles, M, D + 1 + 2 * K + D * K), dtype=torch.float32)
    QUERY_GRADIENT[(tiles * B * M,)](
        grad,
        out,
        call.maps,
        call.parameters,
        *call.factors,
        log_sum,
        grad_q,
        of_queries,
        of_window,
        sums,
        *call.strides,
        *call.shape,
        *call.table_shape,
        BLOCK_Q=SUMS_BLOCK_Q,
        BLOCK_T=block_of(K),
        **call.constants,
        **call.of_tiles,
        **call.of_chunks,
    )
    LOCAL_GRADIENT[lambda meta: (triton.cdiv(call.queries, meta["BLOCK_Q"]) * B * M,)](
        grad,
        call.maps,
        call.parameters[0],
        of_queries,
        of_window,
        grad_k,
        grad_v,
        *call.strides,
        *call.shape,
        C=call.of_chunks["C"],
        **call.constants,
    )
    grad_k_pool, grad_v_pool = _pooled_gradients(call, grad, of_queries)
    grad_table = _table_gradient(call, grad, of_queries)
    # Each summed by itself: results of an op must not be views of one tensor.
    of_embedding, of_temperature, of_local, of_token_bias, of_tokens = (
        part.sum(0) for part in sums.split((D, 1, K, K, D * K), dim=2)
    )
    of_tokens = of_tokens.view(M, K, D).transpose(1, 2).contiguous()
    of_parameters = (of_embedding, of_temperature, of_local, of_tokens, of_token_bias, grad_table)
    return (
        grad_q,
        grad_k,
        grad_v,
        grad_k_pool,
        grad_v_pool,
        *(g.reshape(p.shape).to(p.dtype) for g, p in zip(of_parameters, parameters, strict=True)),
    )


def _rounded_up(count: int) -> int:
    return triton.cdiv(count, 4) * 4


def _prepare(maps: tuple[Any, ...], parameters: tuple[Any, ...], table_size: tuple[Any, ...]) -> _Call:
    q, k, v = (dense_channels(t) for t in maps[:3])
    k_pool, v_pool = (t.contiguous() for t in maps[3:])
    B, H, W, M, D = q.shape
    P_h, P_w = k_pool.shape[1:3]
    if max(H, W, P_h, P_w, *table_size) > MAX_SIDE:
        raise ValueError(f"a map of {H}x{W} and a pooled one of {P_h}x{P_w}: the kernels go to {MAX_SIDE} a side")
    embedding, temperature, local_bias, tokens, token_bias, table = (p.contiguous() for p in parameters)
    K = local_bias.shape[1]
    unit = stride_unit(q, k, v)
    constants = {
        "D": D,
        "RADIUS": math.isqrt(K) // 2,
        "UNIT": unit,
        "WIDE": wants_64_bits(q, k, v, k_pool) or H * W * M * D >= 2**31,
        "SIZE": size_class(q, B * M, H * W, P_h * P_w),
    }
    of_tiles = {
        "BLOCK_D": block_of(D),
        "TAPS": 1 if tuple(table_size) == (H, W, P_h, P_w) else 2,
        "PRECISION": product_precision(q.dtype),
    }
    even = table_size[0] % table_size[2] == 0 and table_size[1] % table_size[3] == 0
    shape, table_shape = (M, H, W, P_h, P_w), (*table.shape[1:], *table_size)
    of_rows = table.shape[1] if of_tiles["TAPS"] == 1 else H * P_h
    if of_rows * table.shape[2] > MAX_TABLE_ENTRIES:
        raise ValueError(
            f"the position bias of a map of {H}x{W} and a pooled one of {P_h}x{P_w} is read from {of_rows} rows of "
            f"{table.shape[2]} entries: the kernels go to {MAX_TABLE_ENTRIES} entries"
        )
    factors = q.new_empty((B, M, 2, _rounded_up(P_h * P_w)), dtype=torch.float32)
    places = q.new_empty((1 if of_tiles["TAPS"] == 1 else 3, factors.shape[3]), dtype=torch.int32)
    tokens_by_tap = q.new_empty((M, K, D), dtype=torch.float32)
    FACTORS[(triton.cdiv(P_h * P_w, FACTORS_BLOCK_K) * B * M,)](
        k_pool,
        embedding,
        tokens,
        factors,
        places,
        tokens_by_tap,
        *shape,
        *table_shape,
        D=D,
        BLOCK_D=of_tiles["BLOCK_D"],
        TAPS=of_tiles["TAPS"],
        EVEN=even,
        RADIUS=constants["RADIUS"],
    )
    if of_tiles["TAPS"] == 1:
        read = table.float()
    else:
        read = q.new_empty((M, H, P_h, table.shape[2], 2), dtype=torch.float32)
        resize_rows(table, read, shape, table_shape, even)
    return _Call(
        maps=(q, k, v, k_pool, v_pool),
        parameters=(embedding, temperature, local_bias, tokens_by_tap, token_bias, read),
        factors=(factors, places),
        strides=tuple(s // unit for t in (q, k, v) for s in t.stride()[:4]),
        shape=shape,
        table_shape=table_shape,
        constants=constants,
        of_tiles=of_tiles,
        even=even,
        of_chunks={"C": 16 // q.itemsize, **dict(zip(("MAIN", "REST"), parts_of(D), strict=True))},
    )


def _pooled_gradients(call: _Call, grad: Tensor, of_queries: Tensor) -> tuple[Tensor, Tensor]:
    k_pool, v_pool = call.maps[3:]
    B, M = call.images, call.shape[0]
    splits = max(1, min(PROGRAMS_WANTED // (B * M * triton.cdiv(call.pooled_keys, 32)), triton.cdiv(call.queries, 64)))
    partial_k, partial_v = (k_pool.new_empty((splits, *k_pool.shape), dtype=torch.float32) for _ in range(2))
    partial_e = partial_k.new_empty(partial_k.shape[:-1])
    POOLED_GRADIENT[lambda meta: (splits * triton.cdiv(call.pooled_keys, meta["BLOCK_K"]) * M * B,)](
        grad,
        call.maps,
        call.parameters[5],
        *call.factors,
        of_queries,
        partial_k,
        partial_v,
        partial_e,
        *call.strides,
        B,
        *call.shape,
        *call.table_shape,
        splits,
        SHIFT=call.shift,
        **_without(call.constants, "RADIUS"),
        **call.of_tiles,
    )
    grad_k_pool, grad_v_pool = (torch.empty_like(t) for t in (k_pool, v_pool))
    FINISH_POOLED[(triton.cdiv(B * call.pooled_keys * M, BLOCK_R),)](
        k_pool,
        call.parameters[0],
        partial_k,
        partial_v,
        partial_e,
        grad_k_pool,
        grad_v_pool,
        M,
        B * call.pooled_keys * M,
        splits,
        D=call.constants["D"],
        BLOCK_D=call.of_tiles["BLOCK_D"],
    )
    return grad_k_pool, grad_v_pool


def _without(constants: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in constants.items() if key != name}


def _table_gradient(call: _Call, grad: Tensor, of_queries: Tensor) -> Tensor:
    """Gradient of the bias table, `[M, U_h, U_w]` float32: that of every pair, a few rows of queries at a time."""
    q = call.maps[0]
    M, H, W, P_h, P_w = call.shape
    U_h, U_w, T_h, T_w, TP_h, TP_w = call.table_shape
    B, P, resized = call.images, call.pooled_keys, call.of_tiles["TAPS"] == 2
    of_table = torch.zeros((M, U_h, U_w), dtype=torch.float32, device=q.device)
    # Of all rows of queries, and of the columns and keys that the table is made for.
    by_rows = of_table.new_empty((M, TP_h, TP_w, H, T_w) if resized else 0)
    rows_at_once = max(1, min(H, MAX_DENSE_ENTRIES // (M * P * W)))
    for first_row in range(0, H, rows_at_once):
        num_rows = min(rows_at_once, H - first_row)
        splits = max(1, min(B, PROGRAMS_WANTED // (M * triton.cdiv(P, 32) * triton.cdiv(num_rows * W, 32))))
        splits = max(1, min(splits, MAX_DENSE_ENTRIES // (M * P * num_rows * W)))
        dense = q.new_empty((splits, M, P, num_rows * W), dtype=torch.float32)
        BIAS_GRADIENT[_bias_grid(num_rows * W, P, M * splits)](
            grad,
            call.maps,
            call.parameters[5],
            *call.factors,
            of_queries,
            dense,
            *call.strides,
            B,
            *call.shape,
            *call.table_shape,
            first_row,
            num_rows,
            splits,
            **_without(call.constants, "RADIUS"),
            **call.of_tiles,
        )
        if resized:
            columns = resize_gradient(dense.view(splits, -1, W, 1), T_w)
            keys = resize_gradient(columns.view(1, M, P_h, -1), TP_h)
            of_rows = by_rows.view(M * TP_h, TP_w, H * T_w)[:, :, first_row * T_w : (first_row + num_rows) * T_w]
            resize_gradient(keys.view(1, -1, P_w, num_rows * T_w), TP_w, of_rows)
        else:
            _fold(dense, of_table, call.shape, first_row, call.even)
    if resized:
        pairs = resize_gradient(by_rows.view(1, -1, H, T_w), T_h)
        _fold(pairs.view(1, M, -1, T_h * T_w), of_table, (M, T_h, T_w, TP_h, TP_w), 0, call.even)
    return of_table


def _bias_grid(pixels: int, P: int, times: int) -> Any:
    return lambda meta: (triton.cdiv(pixels, meta["BLOCK_Q"]) * triton.cdiv(P, meta["BLOCK_K"]) * times,)


def _fold(dense: Tensor, of_table: Tensor, shape: tuple[int, ...], first_row: int, even: bool) -> None:
    """Adds gradients of pairs, `[S, M, P, rows * W]`, to that of the table, which is made for them."""
    splits, M, _, pixels = dense.shape
    U_h, U_w = of_table.shape[1:]
    FOLD[(M * U_h * triton.cdiv(U_w, BLOCK_U),)](
        dense, of_table, *shape, U_h, U_w, first_row, pixels // shape[2], splits, EVEN=even
    )
