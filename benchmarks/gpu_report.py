"""What the steps of `gpu_check.py` share: results that are on the disk after each of them, deadlines, times."""

import json
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class Deadline(BaseException):
    """The time of a step is over; no library that catches errors keeps it for itself."""


class Report:
    """Rows of tables, written to `results.json` as they come.

    Args:
        out: Folder of the file.
        budget: Seconds for everything.
        dry: Whether this is a rehearsal on the CPU.
    """

    def __init__(self, out: Path, budget: float, dry: bool) -> None:
        self.out, self.dry = out, dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self._began = time.monotonic()
        self._ends = self._began + budget
        out.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def shares(seconds: float, parts: dict[str, float]) -> Iterator[tuple[str, float]]:
        """Names and seconds of the parts of something that takes `seconds`; what one leaves goes to the next ones."""
        ends = time.monotonic() + seconds
        left = sum(parts.values())
        for name, part in parts.items():
            yield name, max(0.1, (ends - time.monotonic()) * part / left)
            left -= part

    def left(self) -> float:
        """Seconds left of everything."""
        return self._ends - time.monotonic()

    def row(self, table: str, **cells: Any) -> None:
        """Adds a row, shows it and saves all there are."""
        self.tables.setdefault(table, []).append(cells)
        print(f"{time.monotonic() - self._began:6.1f} s  {table}: {', '.join(f'{k} {v}' for k, v in cells.items())}")
        temporary = self.out / "results.json.new"
        temporary.write_text(json.dumps(self.tables, indent=1))
        temporary.replace(self.out / "results.json")

    @contextmanager
    def guarded(self, name: str, seconds: float) -> Iterator[None]:
        """A step: whatever goes wrong in it, or takes it longer than `seconds`, is a row, and the next one begins."""

        def stop(*_: object) -> None:
            raise Deadline(f"not ready after {seconds:.0f} s")

        began = time.monotonic()
        before = signal.signal(signal.SIGALRM, stop)
        outer = signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))[0]
        error = ""
        try:
            yield
        except (Exception, Deadline) as e:
            error = f"{type(e).__name__}: {e}".splitlines()[0][:300]
            if not isinstance(e, Deadline):
                traceback.print_exc()
        finally:
            # What was left of a step around this one goes on.
            passed = time.monotonic() - began
            signal.setitimer(signal.ITIMER_REAL, max(0.1, outer - passed) if outer else 0)
            signal.signal(signal.SIGALRM, before)
        if error or not outer:
            self.row("steps", step=name, seconds=round(passed, 1), error=error)

    def show(self, table: str, columns: Sequence[str]) -> None:
        """Prints a table in Markdown."""
        rows = self.tables.get(table, [])
        print(f"\n{table}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in rows:
            print(f"| {' | '.join(str(row.get(column, '')) for column in columns)} |")


def time_us(function: Callable[[], object], dry: bool, per_call: int = 1) -> float:
    """Microseconds of a call on the GPU, median; in a CUDA graph, without the host's share, where it can be captured.

    Args:
        function: What is timed.
        dry: Whether it is called once and timed by the clock.
        per_call: How many of what is to be known one call makes.
    """
    if dry:
        began = time.perf_counter()
        function()
        return (time.perf_counter() - began) * 1e6 / per_call
    import triton

    function()  # compiles
    try:
        milliseconds = triton.testing.do_bench_cudagraph(function, rep=15, return_mode="median")
    except RuntimeError:  # not everything can be captured
        milliseconds = triton.testing.do_bench(function, warmup=5, rep=15, return_mode="median")
    return milliseconds * 1e3 / per_call


def spread(milliseconds: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the 10th and 90th percentile."""
    if len(milliseconds) < 2:
        return (milliseconds[0],) * 3
    tenths = statistics.quantiles(milliseconds, n=10, method="inclusive")
    return statistics.median(milliseconds), tenths[0], tenths[-1]
