"""What PyTorch does around the gradients of our ops."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from transnext.ops.products import conv_glu_training
from transnext.ops.register import CPU_KERNELS

pytestmark = pytest.mark.skipif(CPU_KERNELS is None, reason="the kernels were not built")


class _Filled(TorchDispatchMode):
    """Notes the shapes of tensors that are made of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "zero" in str(func) or "fill" in str(func):
            self.shapes.append(tuple(out.shape))
        return out


def _glu() -> tuple[Callable[..., Tensor], list[Tensor]]:
    shapes = ((2, 9, 11, 8), (32, 8), (32,), (16, 1, 3, 3), (16,), (8, 16), (8,))
    return conv_glu_training, [torch.randn(shape, requires_grad=True) for shape in shapes]


def test_results_without_a_gradient_cost_nothing() -> None:
    op, tensors = _glu()
    out = op(*tensors)
    with _Filled() as filled:
        torch.autograd.backward(out, torch.randn_like(out))
    assert filled.shapes == []  # the hidden map, [2, 9, 11, 32], is the largest there is
    assert all(t.grad is not None for t in tensors)


class _NoGradient(torch.autograd.Function):
    """Passes a map on, and no gradient back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        return None


def test_no_gradient_comes_of_none() -> None:
    op, tensors = _glu()
    _NoGradient.apply(op(*tensors)).sum().backward()
    assert all(t.grad is None for t in tensors)
