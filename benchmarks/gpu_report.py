"""What the processes of `gpu_check.py` share: rows for the one that started them, deadlines, times."""

import json
import os
import select
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

BROKEN = 3
"""Exit status of a process that can do nothing more with its GPU, and has said so."""


class Deadline(BaseException):
    """The time of a part is over; no library that catches errors keeps it for itself."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises `Deadline` in what takes longer."""

    def stop(*_: object) -> None:
        raise Deadline(f"not ready after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Report:
    """Where a process leaves its rows.

    Args:
        stream: Who started the process reads lines of JSON from there.
        out: Folder of results.
        dry: Whether this is a rehearsal on the CPU.
    """

    def __init__(self, stream: TextIO, out: Path, dry: bool) -> None:
        self.out, self.dry = out, dry
        self.device = torch.device("cpu" if dry else "cuda")
        self._stream = stream
        self._ends = 0.0

    def left(self) -> float:
        """Seconds left of the part that is being done."""
        return self._ends - time.monotonic()

    def row(self, table: str, **cells: Any) -> None:
        """Adds a row to a table."""
        self._send(table=table, row=cells)

    def serve(self, parts: Mapping[str, Callable[["Report", str], None]]) -> None:
        """Does what standard input says, until it ends: lines with a part and seconds; the first word tells what.

        Whatever goes wrong is reported. After a deadline, and where the GPU no longer answers, the process ends: an
        illegal access leaves nothing of use, and something that was interrupted may have left a lock or a capture.
        """
        for line in sys.stdin:
            order = json.loads(line)
            word, _, rest = order["part"].partition(" ")
            began, error, last = time.monotonic(), "", False
            self._ends = began + order["seconds"]
            try:
                with deadline(order["seconds"]):
                    parts[word](self, rest)
            except (Exception, Deadline) as e:
                error, last = first_line(e), isinstance(e, Deadline)
                print(f"in {order['part']}:", file=sys.stderr)
                traceback.print_exc()
            last = last or not self.device_answers()
            self._send(done=order["part"], seconds=round(time.monotonic() - began, 1), error=error, last=last)
            if last:
                os._exit(BROKEN)

    def device_answers(self) -> bool:
        """Tells if the GPU still takes orders of this process."""
        if not torch.cuda.is_initialized():
            return True
        try:
            torch.cuda.synchronize()
        except Exception:
            return False
        return True

    def _send(self, **message: Any) -> None:
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()


def is_told_something() -> bool:
    """Tells if another order waits at standard input."""
    return bool(select.select([sys.stdin.fileno()], [], [], 0)[0])


def first_line(error: BaseException) -> str:
    """Kind of an error and what it says, on one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def free_memory() -> None:
    """Gives back to the GPU what nobody uses: other processes are on it, too."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def time_us(function: Callable[[], object], dry: bool, per_call: int = 1, milliseconds: float = 8) -> float:
    """Microseconds of a call on the GPU, median; in a CUDA graph, without the host's share, where it can be captured.

    Args:
        function: What is timed.
        dry: Whether it is called once and timed by the clock.
        per_call: How many of what is to be known one call makes.
        milliseconds: Of a replay, of which there are ten, and of all that is timed where no graph can be made.
    """
    if dry:
        began = time.perf_counter()
        function()
        return (time.perf_counter() - began) * 1e6 / per_call
    import triton

    function()  # compiles
    torch.cuda.synchronize()  # the graph is made on another stream
    try:
        found = triton.testing.do_bench_cudagraph(function, rep=milliseconds, return_mode="median")
    except RuntimeError:  # not everything can be captured
        torch.cuda.synchronize()  # raises where that was not the reason
        found = triton.testing.do_bench(function, warmup=5, rep=5 * milliseconds, return_mode="median")
    return float(found) * 1e3 / per_call


def spread(milliseconds: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the 10th and 90th percentile."""
    if len(milliseconds) < 2:
        return (milliseconds[0],) * 3
    tenths = statistics.quantiles(milliseconds, n=10, method="inclusive")
    return statistics.median(milliseconds), tenths[0], tenths[-1]
