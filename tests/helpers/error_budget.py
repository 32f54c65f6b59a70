"""The error budget of kernels: at most twice the error of the plain PyTorch path in the same dtype."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.helpers.attention_cases import Results

Function = Callable[..., Tensor]

VALUE_FLOOR, GRADIENT_FLOOR = 1e-6, 5e-6
"""Errors, relative to a tensor's norm, that are allowed however small those of the plain path are.

On a map of a few pixels either path may hit the exact result by luck. Gradients have more room: each is a sum in which
p (dA - sum p dA) cancels, so that errors are many times larger than the result in an unlucky draw.
"""


def norm(x: Tensor) -> float:
    return float(x.double().norm())


def allowed_error(
    plain: Tensor, exact: Tensor, floor: float = VALUE_FLOOR, usual: float = 0.0, times: float = 2
) -> float:
    """Norm of the error that a result may have.

    Args:
        plain: Result of the plain path in the same dtype.
        exact: That in float64.
        floor: Error, relative to the larger of the result's norm and `usual`, that is allowed in any case.
        usual: How large such a result usually is.
        times: Errors of the plain path that are allowed.
    """
    return times * norm(plain - exact) + floor * max(norm(exact), usual)


def check_tensor(found: Tensor, plain: Tensor, exact: Tensor, floor: float = VALUE_FLOOR, usual: float = 0.0) -> None:
    """Holds one tensor to the error budget; arguments are those of `allowed_error`."""
    assert found.dtype == plain.dtype
    assert found.shape == exact.shape
    assert norm(found.double() - exact) <= allowed_error(plain, exact, floor, usual)


def budget_used(
    found: Results, plain: Results, exact: Results, others: list[Results], times: float = 2
) -> dict[str, float]:
    """Errors as shares of what is allowed, for every tensor.

    Args:
        found: Results of the kernels.
        plain: Results of the reference in the same dtype.
        exact: Those of the reference in float64.
        others: Exact results of other inputs of the same shapes. They tell how large a result usually is: a sum over
            all pixels may cancel to almost nothing, and its rounding errors do not.
        times: Errors of the plain path that are allowed.
    """
    used = {}
    for name, expected in exact.items():
        assert found[name].dtype == plain[name].dtype
        assert found[name].shape == expected.shape
        usual = math.sqrt(sum(norm(other[name]) ** 2 for other in others) / len(others)) if others else 0.0
        floor = VALUE_FLOOR if name == "out" else GRADIENT_FLOOR
        allowed = allowed_error(plain[name], expected, floor, usual, times)
        error = norm(found[name] - expected)
        used[name] = error / allowed if allowed else math.inf if error else 0.0
    return used


def check_budget(found: Results, plain: Results, exact: Results, others: list[Results], times: float = 2) -> None:
    """Holds every tensor to the error budget; arguments are those of `budget_used`."""
    for name, used in budget_used(found, plain, exact, others, times).items():
        assert used <= 1, f"{name}: {used:.3g} times the error that is allowed"


def random_leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal float32 tensors that want gradients."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def with_gradients(function: Function, inputs: list[Tensor | None], weight_of_result: Tensor) -> list[Tensor]:
    """The result and the gradient of every input that wants one."""
    leaves = [None if t is None else t.detach().clone().requires_grad_(t.requires_grad) for t in inputs]
    out = function(*leaves)
    out.backward(weight_of_result.to(out.dtype))
    return [out.detach(), *(t.grad for t in leaves if t is not None and t.requires_grad)]


def check_with_gradients(function: Function, definition: Function, inputs: list[Tensor | None]) -> None:
    """Holds the float32 result of a function, and its gradients, to the budget against its definition."""
    weight = torch.randn(definition(*inputs).shape, generator=torch.Generator().manual_seed(5))
    doubles = [None if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    exact, plain = with_gradients(definition, doubles, weight), with_gradients(definition, inputs, weight)
    found = with_gradients(function, inputs, weight)
    for f, p, e in zip(found, plain, exact, strict=True):
        assert f.dtype == torch.float32
        # Inputs are of size 1: a sum of them that happens to be small may be off by what a large one may.
        check_tensor(f, p, e, usual=norm(e) + e.numel() ** 0.5)
