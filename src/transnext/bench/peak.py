"""The machine's own peak: how fast it multiplies matrices."""

import time

import torch

from transnext.bench.measure import synchronise

SIDE = {"cpu": 1024, "cuda": 8192, "mps": 2048}
"""Rows and columns of the matrices: in cache on a CPU, large enough to fill a GPU."""
PRODUCTS = 4
"""Products timed at once."""


def matrix_product_rate(device: str, dtype: torch.dtype, seconds: float = 0.7) -> float:
    """The best rate of `torch.mm` on square matrices.

    Args:
        device: Type of the device: cpu, cuda or mps.
        dtype: Of the matrices.
        seconds: How long to try.

    Returns:
        Multiply-adds per second.
    """
    side = SIDE[device]
    a, b, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
    torch.mm(a, b, out=out)
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(PRODUCTS):
            torch.mm(a, b, out=out)
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return PRODUCTS * side**3 / best


def method(device: str, dtype: str) -> str:
    """How the peak was measured, in words."""
    side = SIDE[device]
    return f"torch.mm, {side}x{side}, {dtype}, the best of many at the start, at the end and after each size"
