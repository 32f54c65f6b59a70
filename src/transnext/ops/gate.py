"""Depthwise convolution, GELU and gate: the public op, its checks, its gradient and the choice of implementation."""

from typing import Any

import torch
from torch import Tensor

from transnext.ops import reference
from transnext.ops.backend import FUSED_DTYPES, use_fused, why_not_fused
from transnext.ops.library import LIBRARY
from transnext.ops.second_order import differentiable_gradients


def depthwise_conv_gelu_gate(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str = "auto") -> Tensor:
    """The heart of the convolutional GLU (TransNeXt, section 3.5): `GELU(depthwise_conv(a) + bias) * g`.

    The gradient computes the convolution again and keeps nothing; it is the same from run to run for the same number of
    threads.

    Args:
        x: The halves `a` and `g` one after the other along the channels, `[B, H, W, 2 F]`, any strides.
        weight: Depthwise kernel, `[F, 1, k, k]`, `k` odd, 3 in the network and in the kernels; the map is padded with
            zeros.
        bias: `[F]` or None.
        backend: "auto" for the kernels where they can and the reference where not, "fused" or "reference".

    Returns:
        `[B, H, W, F]` in the dtype of `x`. GELU is the exact one (erf).

    Raises:
        ValueError: Shapes or devices do not fit one another, or "fused" was asked for and cannot be had.
    """
    if x.ndim != 4 or x.shape[-1] % 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: expected [B, H, W, 2 F]")
    F = x.shape[-1] // 2
    k = weight.shape[-1] if weight.ndim else 0
    if tuple(weight.shape) != (F, 1, k, k) or k % 2 == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}: expected ({F}, 1, k, k), k odd, to go with x")
    if bias is not None and tuple(bias.shape) != (F,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}: expected ({F},) to go with x")
    for name, t in (("x", x), ("weight", weight), ("bias", bias)):
        if t is not None and not t.is_floating_point():
            raise ValueError(f"{name} has dtype {t.dtype}: expected a floating-point one")
        if t is not None and t.device != x.device:
            raise ValueError(f"{name} is on {t.device}, but x is on {x.device}")
    why_not = why_not_fused((x,))
    if why_not is None and any(t.dtype not in FUSED_DTYPES for t in (weight, bias) if t is not None):
        why_not = "a parameter is neither float32 nor bfloat16 nor float16"
    elif k != 3:
        why_not = f"the kernel has side {k}, and the compiled one has 3"
    if not use_fused(backend, why_not):
        return reference.depthwise_conv_gelu_gate(x, weight, bias)
    out: Tensor = torch.ops.transnext.depthwise_conv_gelu_gate(x, weight, bias)
    return out


def _keep_inputs(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True
        return differentiable_gradients(reference.depthwise_conv_gelu_gate, (x, weight, bias), grad)
    grad_x, grad_weight, grad_bias = torch.ops.transnext.depthwise_conv_gelu_gate_backward(grad, x, weight, bias)
    return grad_x, grad_weight, None if bias is None else grad_bias


torch.library.register_autograd(
    "transnext::depthwise_conv_gelu_gate", _gradient, setup_context=_keep_inputs, lib=LIBRARY
)
