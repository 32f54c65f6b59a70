"""Multiply-adds of a call."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from transnext.bench.workload import Workload


def count_macs(workload: Workload) -> float:
    """Multiply-adds of the matrix products and convolutions for one image, backward included when training.

    They are counted at batch size 1 on PyTorch's meta device, where nothing is computed and every operation is in its
    plain form, so models of this package run the reference; a model that cannot run there is counted in a real call.

    Raises:
        Exception: The model cannot take the size.
    """
    one = replace(workload, backend="reference", batch_size=1, dtype="float32", compile="none", channels_last=False)
    try:
        return _count(one, "meta")
    except (NotImplementedError, RuntimeError):
        return _count(one, workload.device)


def _count(workload: Workload, device: str) -> float:
    # Built where tensors have values: some models compute with them when they are made.
    model = replace(workload, device="cpu").build().to(device)
    step = replace(workload, device=device).step(model)
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        step()
    return counter.get_total_flops() / 2


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
