"""Aggregated attention and its gradient on a GPU. Arguments are those of the op in `transnext.ops.register`."""

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from transnext.ops.position_bias import axis_index
from transnext.ops.reference import NORM_EPS
from transnext.ops.triton.kernels import attention_backward as backward_kernels
from transnext.ops.triton.kernels.attention_forward import attention_forward
from transnext.ops.triton.launch import (
    Kernel,
    block_of,
    config,
    dense_channels,
    product_precision,
    size_class,
    wants_64_bits,
)

MAX_DENSE_ENTRIES = 1 << 22
"""Query-key pairs times heads whose bias gradient is in memory at once: 16 MB, which the L2 of a large GPU holds."""

PROGRAMS_WANTED = 512
"""Programs that keep a large GPU busy, about four for each of its processors."""

BLOCK_U = 64
"""Entries of the bias table that a program sums."""

MAX_SIDE = (1 << 15) - 1
"""Rows or columns of a map, with which the place of a bias in its table is computed in 32 bits."""

SUMS_BLOCK_Q = 32
"""Queries of a program that sums the gradients of parameters: fixed, because its sums are laid out by it."""


KEY = ("D", "RADIUS", "TAPS", "EVEN", "PRECISION", "SIZE")
FORWARD = Kernel(
    attention_forward,
    [
        config(4, 2, BLOCK_Q=64, BLOCK_K=32),
        config(4, 2, BLOCK_Q=32, BLOCK_K=32),
        config(4, 2, BLOCK_Q=32, BLOCK_K=16),
        config(8, 2, BLOCK_Q=128, BLOCK_K=32),
    ],
    KEY,
)
QUERY_GRADIENT = Kernel(
    backward_kernels.query_gradient,
    [config(4, 1, BLOCK_K=32), config(4, 1, BLOCK_K=16), config(8, 1, BLOCK_K=32)],
    KEY,
)
LOCAL_GRADIENT = Kernel(
    backward_kernels.local_gradient,
    [config(4, 2, BLOCK_Q=32), config(2, 2, BLOCK_Q=16), config(8, 2, BLOCK_Q=64)],
    ("D", "RADIUS", "SIZE"),
)
POOLED_GRADIENT = Kernel(
    backward_kernels.pooled_gradient,
    [
        config(4, 1, BLOCK_Q=32, BLOCK_K=32),
        config(4, 1, BLOCK_Q=32, BLOCK_K=16),
        config(8, 1, BLOCK_Q=32, BLOCK_K=32),
    ],
    KEY,
)
BIAS_GRADIENT = Kernel(
    backward_kernels.bias_gradient,
    [
        config(4, 1, BLOCK_Q=32, BLOCK_K=16),
        config(4, 1, BLOCK_Q=32, BLOCK_K=32),
        config(8, 1, BLOCK_Q=32, BLOCK_K=32),
    ],
    KEY,
)
FOLD = Kernel(backward_kernels.fold_bias_gradient, [config(4, BLOCK_U=BLOCK_U)])


class _Call(NamedTuple):
    """Arguments that all kernels of a call share.

    Attributes:
        maps: `q`, `k`, `v`, `k_pool`, `v_pool`, channels next to one another and the pooled ones contiguous.
        parameters: The six parameters, contiguous; the last is the bias table.
        sizes: Heads; rows and columns of queries, of pooled keys, of the table, and of the queries and the pooled keys
            that it is made for.
        constants: Arguments that a kernel is compiled for.
        precise: Those of the kernels that make products: whether the table is resized, and how products are made.
    """

    maps: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    sizes: list[int]
    constants: dict[str, Any]
    precise: dict[str, Any]

    def strides(self, *places: int) -> list[int]:
        """Strides of some of the maps: batch, rows, columns, heads."""
        return [s for i in places for s in self.maps[i].stride()[:4]]


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
    call = _prepare((q, k, v, k_pool, v_pool), rest[:6], rest[6:])
    B, H, W, M, _ = q.shape
    out = q.new_empty(q.shape)
    if out.numel():
        FORWARD[lambda meta: (triton.cdiv(H * W, meta["BLOCK_Q"]) * B * M,)](
            *call.maps,
            *call.parameters,
            out,
            *call.strides(0, 1, 2),
            *call.sizes,
            **call.precise,
            **call.constants,
        )
    return out


def backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of the eleven tensors, in their dtypes; the same from run to run.

    In interpolating mode that of the table is, unless `torch.use_deterministic_algorithms` is on, summed by PyTorch
    in an order that may change.

    Args:
        grad: Gradient of the output, `[B, H, W, M, D]`.
        arguments: Those of `forward`.
    """
    call = _prepare(arguments[:5], arguments[5:11], arguments[11:])
    q = call.maps[0]
    B, H, W, M, D = q.shape
    if q.numel() == 0:
        return tuple(t.new_zeros(t.shape) for t in arguments[:11])
    grad = grad.contiguous()
    K = call.parameters[2].shape[1]
    N, tiles = H * W, triton.cdiv(H * W, SUMS_BLOCK_Q)
    grad_q, grad_k, grad_v = (q.new_empty(q.shape) for _ in range(3))
    log_sum, delta = (q.new_empty((B, M, N), dtype=torch.float32) for _ in range(2))
    sums = q.new_empty((B * tiles, M, D + 1 + 2 * K + D * K), dtype=torch.float32)
    QUERY_GRADIENT[(tiles * B * M,)](
        grad,
        *call.maps,
        *call.parameters,
        grad_q,
        log_sum,
        delta,
        sums,
        *call.strides(0, 1, 2),
        *call.sizes,
        BLOCK_Q=SUMS_BLOCK_Q,
        **call.precise,
        **call.constants,
    )
    LOCAL_GRADIENT[lambda meta: (triton.cdiv(N, meta["BLOCK_Q"]) * B * M,)](
        grad,
        *call.maps[:3],
        *call.parameters[:5],
        log_sum,
        delta,
        grad_k,
        grad_v,
        *call.strides(0, 1, 2),
        M,
        H,
        W,
        call.maps[3].shape[1] * call.maps[3].shape[2],
        **call.constants,
    )
    grad_k_pool, grad_v_pool = _pooled_gradients(call, grad, log_sum, delta)
    grad_table = _table_gradient(call, grad, log_sum, delta)
    # Each summed by itself: results of an op must not be views of one tensor.
    of_embedding, of_temperature, of_local, of_token_bias, of_tokens = (
        part.sum(0) for part in sums.split((D, 1, K, K, D * K), dim=2)
    )
    of_parameters = (of_embedding, of_temperature, of_local, of_tokens, of_token_bias, grad_table)
    return (
        grad_q,
        grad_k,
        grad_v,
        grad_k_pool,
        grad_v_pool,
        *(g.reshape(p.shape).to(p.dtype) for g, p in zip(of_parameters, call.parameters, strict=True)),
    )


def _prepare(maps: tuple[Any, ...], parameters: tuple[Any, ...], table_size: tuple[Any, ...]) -> _Call:
    q, k, v = (dense_channels(t) for t in maps[:3])
    k_pool, v_pool = (t.contiguous() for t in maps[3:])
    B, H, W, M, D = q.shape
    P_h, P_w = k_pool.shape[1:3]
    if max(H, W, P_h, P_w, *table_size) > MAX_SIDE:
        raise ValueError(f"a map of {H}x{W} and a pooled one of {P_h}x{P_w}: the kernels go to {MAX_SIDE} a side")
    table = parameters[5]
    constants = {
        "D": D,
        "BLOCK_D": block_of(D),
        "RADIUS": math.isqrt(parameters[2].shape[1]) // 2,
        "WIDE": wants_64_bits(q, k, v, k_pool) or H * W * M * D >= 2**31,
        "SIZE": size_class(q, B * M, H * W, P_h * P_w),
    }
    precise = {
        "TAPS": 1 if tuple(table_size) == (H, W, P_h, P_w) else 2,
        "EVEN": table_size[0] % table_size[2] == 0 and table_size[1] % table_size[3] == 0,
        "PRECISION": product_precision(q.dtype),
    }
    sizes = [M, H, W, P_h, P_w, *table.shape[1:], *table_size]
    return _Call((q, k, v, k_pool, v_pool), tuple(p.contiguous() for p in parameters), sizes, constants, precise)


def _pooled_gradients(call: _Call, grad: Tensor, log_sum: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    k_pool, v_pool = call.maps[3:]
    B, H, W, M, _ = call.maps[0].shape
    P = k_pool.shape[1] * k_pool.shape[2]
    splits = max(1, min(PROGRAMS_WANTED // (B * M * triton.cdiv(P, 32)), triton.cdiv(H * W, 64)))
    partial_k, partial_v = (k_pool.new_empty((splits, *k_pool.shape), dtype=torch.float32) for _ in range(2))
    POOLED_GRADIENT[lambda meta: (splits * triton.cdiv(P, meta["BLOCK_K"]) * M * B,)](
        grad,
        call.maps[0],
        k_pool,
        v_pool,
        *call.parameters[:2],
        call.parameters[5],
        log_sum,
        delta,
        partial_k,
        partial_v,
        *call.strides(0),
        B,
        *call.sizes,
        splits,
        **call.precise,
        **call.constants,
    )
    return _gradient_of_units(k_pool, partial_k.sum(0)).to(k_pool.dtype), partial_v.sum(0).to(v_pool.dtype)


def _gradient_of_units(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of vectors from that of their unit vectors, float32. Autograd does not work below an op's dispatch."""
    x = x.float()
    length = x.norm(dim=-1, keepdim=True)
    unit = x / length.clamp(min=NORM_EPS)
    along = torch.where(length > NORM_EPS, (grad * unit).sum(-1, keepdim=True), 0.0)
    return (grad - unit * along) / length.clamp(min=NORM_EPS)


def _table_gradient(call: _Call, grad: Tensor, log_sum: Tensor, delta: Tensor) -> Tensor:
    """Gradient of the bias table, `[M, U_h, U_w]` float32: that of every pair, a few rows of queries at a time."""
    q, table = call.maps[0], call.parameters[5]
    B, H, W, M, _ = q.shape
    P_h, P_w = call.maps[3].shape[1:3]
    P = P_h * P_w
    of_table = torch.zeros(table.shape, dtype=torch.float32, device=q.device)
    rows_at_once = max(1, min(H, MAX_DENSE_ENTRIES // (M * P * W)))
    for first_row in range(0, H, rows_at_once):
        num_rows = min(rows_at_once, H - first_row)
        splits = max(1, min(B, PROGRAMS_WANTED // (M * triton.cdiv(P, 32) * triton.cdiv(num_rows * W, 32))))
        splits = max(1, min(splits, MAX_DENSE_ENTRIES // (M * P * num_rows * W)))
        dense = q.new_empty((splits, M, P, num_rows * W), dtype=torch.float32)
        BIAS_GRADIENT[_bias_grid(num_rows * W, P, M * splits)](
            grad,
            q,
            *call.maps[3:],
            *call.parameters[:2],
            table,
            log_sum,
            delta,
            dense,
            *call.strides(0),
            B,
            *call.sizes,
            first_row,
            num_rows,
            splits,
            **call.precise,
            **call.constants,
        )
        if call.precise["TAPS"] == 1:
            FOLD[(M * table.shape[1] * triton.cdiv(table.shape[2], BLOCK_U),)](
                dense,
                of_table,
                *call.sizes[:7],
                first_row,
                num_rows,
                splits,
                EVEN=call.precise["EVEN"],
            )
        else:
            of_table += _resized_table_gradient(table, dense.sum(0), (H, W), (P_h, P_w), call.sizes[7:], first_row)
    return of_table


def _bias_grid(pixels: int, P: int, times: int) -> Any:
    return lambda meta: (triton.cdiv(pixels, meta["BLOCK_Q"]) * triton.cdiv(P, meta["BLOCK_K"]) * times,)


def _resized_table_gradient(
    table: Tensor,
    dense: Tensor,
    queries: tuple[int, int],
    keys: tuple[int, int],
    table_size: list[int],
    first_row: int,
) -> Tensor:
    """Share of the pairs of some rows of queries, `[M, P, rows * W]`, in the gradient of a table that is resized."""
    rows, cols = (
        axis_index(
            queries[i],
            keys[i],
            trained_queries=table_size[i],
            trained_keys=table_size[2 + i],
            device=table.device,
        )
        for i in (0, 1)
    )
    num_rows = dense.shape[2] // queries[1]
    of_rows = slice(first_row, first_row + num_rows)
    by_row_and_column = dense.unflatten(2, (num_rows, -1)).unflatten(1, keys).permute(0, 3, 1, 4, 2)
    pairs = by_row_and_column.flatten(3, 4).flatten(1, 2)  # [M, rows * P_h, W * P_w]
    pairs = _read_axis_gradient(pairs, cols.taps, cols.weight, table.shape[2], dim=2)
    weight = None if rows.weight is None else rows.weight[of_rows]
    return _read_axis_gradient(pairs, rows.taps[of_rows], weight, table.shape[1], dim=1)


def _read_axis_gradient(grad: Tensor, taps: Tensor, weight: Tensor | None, entries: int, dim: int) -> Tensor:
    """Gradient of what was read along an axis through an `AxisIndex`, whose taps and weights are `[Q, P, T]`."""
    shape = list(grad.shape)
    shape[dim] = entries
    total = grad.new_zeros(shape)
    for t in range(taps.shape[2]):
        part = grad
        if weight is not None:
            part = grad * weight[..., t].to(grad.dtype).flatten().view(-1, *[1] * (grad.ndim - 1 - dim))
        total.index_add_(dim, taps[..., t].flatten(), part)
    return total
