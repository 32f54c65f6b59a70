"""A Linear in training: product and gradients by the kernels, with weights packed anew at each call."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.ops.library import LIBRARY
from transnext.ops.second_order import differentiable_gradients


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`, of which it is a replacement for large maps in float32 on the CPU.

    The gradient is the same from run to run, and for every number of threads.

    Args:
        x: `[..., K]`, float32.
        weight: `[N, K]`, float32.
        bias: `[N]`, float32, or None.

    Returns:
        `[..., N]`, float32.

    Raises:
        ValueError: A dtype, a shape or a device does not fit.
    """
    tensors = {"x": x, "weight": weight, "bias": bias}
    for name, t in tensors.items():
        if t is not None and (t.dtype != torch.float32 or t.device.type != "cpu"):
            raise ValueError(f"{name} is {t.dtype} on {t.device}: expected torch.float32 on the CPU")
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} and weight {tuple(weight.shape)}: expected [..., K] and [N, K]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}: expected ({weight.shape[0]},) to go with weight")
    out: Tensor = torch.ops.transnext.linear(x, weight, bias)
    return out


def _keep_inputs(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True
        return differentiable_gradients(F.linear, (x, weight, bias), grad)
    wanted = ctx.needs_input_grad
    gradients = torch.ops.transnext.linear_backward(grad, x, weight, *wanted)
    return tuple(g if want else None for g, want in zip(gradients, wanted, strict=True))


torch.library.register_autograd("transnext::linear", _gradient, setup_context=_keep_inputs, lib=LIBRARY)
