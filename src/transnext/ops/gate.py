"""Depthwise convolution, GELU and gate: the op, its checks, the choice of implementation, its gradient and its cost."""

from typing import Any

from torch import Tensor

from transnext.ops import reference
from transnext.ops.backend import FUSED_DTYPES, use_fused, why_not_fused
from transnext.ops.register import OPS, costs, define, register_gradient, register_triton


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
    out: Tensor = OPS.depthwise_conv_gelu_gate(x, weight, bias)
    return out


@define("depthwise_conv_gelu_gate(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:3], weight.shape[0]))


@define(
    "depthwise_conv_gelu_gate_backward(Tensor grad, Tensor x, Tensor weight, Tensor? bias) -> (Tensor, Tensor, Tensor)"
)
def _(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), grad_bias


def _gradient(wanted: tuple[bool, ...], grad: Tensor, *arguments: Tensor | None) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor, ...] = OPS.depthwise_conv_gelu_gate_backward(grad, *arguments)
    return gradients


register_gradient("depthwise_conv_gelu_gate", reference.depthwise_conv_gelu_gate, _gradient, num_tensors=3)
register_triton("depthwise_conv_gelu_gate", "gate")

Shape = list[int]


@costs("depthwise_conv_gelu_gate")
def _(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * x[0] * x[1] * x[2] * weight[0] * weight[2] * weight[3]


@costs("depthwise_conv_gelu_gate_backward")
def _(grad: Shape, x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 6 * x[0] * x[1] * x[2] * weight[0] * weight[2] * weight[3]
