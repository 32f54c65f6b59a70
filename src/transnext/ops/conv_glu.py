"""A convolutional GLU in training, as one op that keeps only its hidden channels for the backward pass."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.ops import reference
from transnext.ops.library import LIBRARY
from transnext.ops.second_order import differentiable_gradients


def conv_glu_training(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
) -> Tensor:
    """`fc2(GELU(conv(a)) * g)` with `a, g = fc1(x)` (TransNeXt, section 3.5), for float32 on the CPU.

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
    for name, (t, shape) in shapes.items():
        if t is None:
            continue
        if t.dtype != torch.float32 or t.device.type != "cpu":
            raise ValueError(f"{name} is {t.dtype} on {t.device}: expected torch.float32 on the CPU")
        if t.shape != shape or x.ndim != 4:
            raise ValueError(f"{name} has shape {tuple(t.shape)}: expected {tuple(shape)} to go with the others")
    out: Tensor = torch.ops.transnext.conv_glu_training(x, fc1_weight, fc1_bias, weight, bias, fc2_weight, fc2_bias)[0]
    return out


def _definition(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
) -> Tensor:
    hidden = F.linear(x, fc1_weight, fc1_bias)
    return F.linear(reference.depthwise_conv_gelu_gate(hidden, weight, bias), fc2_weight, fc2_bias)


def _keep(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs)


def _gradient(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    hidden, *inputs = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True
        return differentiable_gradients(_definition, inputs, grad)
    x, fc1_weight, _, weight, bias, fc2_weight, _ = inputs
    gradients = torch.ops.transnext.conv_glu_training_backward(grad, x, hidden, fc1_weight, weight, bias, fc2_weight)
    wanted = ctx.needs_input_grad
    return tuple(g if want else None for g, want in zip(gradients, wanted, strict=True))


torch.library.register_autograd("transnext::conv_glu_training", _gradient, setup_context=_keep, lib=LIBRARY)
