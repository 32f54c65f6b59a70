"""Timing of several things in turn, so that a slow moment of the machine falls on all alike, and of its own peak."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from transnext.bench.workload import Step

MIN_ROUNDS, MAX_ROUNDS = 8, 100
ROUND_BUDGET = 20.0
"""Seconds that the rounds of one size take when their number is not given."""
MAX_REASON = 200
"""Letters of a reason."""


PRODUCT_SIDE = {"cpu": 1024, "cuda": 8192, "mps": 2048}
"""Rows and columns of the matrices: in cache on a CPU, large enough to fill a GPU."""
PRODUCTS = 4
"""Products timed at once."""


class WorkloadError(RuntimeError):
    """Another process failed; the text is the reason, in one line."""


@dataclass(kw_only=True)
class Timed:
    """A call and the times it took."""

    step: Step
    """The call."""
    seconds: list[float] = field(default_factory=list)
    """Its time in each round, s."""
    failure: str = ""
    """Reason why it is called no more; empty while it works."""


def run_rounds(timed: Sequence[Timed], rounds: int, device: str) -> None:
    """Calls each once in every round: in the order given, then in the opposite one, and so on.

    Times are added to `seconds` as they come, so that those measured stay when the user interrupts. What raises is not
    called again.

    Args:
        timed: What to time, already warm.
        rounds: How many times.
        device: Type of the device that is waited for.
    """
    for i in range(rounds):
        for item in timed if i % 2 == 0 else reversed(timed):
            if item.failure:
                continue
            try:
                item.seconds.append(time_call(item.step, device))
            except Exception as error:
                item.failure = reason(error)


def time_call(step: Step, device: str) -> float:
    """Seconds of one call, until the device has finished it."""
    synchronise(device)
    start = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: str) -> None:
    """Waits until the device has done its work; a CPU always has."""
    if device != "cpu":
        torch.accelerator.synchronize()


def rounds_that_fit(seconds_per_round: float) -> int:
    """An even number of rounds that takes about 20 s, 8 to 100."""
    fitting = int(ROUND_BUDGET / max(seconds_per_round, 1e-9)) // 2 * 2
    return min(max(fitting, MIN_ROUNDS), MAX_ROUNDS)


def relative_rate(seconds: Sequence[float], first_seconds: Sequence[float], work: float, first_work: float) -> float:
    """Speed of one thing compared with another, per unit of work: the median of the ratios of each round.

    Args:
        seconds: Times of the one by round, s.
        first_seconds: Times of the other, which is at 1.
        work: What the one does in a call.
        first_work: What the other does in a call, in the same unit.

    Raises:
        ValueError: There is no round with both.
    """
    ratios = [(work / t) / (first_work / t_first) for t, t_first in zip(seconds, first_seconds, strict=False)]
    if not ratios:
        raise ValueError("no round has both times")
    return statistics.median(ratios)


def matrix_product_rate(device: str, dtype: torch.dtype, seconds: float = 0.7) -> float:
    """The best rate of `torch.mm` on square matrices.

    Args:
        device: Type of the device: cpu, cuda or mps.
        dtype: Of the matrices.
        seconds: How long to try.

    Returns:
        Multiply-adds per second.
    """
    side = PRODUCT_SIDE[device]
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


def peak_method(device: str, dtype: str) -> str:
    """The way in which the peak was measured, in words."""
    side = PRODUCT_SIDE[device]
    return f"torch.mm, {side}x{side}, {dtype}, the best of many at the start, at the end and after each size"


def reason(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    if not isinstance(error, WorkloadError):
        name = type(error).__name__
        text = f"{name}: {text}" if text else name
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"
