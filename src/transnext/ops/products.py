"""Products with packed weights on the CPU: of inference in one pass with what surrounds them, and of training.

All of them sum in float32. They multiply float32 numbers, or, where the processor has instructions for it and weights
were packed so (inference) or maps are bfloat16 (training), bfloat16 ones. What each is a replacement for stands in
`transnext.ops.reference`.
"""

from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.ops import bfloat16, reference
from transnext.ops.register import CPU_KERNELS, OPS, Gradients, costs, define, register_gradient

Shape = list[int]

# Inference: LayerNorm, product, activation and residual sum without memory for what lies between. No gradient.


class PackedLinear(NamedTuple):
    """A Linear's parameters in the order in which the kernels read them.

    Attributes:
        panels: `[ceil(N / width), K, width]` float32, zero-padded; or bfloat16, pairs of neighbouring input channels,
            `[ceil(N / width), ceil(K / depth) * depth / 2, width, 2]`.
        bias: `[ceil(N / width) * width]` float32, zero-padded.
        out_features: `N`.
    """

    panels: Tensor
    bias: Tensor
    out_features: int


def panel_width() -> int:
    """Output channels of a panel, which depends on the instruction set in use."""
    assert CPU_KERNELS is not None
    width: int = CPU_KERNELS.panel_width()
    return width


def pack_linear(weight: Tensor, bias: Tensor | None, in_bfloat16: bool = False) -> PackedLinear:
    """Packs the parameters of a Linear.

    Args:
        weight: `[N, K]`.
        bias: `[N]` or None.
        in_bfloat16: For products of bfloat16 numbers; there must be instructions for them.
    """
    layout = bfloat16.panel() if in_bfloat16 else None
    width = panel_width() if layout is None else layout.width
    padding = -weight.shape[0] % width
    if layout is None:
        panels = F.pad(weight.float(), (0, 0, 0, padding)).unflatten(0, (-1, width)).transpose(1, 2).contiguous()
    else:
        padded = F.pad(weight.bfloat16(), (0, -weight.shape[1] % layout.depth, 0, padding))
        panels = padded.unflatten(0, (-1, width)).unflatten(2, (-1, 2)).transpose(1, 2).contiguous()
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return PackedLinear(panels, F.pad(bias.float(), (0, padding)), weight.shape[0])


class Norm(NamedTuple):
    """A LayerNorm's parameters, `[C]` float32 each, and its eps."""

    weight: Tensor
    bias: Tensor
    eps: float


def norm_linear(
    x: Tensor, norm: Norm | None, linear: PackedLinear, residual: Tensor | None = None, gelu_from: int | None = None
) -> Tensor:
    """`linear(norm(x))`, GELU on the output channels from `gelu_from` on, plus `residual`.

    Args:
        x: `[..., K]`, float32, bfloat16 or float16 (that not with weights packed in bfloat16).
        norm: None to leave the LayerNorm out.
        linear: Packed by `pack_linear`, which says what is multiplied.
        residual: `[..., N]`, or None.
        gelu_from: First output channel with GELU; None for none.

    Returns:
        `[..., N]` in the dtype of `x`.
    """
    weight, bias, eps = norm if norm is not None else (None, None, 0.0)
    first_gelu = linear.out_features if gelu_from is None else gelu_from
    out: Tensor = OPS.norm_linear(
        x, weight, bias, eps, linear.panels, linear.bias, linear.out_features, first_gelu, residual
    )
    return out


@define(
    "norm_linear(Tensor x, Tensor? norm_weight, Tensor? norm_bias, float eps, Tensor panels, Tensor bias, "
    "SymInt out_features, SymInt gelu_from, Tensor? residual) -> Tensor"
)
def _(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], others[5]))


@costs("norm_linear")
def _(x: Shape, *others: Any, out_shape: Any = None, **_: Any) -> int:
    return 2 * prod(x) * others[5]


def conv_glu(
    x: Tensor, norm: Norm, fc1: PackedLinear, conv_weight: Tensor, conv_bias: Tensor | None, fc2: PackedLinear
) -> Tensor:
    """`x + fc2(GELU(conv(a)) * g)` with `a, g = fc1(norm(x))`: a whole convolutional GLU, by strips of rows.

    Args:
        x: `[B, H, W, C]`, float32, bfloat16 or float16.
        norm: LayerNorm of `C` channels.
        fc1: `C` to `2 F` channels.
        conv_weight: `[F, 1, 3, 3]`.
        conv_bias: `[F]` or None.
        fc2: `F` to `C` channels.

    Returns:
        `[B, H, W, C]` in the dtype of `x`.
    """
    out: Tensor = OPS.conv_glu(x, *norm, fc1.panels, fc1.bias, conv_weight, conv_bias, fc2.panels, fc2.bias)
    return out


@define(
    "conv_glu(Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, Tensor panels_in, Tensor bias_in, "
    "Tensor weight, Tensor? bias, Tensor panels_out, Tensor bias_out) -> Tensor"
)
def _(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@costs("conv_glu")
def _(x: Shape, *others: Any, **_: Any) -> int:
    return _glu_cost(x, others[5][0])


def _glu_cost(x: Shape, hidden: int) -> int:
    return 2 * x[0] * x[1] * x[2] * hidden * (3 * x[3] + 9)


# Training: weights are packed anew at each call.


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`, of which it is a replacement for large maps on the CPU.

    The gradient is the same from run to run, and for every number of threads.

    Args:
        x: `[..., K]`, float32; or bfloat16 where the processor multiplies that (`bfloat16.bfloat16_products`).
        weight: `[N, K]`, float32; beside a bfloat16 map also bfloat16, to which it is rounded.
        bias: `[N]`, as `weight`, or None.

    Returns:
        `[..., N]` in the dtype of `x`.

    Raises:
        ValueError: A dtype, a shape or a device does not fit.
    """
    _check_dtypes({"x": x, "weight": weight, "bias": bias})
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} and weight {tuple(weight.shape)}: expected [..., K] and [N, K]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}: expected ({weight.shape[0]},) to go with weight")
    out: Tensor = OPS.linear(x, weight, bias)
    return out


def _check_dtypes(tensors: dict[str, Tensor | None]) -> None:
    """Of the map, called "x", and of the parameters of a product in training."""
    x = tensors["x"]
    rounds = x is not None and x.dtype == torch.bfloat16 and bfloat16.bfloat16_products() is not None
    for name, t in tensors.items():
        if t is None or (
            t.device.type == "cpu" and (t.dtype == torch.float32 or (rounds and t.dtype == torch.bfloat16))
        ):
            continue
        other = " or torch.bfloat16" if rounds else ""
        raise ValueError(f"{name} is {t.dtype} on {t.device}: expected torch.float32{other} on the CPU")


@define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@define(
    "linear_backward(Tensor grad, Tensor x, Tensor weight, bool want_x, bool want_weight, bool want_bias) "
    "-> (Tensor, Tensor, Tensor)"
)
def _(grad: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool, want_bias: bool) -> tuple[Tensor, ...]:
    return (
        x.new_empty(x.shape if want_x else (0,)),
        weight.new_empty(weight.shape if want_weight or want_bias else (0,)),
        weight.new_empty(weight.shape[0] if want_bias else 0),
    )


def _linear_gradient(wanted: tuple[bool, ...], grad: Tensor, x: Tensor, weight: Tensor, _: object) -> Gradients:
    gradients: Gradients = OPS.linear_backward(grad, x, weight, *wanted)
    return gradients


register_gradient("linear", reference.linear, _linear_gradient, num_tensors=3)


@costs("linear")
def _(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(x) * weight[0]


@costs("linear_backward")
def _(grad: Shape, x: Shape, weight: Shape, want_x: bool, want_weight: bool, *_: Any, **__: Any) -> int:
    return (want_x + want_weight) * 2 * prod(x) * weight[0]


def conv_glu_training(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
) -> Tensor:
    """`fc2(GELU(conv(a)) * g)` with `a, g = fc1(x)` (TransNeXt, section 3.5), on the CPU; dtypes are as in `linear`.

    Images are shared out between threads whole. The gradient is the same from run to run for a number of threads.

    Args:
        x: `[B, H, W, C]`.
        fc1_weight: `[2 F, C]`.
        fc1_bias: `[2 F]` or None.
        weight: Depthwise kernel, `[F, 1, 3, 3]`.
        bias: `[F]` or None.
        fc2_weight: `[C, F]`.
        fc2_bias: `[C]` or None.

    Returns:
        `[B, H, W, C]`.

    Raises:
        ValueError: A dtype, a shape or a device does not fit.
    """
    C, hidden = x.shape[-1], weight.shape[0]
    shapes = {
        "x": (x, (*x.shape[:3], C)),
        "fc1_weight": (fc1_weight, (2 * hidden, C)),
        "fc1_bias": (fc1_bias, (2 * hidden,)),
        "weight": (weight, (hidden, 1, 3, 3)),
        "bias": (bias, (hidden,)),
        "fc2_weight": (fc2_weight, (C, hidden)),
        "fc2_bias": (fc2_bias, (C,)),
    }
    _check_dtypes({name: t for name, (t, _) in shapes.items()})
    for name, (t, shape) in shapes.items():
        if t is not None and (t.shape != shape or x.ndim != 4):
            raise ValueError(f"{name} has shape {tuple(t.shape)}: expected {tuple(shape)} to go with the others")
    out: Tensor = OPS.conv_glu_training(x, fc1_weight, fc1_bias, weight, bias, fc2_weight, fc2_bias)[0]
    return out


@define(
    "conv_glu_training(Tensor x, Tensor fc1_weight, Tensor? fc1_bias, Tensor weight, Tensor? bias, Tensor fc2_weight, "
    "Tensor? fc2_bias) -> (Tensor, Tensor)"
)
def _(x: Tensor, fc1_weight: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((*x.shape[:3], fc1_weight.shape[0]))


@define(
    "conv_glu_training_backward(Tensor grad, Tensor x, Tensor hidden, Tensor fc1_weight, Tensor weight, Tensor? bias, "
    "Tensor fc2_weight) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
def _(
    grad: Tensor, x: Tensor, hidden: Tensor, fc1: Tensor, weight: Tensor, bias: object, fc2: Tensor
) -> tuple[Tensor, ...]:
    pairs = ((w.new_empty(w.shape), w.new_empty(w.shape[0])) for w in (fc1, weight, fc2))
    return (x.new_empty(x.shape), *(t for pair in pairs for t in pair))


def _glu_gradient(wanted: tuple[bool, ...], grad: Tensor, hidden: Tensor, *tensors: Any) -> Gradients:
    x, fc1, _, weight, bias, fc2, _ = tensors
    gradients: Gradients = OPS.conv_glu_training_backward(grad, x, hidden, fc1, weight, bias, fc2)
    return gradients


register_gradient("conv_glu_training", reference.conv_glu, _glu_gradient, num_tensors=7)


@costs("conv_glu_training")
def _(x: Shape, fc1_weight: Shape, *_: Any, **__: Any) -> int:
    return _glu_cost(x, fc1_weight[0] // 2)


@costs("conv_glu_training_backward")
def _(grad: Shape, x: Shape, hidden: Shape, fc1_weight: Shape, *_: Any, **__: Any) -> int:
    # Two products for each of the forward pass; the convolution again, and two of its gradients.
    return x[0] * x[1] * x[2] * fc1_weight[0] * (6 * x[3] + 27)
