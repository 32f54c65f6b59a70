"""Random arguments of the ops of attention and gate, and what the tests of their implementations share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from transnext.ops import aggregated_attention, axis_index, depthwise_conv_gelu_gate, global_attention

Inputs = dict[str, Any]
Results = dict[str, Tensor]
MAPS = ("q", "k", "v", "k_pool", "v_pool")
TENSORS = (
    *MAPS,
    "query_embedding",
    "temperature",
    "relative_pos_bias_local",
    "learnable_tokens",
    "learnable_bias",
    "bias_table",
)

GLOBAL_TENSORS = ("q", "k", "v", "query_embedding", "temperature", "bias_table")


def attention_inputs(
    H: int,
    W: int,
    P_h: int,
    P_w: int,
    *,
    B: int = 1,
    M: int = 2,
    D: int = 3,
    window: int = 3,
    seed: int = 0,
    trained_rows: tuple[int, int] | None = None,
    trained_cols: tuple[int, int] | None = None,
) -> Inputs:
    """Random arguments of `aggregated_attention`, float64.

    Args:
        H: Rows of the map.
        W: Columns of the map.
        P_h: Rows of the pooled grid.
        P_w: Columns of the pooled grid.
        B: Images.
        M: Heads.
        D: Channels of a head.
        window: Side of the window.
        seed: Of the random numbers.
        trained_rows: Queries and keys that the rows of the bias table are made for, if it is to be resized.
        trained_cols: The same of the columns.
    """
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    rows, cols = (
        axis_index(size, keys, trained_queries=trained[0], trained_keys=trained[1])
        if trained is not None
        else axis_index(size, keys)
        for size, keys, trained in ((H, P_h, trained_rows), (W, P_w, trained_cols))
    )
    K = window * window
    return {
        "q": randn(B, H, W, M, D),
        "k": randn(B, H, W, M, D),
        "v": randn(B, H, W, M, D),
        "k_pool": randn(B, P_h, P_w, M, D),
        "v_pool": randn(B, P_h, P_w, M, D),
        "query_embedding": randn(M, 1, D) / 4,
        "temperature": randn(M, 1, 1),
        "relative_pos_bias_local": randn(M, K),
        "learnable_tokens": randn(M, D, K),
        "learnable_bias": randn(M, 1, K),
        "bias_table": randn(M, len(rows.offsets), len(cols.offsets)),
        "rows": rows,
        "cols": cols,
    }


def global_inputs(
    H: int,
    W: int,
    *,
    B: int = 1,
    M: int = 2,
    D: int = 3,
    seed: int = 0,
    trained: tuple[int, int] | None = None,
) -> Inputs:
    """Random arguments of `global_attention`, float64.

    Args:
        H: Rows of the map.
        W: Columns of the map.
        B: Images.
        M: Heads.
        D: Channels of a head.
        seed: Of the random numbers.
        trained: Rows and columns that the bias table is made for, if it is to be resized.
    """
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    sizes = (H, W) if trained is None else trained
    rows, cols = (
        axis_index(size, size, trained_queries=of_table, trained_keys=of_table)
        for size, of_table in zip((H, W), sizes, strict=True)
    )
    return {
        "q": randn(B, H, W, M, D),
        "k": randn(B, H, W, M, D),
        "v": randn(B, H, W, M, D),
        "query_embedding": randn(M, 1, D) / 4,
        "temperature": randn(M, 1, 1),
        "bias_table": randn(M, len(rows.offsets), len(cols.offsets)),
        "rows": rows,
        "cols": cols,
    }


def gate_inputs(B: int, H: int, W: int, F: int, k: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Random arguments of `depthwise_conv_gelu_gate`, float64: the map, the weights and the bias."""
    generator = torch.Generator().manual_seed(B + 10 * H + 100 * W + 1000 * F)
    x = torch.randn(B, H, W, 2 * F, generator=generator, dtype=torch.float64)
    weight = torch.randn(F, 1, k, k, generator=generator, dtype=torch.float64)
    return x, weight, torch.randn(F, generator=generator, dtype=torch.float64)


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same with every tensor in `dtype`."""
    return {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def attention_results(inputs: Inputs, backend: str, grad: Tensor | None = None) -> Results:
    """The output and the gradients of all arguments."""
    leaves = {name: inputs[name].detach().requires_grad_() for name in TENSORS}
    out = aggregated_attention(**{**inputs, **leaves}, backend=backend)
    if grad is None:
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gradients = torch.autograd.grad(out, list(leaves.values()), grad.to(out))
    return {"out": out.detach(), **dict(zip(TENSORS, gradients, strict=True))}


def global_results(inputs: Inputs, backend: str, grad: Tensor | None = None) -> Results:
    """The output and the gradients of all arguments."""
    leaves = {name: inputs[name].detach().requires_grad_() for name in GLOBAL_TENSORS}
    out = global_attention(**{**inputs, **leaves}, backend=backend)
    if grad is None:
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gradients = torch.autograd.grad(out, list(leaves.values()), grad.to(out))
    return {"out": out.detach(), **dict(zip(GLOBAL_TENSORS, gradients, strict=True))}


def gate_results(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str, grad: Tensor | None = None) -> Results:
    """The output and the gradients of all arguments."""
    arguments = {"x": x, "weight": weight, **({} if bias is None else {"bias": bias})}
    leaves = {name: t.detach().requires_grad_() for name, t in arguments.items()}
    out = depthwise_conv_gelu_gate(**{"bias": None, **leaves}, backend=backend)
    if grad is None:
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gradients = torch.autograd.grad(out, list(leaves.values()), grad.to(out))
    return {"out": out.detach(), **dict(zip(leaves, gradients, strict=True))}


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Gives torch, and with it the kernels, `n` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
