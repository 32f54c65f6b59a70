"""Multiply-adds of a model."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transnext.models.transnext import TransNeXt


def macs_of_call(call: Callable[[], object]) -> float:
    """Multiply-adds of the matrix products and convolutions in a call, `torch.utils.flop_counter`'s count halved."""
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        call()
    return counter.get_total_flops() / 2


def count_macs(model: nn.Module, input_size: tuple[int, int, int]) -> float | None:
    """Multiply-adds of one image.

    Nothing is computed where the model runs on PyTorch's meta device; one image passes through it where it does not.

    Args:
        model: Any model that takes images; it stays as it is.
        input_size: `(channels, H, W)`.

    Returns:
        The number; None if the model does not take this size.
    """
    device = next(model.parameters()).device
    for target in ("meta", device):
        try:
            # The cache of bias tables would hide what they cost: a copy has none for another device.
            plain = copy.deepcopy(model).to(target).eval()
            for part in plain.modules():
                if isinstance(part, TransNeXt):
                    part.backend = "reference"
            with torch.no_grad():
                return macs_of_call(partial(plain, torch.empty(1, *input_size, device=target)))
        except (AssertionError, NotImplementedError, RuntimeError):
            continue
    return None


def _convolution_backward(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    transposed: bool,
    output_padding: object,
    groups: int,
    output_mask: Sequence[bool],
    out_shape: object = None,
) -> int:
    """Operations of the gradients asked for, each as many as forward. PyTorch's own formula overlooks the groups."""
    positions = x_shape if transposed else grad_shape
    return 2 * math.prod(positions) * math.prod(weight_shape[1:]) * sum(output_mask[:2])


_FORMULAS: dict[Any, Any] = {torch.ops.aten.convolution_backward: _convolution_backward}
