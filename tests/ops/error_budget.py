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


def check_budget(found: Results, plain: Results, exact: Results, others: list[Results], times: float = 2) -> None:
    """Holds every tensor to the error budget.

    Args:
        found: Results of the kernels.
        plain: Results of the reference in the same dtype.
        exact: Those of the reference in float64.
        others: Exact results of other inputs of the same shapes. They tell how large a result usually is: a sum over
            all pixels may cancel to almost nothing, and its rounding errors do not.
        times: Errors of the plain path that are allowed.
    """
    for name, expected in exact.items():
        assert found[name].dtype == plain[name].dtype
        assert found[name].shape == expected.shape
        usual = math.sqrt(sum(norm(other[name]) ** 2 for other in others) / len(others)) if others else 0.0
        floor = VALUE_FLOOR if name == "out" else GRADIENT_FLOOR
        error, of_plain = norm(found[name] - expected), norm(plain[name] - expected)
        allowed = times * of_plain + floor * max(norm(expected), usual)
        assert error <= allowed, f"{name}: error {error:.3g}, plain path {of_plain:.3g}, norm {norm(expected):.3g}"
