"""A residual sum and its LayerNorm in one: the op and its gradient; for GPUs."""

from typing import Any

import torch
from torch import Tensor

from transnext.ops import reference
from transnext.ops.register import LIBRARY, OPS, Gradients, define, register_triton


def add_layer_norm(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The sum of two maps, and its LayerNorm over the channels.

    The gradient computes mean and deviation again and keeps the sum alone; it is the same from run to run.

    Args:
        x: `[..., C]`, float32, bfloat16 or float16, on a GPU.
        branch: What is added, of the same shape.
        weight: `[C]`.
        bias: `[C]` or None.
        eps: Added to the variance.
        dtype: Of the second result: that of autocast, where it would be cast at once.

    Returns:
        The sum, in the dtype that PyTorch adds the two in, and its norm, whose mean and variance, in float32, are those
        of the sum as it was rounded.
    """
    total, normed = OPS.add_layer_norm(x, branch, weight, bias, eps, dtype)
    return total, normed


@define(
    "add_layer_norm(Tensor x, Tensor branch, Tensor weight, Tensor? bias, float eps, ScalarType dtype)"
    " -> (Tensor, Tensor)"
)
def _(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    total = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, branch.dtype))
    return total, x.new_empty(x.shape, dtype=dtype)


@define(
    "add_layer_norm_backward(Tensor grad_total, Tensor grad_normed, Tensor total, Tensor weight, Tensor? bias,"
    " float eps) -> (Tensor, Tensor, Tensor)"
)
def _(
    grad_total: Tensor, grad_normed: Tensor, total: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return total.new_empty(total.shape), weight.new_empty(weight.shape), grad_bias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, branch, weight, bias, ctx.eps, _ = inputs
    ctx.save_for_backward(output[0], weight, bias)
    ctx.dtypes = x.dtype, branch.dtype


def _backward(ctx: Any, grad_total: Tensor, grad_normed: Tensor) -> Gradients:
    total, weight, bias = ctx.saved_tensors
    # A gradient that is to be differentiated finds the way to both maps through the sum, a result of this op.
    gradient = reference.add_layer_norm_gradient if torch.is_grad_enabled() else OPS.add_layer_norm_backward
    of_total, of_weight, of_bias = gradient(grad_total, grad_normed, total, weight, bias, ctx.eps)
    of_x, of_branch = (of_total.to(dtype) for dtype in ctx.dtypes)
    return of_x, of_branch, of_weight, None if bias is None else of_bias, None, None


torch.library.register_autograd(f"{LIBRARY.ns}::add_layer_norm", _backward, setup_context=_keep, lib=LIBRARY)
register_triton("add_layer_norm", "add_norm")
