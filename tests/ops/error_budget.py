"""The error budget of kernels: at most twice the error of the plain PyTorch path in the same dtype."""

import math

from attention_cases import Results
from torch import Tensor

VALUE_FLOOR, GRADIENT_FLOOR = 1e-6, 5e-6
"""Errors, relative to a tensor's norm, that are allowed however small those of the plain path are.

On a map of a few pixels either path may hit the exact result by luck. Gradients have more room: each is a sum in which
p (dA - sum p dA) cancels, so that errors are many times larger than the result in an unlucky draw.
"""


def norm(x: Tensor) -> float:
    return float(x.double().norm())


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
        allowed = times * norm(plain[name] - expected) + floor * max(norm(expected), usual)
        error = norm(found[name] - expected)
        used[name] = error / allowed if allowed else math.inf if error else 0.0
    return used


def check_budget(found: Results, plain: Results, exact: Results, others: list[Results], times: float = 2) -> None:
    """Holds every tensor to the error budget; arguments are those of `budget_used`."""
    for name, used in budget_used(found, plain, exact, others, times).items():
        assert used <= 1, f"{name}: {used:.3g} times the error that is allowed"
