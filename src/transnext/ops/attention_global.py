"""Global cosine attention: the op, its checks, the choice of implementation, its gradient and its cost; for the CPU."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from transnext.ops import reference
from transnext.ops.backend import FUSED_DTYPES, has_16_bit_products, use_fused, why_not_cpu_kernels
from transnext.ops.position_bias import AxisIndex, axis_index
from transnext.ops.register import OPS, Gradients, costs, define, register_gradient
from transnext.ops.tracing import as_dtype, is_exporting


def global_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_embedding: Tensor,
    temperature: Tensor,
    bias_table: Tensor,
    rows: AxisIndex,
    cols: AxisIndex,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Cosine attention of every pixel to every pixel of its map (TransNeXt, section 3.3).

    With `qn`, `kn` the normalised queries and keys and `N = H * W`, logits are
    `(qn + query_embedding) * softplus(temperature) * log(N) . kn + bias`.

    The kernels hold nothing of size N x N, forward or backward, and compute in float32; 16-bit maps are rounded once.
    The gradient is the same from run to run for the same number of threads. "auto" leaves 16-bit maps to PyTorch where
    the processor multiplies them itself.

    Args:
        q: Queries, `[B, H, W, M, D]`, any strides.
        k: Keys, `[B, H, W, M, D]`.
        v: Values, `[B, H, W, M, D]`.
        query_embedding: Added to every normalised query, `[M, 1, D]`.
        temperature: Scale before softplus, `[M, 1, 1]`.
        bias_table: Position bias, `[M, U_h, U_w]`, read through `rows` and `cols`.
        rows: Index of `H` query and `H` key rows into the table.
        cols: Index of `W` query and `W` key columns into the table.
        dropout_p: Probability with which softmax weights are dropped; the reference alone does it.
        backend: "auto" for the kernels where they can and are faster, "fused" or "reference".

    Returns:
        `[B, H, W, M, D]` in the dtype of `q`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit one another, or "fused" was asked for and cannot be had.
    """
    if not (
        torch.compiler.is_compiling() or is_exporting()
    ):  # with symbolic sizes every comparison would become a guard
        _check_shapes(
            q,
            k=k,
            v=v,
            query_embedding=query_embedding,
            temperature=temperature,
            bias_table=bias_table,
            rows=rows,
            cols=cols,
        )
    why_not = why_not_cpu_kernels((q, k, v))
    if dropout_p > 0:
        why_not = "dropout of attention weights is the reference's alone"
    elif rows.table_size is None or cols.table_size is None:
        why_not = "the index covers some of the queries of an axis only"
    elif rows.table_size[0] != rows.table_size[1] or cols.table_size[0] != cols.table_size[1]:
        why_not = "the table is made for pooled keys"
    elif why_not is None and any(t.dtype not in FUSED_DTYPES for t in (query_embedding, temperature, bias_table)):
        why_not = "a parameter is neither float32 nor bfloat16 nor float16"
    elif why_not is None and backend == "auto" and has_16_bit_products(q.dtype):
        why_not = "PyTorch multiplies 16-bit matrices faster"
    if not use_fused(backend, why_not) or rows.table_size is None or cols.table_size is None:
        return reference.global_attention(q, k, v, query_embedding, temperature, bias_table, rows, cols, dropout_p)
    maps = (as_dtype(t, torch.float32) for t in (q, k, v))
    out, _ = OPS.global_attention(
        *maps, query_embedding, temperature, bias_table, rows.table_size[0], cols.table_size[0]
    )
    return as_dtype(out, q.dtype)


def _check_shapes(q: Tensor, *, rows: AxisIndex, cols: AxisIndex, **others: Tensor) -> None:
    if q.ndim != 5:
        raise ValueError(f"q has shape {tuple(q.shape)}: expected [B, H, W, M, D]")
    if not q.is_floating_point():
        raise ValueError(f"q has dtype {q.dtype}: expected a floating-point one")
    _, H, W, M, D = q.shape
    expected = {
        "k": tuple(q.shape),
        "v": tuple(q.shape),
        "query_embedding": (M, 1, D),
        "temperature": (M, 1, 1),
        "bias_table": (M, rows.offsets.shape[0], cols.offsets.shape[0]),
    }
    for name, shape in expected.items():
        if tuple(others[name].shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(others[name].shape)}: expected {shape} to go with q and the index"
            )
        if not others[name].is_floating_point():
            raise ValueError(f"{name} has dtype {others[name].dtype}: expected a floating-point one")
        if others[name].device != q.device:
            raise ValueError(f"{name} is on {others[name].device}, but q is on {q.device}")
    for name, axis, size in (("rows", rows, H), ("cols", cols, W)):
        if tuple(axis.taps.shape[:2]) != (size, size):
            raise ValueError(
                f"{name} is an index of {tuple(axis.taps.shape[:2])} queries and keys: expected {(size, size)}"
            )


# The sizes that a bias table is made for come as two numbers, so that the kernels need no index.
_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor query_embedding, Tensor temperature, Tensor bias_table, "
    "SymInt table_H, SymInt table_W"
)
_NUM_TENSORS = 6


@define(f"global_attention({_ARGUMENTS}) -> (Tensor, Tensor)")
def _(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    B, H, W, M, _D = q.shape
    # The second: of each query its largest logit, times log2(e), and one over the sum of powers of two below it.
    return q.new_empty(q.shape), q.new_empty((2, M, B, H * W))


@define(
    f"global_attention_backward(Tensor grad, Tensor out, Tensor statistics, {_ARGUMENTS}) -> "
    f"({', '.join(['Tensor'] * _NUM_TENSORS)})"
)
def _(grad: Tensor, out: Tensor, statistics: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in arguments[:_NUM_TENSORS])


def _definition(*arguments: Any) -> Tensor:
    tensors, (H, W) = arguments[:_NUM_TENSORS], arguments[_NUM_TENSORS:]
    q = tensors[0]
    rows, cols = (
        axis_index(q.shape[1 + i], q.shape[1 + i], trained_queries=size, trained_keys=size, device=q.device)
        for i, size in enumerate((H, W))
    )
    with sdpa_kernel(SDPBackend.MATH):  # PyTorch's other kernels have no second derivatives
        return reference.global_attention(*(*tensors, rows, cols))


def _gradient(wanted: tuple[bool, ...], grad: Tensor, *others: Any) -> Gradients:
    gradients: Gradients = OPS.global_attention_backward(grad, *others)
    return gradients


register_gradient("global_attention", _definition, _gradient, _NUM_TENSORS, keeps_result=True)

Shape = list[int]


@costs("global_attention")
def _(q: Shape, *_: Any, **__: Any) -> int:
    return 4 * _pairs(q)


@costs("global_attention_backward")
def _(grad: Shape, *_: Any, **__: Any) -> int:
    # Logits again, and the gradients of weights, queries, keys and values.
    return 10 * _pairs(grad)


def _pairs(q: Shape) -> int:
    B, H, W, M, D = q
    return B * (H * W) ** 2 * M * D
