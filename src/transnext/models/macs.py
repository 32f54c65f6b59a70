"""Multiply-adds of a model."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transnext.models.transnext import TransNeXt


def count_macs(model: nn.Module, input_size: tuple[int, int, int]) -> float | None:
    """Multiply-adds of matrix products and convolutions for one image, `torch.utils.flop_counter`'s count halved.

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
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                plain(torch.empty(1, *input_size, device=target))
            return counter.get_total_flops() / 2
        except (AssertionError, NotImplementedError, RuntimeError):
            continue
    return None
