"""Timing in turn: order, failures, interruption, and the arithmetic of times."""

import time
from collections.abc import Callable

import pytest

from transnext.bench.measure import MAX_REASON, Timed, reason, relative_rate, rounds_that_fit, run_rounds


def recorder(calls: list[str], name: str) -> Callable[[], None]:
    return lambda: calls.append(name)


def test_rounds_go_forth_and_back() -> None:
    calls: list[str] = []
    timed = [Timed(step=recorder(calls, name)) for name in "abc"]
    run_rounds(timed, 3, "cpu")
    assert "".join(calls) == "abccbaabc"
    assert [len(item.seconds) for item in timed] == [3, 3, 3]


def test_times_are_those_of_the_call() -> None:
    timed = [Timed(step=lambda: time.sleep(0.05)), Timed(step=lambda: None)]
    run_rounds(timed, 2, "cpu")
    assert min(timed[0].seconds) >= 0.05
    assert all(seconds > 0 for seconds in timed[1].seconds)


def test_what_fails_is_left_out_and_the_others_go_on() -> None:
    calls: list[str] = []

    def second_time() -> None:
        calls.append("b")
        if calls.count("b") == 2:
            raise RuntimeError("out of\nmemory")

    timed = [Timed(step=recorder(calls, "a")), Timed(step=second_time), Timed(step=recorder(calls, "c"))]
    run_rounds(timed, 4, "cpu")
    assert "".join(calls) == "abccbaacca"
    assert [len(item.seconds) for item in timed] == [4, 1, 4]
    assert timed[1].failure == "RuntimeError: out of memory"


def test_an_interruption_keeps_the_times_so_far() -> None:
    count = 0

    def third_time() -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    timed = [Timed(step=lambda: None), Timed(step=third_time)]
    with pytest.raises(KeyboardInterrupt):
        run_rounds(timed, 10, "cpu")
    assert [len(item.seconds) for item in timed] == [3, 2]


def test_relative_rate_is_the_median_over_rounds() -> None:
    # The second round is slow for both, the third for the first one alone: neither moves the median.
    ratio = relative_rate(seconds=[0.5, 5.0, 0.5], first_seconds=[1.0, 10.0, 9.0], work=3.0, first_work=2.0)
    assert ratio == pytest.approx(3.0)
    assert relative_rate([2.0], [1.0, 7.0], 1.0, 1.0) == pytest.approx(0.5), (
        "a round that one of them lacks is left out"
    )
    with pytest.raises(ValueError, match="no round"):
        relative_rate([], [1.0], 1.0, 1.0)


def test_rounds_that_fit_the_time() -> None:
    assert rounds_that_fit(1.0) == 20
    assert rounds_that_fit(30.0) == 8
    assert rounds_that_fit(0.0) == 100
    assert all(rounds_that_fit(seconds) % 2 == 0 for seconds in (0.3, 0.7, 0.9, 1.1))


def test_a_reason_is_one_short_line() -> None:
    assert reason(ValueError()) == "ValueError"
    assert len(reason(ValueError("x\n" * 999))) == MAX_REASON
