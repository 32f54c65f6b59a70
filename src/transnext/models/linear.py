"""How the network calls its Linears and convolutions, so that training on the CPU uses the kernels' products.

The modules stay PyTorch's own: what hooks, wraps or replaces them is called as ever, and torch.fx sees each call.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.models.untouched import PLAIN_TENSORS, global_hooks, is_untouched
from transnext.ops import Backend
from transnext.ops.backend import why_not_cpu_kernels
from transnext.ops.products import conv_glu_training, linear

if TYPE_CHECKING:
    from transnext.models.layers import ConvGLU

MIN_PIXELS = 128
"""Pixels of a map from which a convolutional GLU is trained as one op: smaller ones read its weights too often."""


def apply_linear(layer: nn.Linear | nn.Conv2d, x: Tensor, backend: Backend) -> Tensor:
    """`layer(x)`, `[..., K]` to `[..., N]`.

    Args:
        layer: A Linear, whatever became of it, or a 1x1 convolution that nobody changed.
        x: `[..., K]`.
        backend: "reference" for PyTorch's own product.
    """
    convolution = is_untouched(layer, nn.Conv2d)
    if backend != "reference" and (convolution or is_untouched(layer, nn.Linear)) and _in_training(x, layer):
        return linear(x, layer.weight.flatten(1), layer.bias)
    return F.linear(x, layer.weight.flatten(1), layer.bias) if convolution else layer(x)


def apply_conv_glu(mlp: "ConvGLU", x: Tensor) -> Tensor:
    """`mlp(x)`: as one op where that is faster, else one for each module.

    Args:
        mlp: The module.
        x: `[B, H, W, C]`.
    """
    fc1, conv, fc2 = mlp.fc1, mlp.dwconv, mlp.fc2
    if mlp.backend != "reference" and _as_one(mlp, x):
        out = conv_glu_training(x, fc1.weight, fc1.bias, conv.weight, conv.bias, fc2.weight, fc2.bias)
    else:
        out = apply_linear(fc2, mlp.drop(conv(apply_linear(fc1, x, mlp.backend))), mlp.backend)
    return mlp.drop(out)


def _as_one(mlp: "ConvGLU", x: Tensor) -> bool:
    """Whether the modules are untouched, and the images many enough and large enough for one op."""
    from transnext.models.layers import DepthwiseGate

    layers = (mlp.fc1, mlp.dwconv, mlp.fc2)
    if not _in_training(x, *layers) or not is_untouched(mlp.drop, nn.Dropout) or (mlp.drop.p > 0 and mlp.drop.training):
        return False
    if not all(is_untouched(m, kind) for m, kind in zip(layers, (nn.Linear, DepthwiseGate, nn.Linear), strict=True)):
        return False
    # Whole images are shared out: at most a fifth of the threads' time may be spent waiting for the last.
    threads = torch.get_num_threads()
    rounds = -(-x.shape[0] // threads)
    return x.shape[1] * x.shape[2] >= MIN_PIXELS and 5 * x.shape[0] >= 4 * rounds * threads


def _in_training(x: Tensor, *layers: nn.Module) -> bool:
    """Whether gradients are wanted of plain float32 tensors, which the kernels know how to give."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    parameters = [p for layer in layers for p in layer._parameters.values() if p is not None]
    if any(type(p) not in PLAIN_TENSORS or p.dtype != torch.float32 for p in parameters):
        return False
    if type(x) is not Tensor or x.dtype != torch.float32 or global_hooks():
        return False
    return all("weight" in layer._parameters for layer in layers) and why_not_cpu_kernels((x, *parameters)) is None
