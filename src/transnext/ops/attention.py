"""Aggregated attention: the op, its checks, the choice of implementation, its gradient and its cost."""

import math
from typing import Any

import torch
from torch import Tensor

from transnext.ops import exported, reference
from transnext.ops.backend import FUSED_DTYPES, use_fused, why_not_fused
from transnext.ops.position_bias import AxisIndex, axis_index
from transnext.ops.register import OPS, costs, define, register_gradient, register_triton
from transnext.ops.tracing import is_exporting


def aggregated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    query_embedding: Tensor,
    temperature: Tensor,
    relative_pos_bias_local: Tensor,
    learnable_tokens: Tensor,
    learnable_bias: Tensor,
    bias_table: Tensor,
    rows: AxisIndex,
    cols: AxisIndex,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Attention of each pixel to its neighbourhood and to a pooled view of the map, under one softmax.

    Follows TransNeXt, section 3.3. With `qn`, `kn` the normalised queries and keys and `L` the number of keys that
    a query really sees, logits are `(qn + query_embedding) * softplus(temperature) * log(L) . kn + bias`; after the
    softmax `qn . learnable_tokens + learnable_bias` is added to the weights of the window. Neighbours outside the map
    get no softmax weight and have value 0.

    16-bit maps are computed in float32 and rounded once. The gradient computes the weights again and keeps nothing of
    size (queries x keys); it is the same from run to run for the same number of threads.

    Args:
        q: Queries, `[B, H, W, M, D]`, any strides.
        k: Keys, `[B, H, W, M, D]`.
        v: Values, `[B, H, W, M, D]`.
        k_pool: Keys of the pooled map, `[B, P_h, P_w, M, D]`.
        v_pool: Values of the pooled map, `[B, P_h, P_w, M, D]`.
        query_embedding: Added to every normalised query, `[M, 1, D]`.
        temperature: Scale before softplus, `[M, 1, 1]`.
        relative_pos_bias_local: Position bias of the window, `[M, K]`, row-major from the top left, `K` an odd square.
        learnable_tokens: `[M, D, K]`.
        learnable_bias: `[M, 1, K]`.
        bias_table: Position bias of the pooled keys, `[M, U_h, U_w]`, read through `rows` and `cols`.
        rows: Index of the `H` query and `P_h` key rows into the table.
        cols: Index of the `W` query and `P_w` key columns into the table.
        dropout_p: Probability with which softmax weights are dropped; the reference alone does it.
        backend: "auto" for the kernels where they can and the reference where not, "fused" or "reference".

    Returns:
        `[B, H, W, M, D]` in the dtype of `q`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit one another, or "fused" was asked for and cannot be had.
    """
    exporting = is_exporting()
    if not (torch.compiler.is_compiling() or exporting):  # with symbolic sizes every comparison would become a guard
        _check_shapes(
            q,
            k=k,
            v=v,
            k_pool=k_pool,
            v_pool=v_pool,
            query_embedding=query_embedding,
            temperature=temperature,
            relative_pos_bias_local=relative_pos_bias_local,
            learnable_tokens=learnable_tokens,
            learnable_bias=learnable_bias,
            bias_table=bias_table,
            rows=rows,
            cols=cols,
        )
    parameters = (query_embedding, temperature, relative_pos_bias_local, learnable_tokens, learnable_bias, bias_table)
    why_not = why_not_fused((q, k, v, k_pool, v_pool))
    if dropout_p > 0:
        why_not = "dropout of attention weights is the reference's alone"
    elif rows.table_size is None or cols.table_size is None:
        why_not = "the index covers some of the queries of an axis only"
    elif why_not is None and any(t.dtype not in FUSED_DTYPES for t in parameters):
        why_not = "a parameter is neither float32 nor bfloat16 nor float16"
    use_kernels = use_fused(backend, why_not)
    if exporting and dropout_p == 0:
        return exported.aggregated_attention(q, k, v, k_pool, v_pool, *parameters, rows, cols)
    if not use_kernels or rows.table_size is None or cols.table_size is None:
        return reference.aggregated_attention(q, k, v, k_pool, v_pool, *parameters, rows, cols, dropout_p)
    table_size = (rows.table_size[0], cols.table_size[0], rows.table_size[1], cols.table_size[1])
    tensors = (q, k, v, k_pool, v_pool, *parameters)
    out: Tensor
    if _keeps_log_sum(tensors):
        out, _ = OPS.aggregated_attention_training(*tensors, *table_size)
    else:
        out = OPS.aggregated_attention(*tensors, *table_size)
    return out


def _keeps_log_sum(tensors: tuple[Tensor, ...]) -> bool:
    """Whether a backward pass may follow on a GPU, which is a quarter shorter if it need not begin with the forward."""
    return tensors[0].device.type == "cuda" and torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _check_shapes(q: Tensor, *, rows: AxisIndex, cols: AxisIndex, **others: Tensor) -> None:
    if q.ndim != 5:
        raise ValueError(f"q has shape {tuple(q.shape)}: expected [B, H, W, M, D]")
    if not q.is_floating_point():
        raise ValueError(f"q has dtype {q.dtype}: expected a floating-point one")
    B, H, W, M, D = q.shape
    k_pool, local = others["k_pool"], others["relative_pos_bias_local"]
    if k_pool.ndim != 5 or k_pool.shape[1] == 0 or k_pool.shape[2] == 0:
        raise ValueError(f"k_pool has shape {tuple(k_pool.shape)}: expected [B, P_h, P_w, M, D] with P_h, P_w above 0")
    P_h, P_w = k_pool.shape[1:3]
    K = local.shape[-1] if local.ndim else 0
    if math.isqrt(K) ** 2 != K or K % 2 == 0:
        raise ValueError(
            f"relative_pos_bias_local has shape {tuple(local.shape)}: expected [{M}, K], K the square of an odd window"
        )
    expected = {
        "k": (B, H, W, M, D),
        "v": (B, H, W, M, D),
        "k_pool": (B, P_h, P_w, M, D),
        "v_pool": (B, P_h, P_w, M, D),
        "query_embedding": (M, 1, D),
        "temperature": (M, 1, 1),
        "relative_pos_bias_local": (M, K),
        "learnable_tokens": (M, D, K),
        "learnable_bias": (M, 1, K),
        "bias_table": (M, rows.offsets.shape[0], cols.offsets.shape[0]),
    }
    for name, shape in expected.items():
        if tuple(others[name].shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(others[name].shape)}: expected {shape} to go with q, k_pool and the index"
            )
        if not others[name].is_floating_point():
            raise ValueError(f"{name} has dtype {others[name].dtype}: expected a floating-point one")
        if others[name].device != q.device:
            raise ValueError(f"{name} is on {others[name].device}, but q is on {q.device}")
    for name, axis, size in (("rows", rows, (H, P_h)), ("cols", cols, (W, P_w))):
        if tuple(axis.taps.shape[:2]) != size:
            raise ValueError(f"{name} is an index of {tuple(axis.taps.shape[:2])} queries and keys: expected {size}")


# The sizes that a bias table is made for come as four numbers, so that the kernels need no index.
_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor k_pool, Tensor v_pool, Tensor query_embedding, Tensor temperature, "
    "Tensor relative_pos_bias_local, Tensor learnable_tokens, Tensor learnable_bias, Tensor bias_table, "
    "SymInt table_H, SymInt table_W, SymInt table_P_h, SymInt table_P_w"
)
_NUM_TENSORS = 11


@define(f"aggregated_attention({_ARGUMENTS}) -> Tensor")
def _(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)


@define(f"aggregated_attention_backward(Tensor grad, {_ARGUMENTS}) -> ({', '.join(['Tensor'] * _NUM_TENSORS)})")
def _(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in arguments[:_NUM_TENSORS])


@define(f"aggregated_attention_training({_ARGUMENTS}) -> (Tensor, Tensor)")
def _(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    B, H, W, M, _D = q.shape
    return q.new_empty(q.shape), q.new_empty((B, M, H * W), dtype=torch.float32)


@define(
    f"aggregated_attention_training_backward(Tensor grad, Tensor out, Tensor log_sum, {_ARGUMENTS}) "
    f"-> ({', '.join(['Tensor'] * _NUM_TENSORS)})"
)
def _(grad: Tensor, out: Tensor, log_sum: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in arguments[:_NUM_TENSORS])


def _definition(*arguments: Any) -> Tensor:
    tensors, (H, W, P_h, P_w) = arguments[:_NUM_TENSORS], arguments[_NUM_TENSORS:]
    q, k_pool = tensors[0], tensors[3]
    rows = axis_index(q.shape[1], k_pool.shape[1], trained_queries=H, trained_keys=P_h, device=q.device)
    cols = axis_index(q.shape[2], k_pool.shape[2], trained_queries=W, trained_keys=P_w, device=q.device)
    return reference.aggregated_attention(*(*tensors, rows, cols))


def _gradient(wanted: tuple[bool, ...], grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor, ...] = OPS.aggregated_attention_backward(grad, *arguments)
    return gradients


def _gradient_with_log_sum(wanted: tuple[bool, ...], grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor, ...] = OPS.aggregated_attention_training_backward(grad, *arguments)
    return gradients


register_gradient("aggregated_attention", _definition, _gradient, _NUM_TENSORS)
register_triton("aggregated_attention", "attention")
register_gradient("aggregated_attention_training", _definition, _gradient_with_log_sum, _NUM_TENSORS, keeps_result=True)
register_triton("aggregated_attention_training", "attention", "_training")

Shape = list[int]


@costs("aggregated_attention_training")
@costs("aggregated_attention")
def _(q: Shape, k: Shape, v: Shape, k_pool: Shape, *others: Any, out_shape: Any = None, **_: Any) -> int:
    B, H, W, M, D = q
    K = others[3][1]
    # Logits, weighted sums of values, and what learnable tokens add to the weights of the window.
    return 2 * B * H * W * M * D * (2 * (K + k_pool[1] * k_pool[2]) + K)


@costs("aggregated_attention_backward")
def _backward_cost(grad: Shape, q: Shape, k: Shape, v: Shape, k_pool: Shape, *others: Any, **_: Any) -> int:
    B, H, W, M, D = q
    K = others[3][1]
    # Logits again, and the gradients of weights, queries, keys, values and tokens.
    return 2 * B * H * W * M * D * (5 * (K + k_pool[1] * k_pool[2]) + 3 * K)


@costs("aggregated_attention_training_backward")
def _(grad: Shape, out: Shape, log_sum: Shape, *others: Any, **_: Any) -> int:
    return _backward_cost(grad, *others)
