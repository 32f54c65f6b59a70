"""The side of `gpu_check.py` that stays alive: what is known so far, and processes that do the work part by part.

Whatever reads memory that is not its own, hangs or runs out of memory takes its process along, and no more: what it was
doing is a row, and another process does what is left. Nothing here imports PyTorch or touches a GPU.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("gpu_check.py")
GRACE = 4.0
"""Seconds after its deadline in which a process may say itself that it was not ready."""

LISTS = ("variants", "checks", "stages")
"""Tables of what there is to do, which are not shown."""


class Results:
    """Rows of tables, written to `results.json` as they come.

    Args:
        out: Folder of the file, and of `log.txt`, where processes say what goes wrong.
        budget: Seconds for everything.
        dry: Whether this is a rehearsal on the CPU.
    """

    def __init__(self, out: Path, budget: float, dry: bool) -> None:
        self.out, self.dry = out, dry
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self._began = time.monotonic()
        self._ends = self._began + budget
        self._lock = threading.Lock()  # rows come from several processes
        out.mkdir(parents=True, exist_ok=True)
        self.log = out / "log.txt"
        self.log.write_text("")

    def left(self) -> float:
        """Seconds left of everything."""
        return self._ends - time.monotonic()

    def row(self, table: str, **cells: Any) -> None:
        """Adds a row, shows it and saves all there are."""
        with self._lock:
            self.tables.setdefault(table, []).append(cells)
            words = ", ".join(f"{k} {v}" for k, v in cells.items())
            if table not in LISTS:
                print(f"{time.monotonic() - self._began:6.1f} s  {table}: {words}", flush=True)
            temporary = self.out / "results.json.new"
            temporary.write_text(json.dumps(self.tables, indent=1))
            temporary.replace(self.out / "results.json")

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Those of a table, none if there is none."""
        return self.tables.get(table, [])

    def cut(self, part: str, why: str) -> None:
        """A row of what there was no time for, which is no failure."""
        self.row("cut", part=part, why=why)

    def show(self, table: str, columns: Sequence[str]) -> None:
        """Prints a table in Markdown."""
        print(f"\n{table}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in self.rows(table):
            print(f"| {' | '.join(str(row.get(column, '')) for column in columns)} |")


def shares(seconds: float, parts: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Names and seconds of the parts of something that takes `seconds`; what one leaves goes to the next ones."""
    ends = time.monotonic() + seconds
    left = sum(parts.values())
    for name, part in parts.items():
        yield name, max(0.1, (ends - time.monotonic()) * part / left)
        left -= part


class Child:
    """A process that does parts which it is told, one after the other; a new one when it is gone.

    Args:
        results: Where its rows go.
        kind: What `gpu_check.py --serve` takes.
    """

    def __init__(self, results: Results, kind: str) -> None:
        self.results, self.kind = results, kind
        self._process: subprocess.Popen[str] | None = None
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._ends: dict[str, float] = {}
        self.ended = False

    def start(self) -> None:
        """Has the process there, which takes seconds until it listens."""
        if self._process is not None and self._process.poll() is None:
            return
        command = [sys.executable, "-u", str(SCRIPT), "--serve", self.kind, "--out", str(self.results.out)]
        if self.results.dry:
            command.append("--dry")
        with self.results.log.open("a") as log:
            # A session of its own: what it starts ends with it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._messages = queue.Queue()
        threading.Thread(target=self._read, args=(self._process, self._messages), daemon=True).start()

    def _read(self, process: "subprocess.Popen[str]", messages: "queue.Queue[dict[str, Any] | None]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                messages.put(json.loads(line))
            except json.JSONDecodeError:  # what a library prints
                with self.results.log.open("a") as log:
                    log.write(line)
        messages.put(None)

    def begin(self, part: str, seconds: float) -> None:
        """Tells it a part."""
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._ends[part] = time.monotonic() + seconds
        with suppress(BrokenPipeError):  # `finish` sees that it is gone
            self._process.stdin.write(json.dumps({"part": part, "seconds": seconds}) + "\n")
            self._process.stdin.flush()

    def finish(self, part: str, quiet: bool = False) -> bool:
        """Takes its rows until a part is done, and tells whether it was. If not, why is a row.

        Args:
            part: What it was told.
            quiet: Whether a part that went well has no row in the table of steps.
        """
        began = time.monotonic()
        while True:
            try:
                message = self._messages.get(timeout=max(0.01, self._ends[part] + GRACE - time.monotonic()))
            except queue.Empty:
                self.close()
                self._fails(part, began, "it hung, and was ended")
                return False
            if message is None:
                status = self._process.wait() if self._process else None
                self.close()
                self._fails(part, began, f"the process ended with status {status}: see log.txt")
                return False
            if "row" in message:
                self.results.row(message["table"], **message["row"])
            elif message.get("done") == part:
                if message["last"]:
                    self.close()
                if message["error"].startswith("Deadline"):
                    self.results.cut(part, message["error"])
                elif message["error"]:
                    self._fails(part, began, message["error"])
                elif not quiet:
                    self.results.row("steps", step=part, seconds=message["seconds"], error="")
                return not message["error"]

    def _fails(self, part: str, began: float, error: str) -> None:
        self.results.row("steps", step=part, seconds=round(time.monotonic() - began, 1), error=error)

    def run(self, part: str, seconds: float, quiet: bool = False) -> bool:
        """Has it do a part. Arguments are those of `begin` and `finish`."""
        self.begin(part, seconds)
        return self.finish(part, quiet)

    def pause(self, paused: bool = True) -> None:
        """Stops the process where it is, or has it go on."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    def end(self) -> None:
        """Ends the process for good."""
        self.ended = True
        self.close()

    def close(self) -> None:
        """Ends the process, and all that it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def run_side_by_side(children: Sequence[Child], parts: Iterable[str], seconds: float) -> None:
    """Has several processes do parts, each the next one when it is free; what is not begun in time is cut.

    Args:
        children: The processes.
        parts: What is to be done, the longest first.
        seconds: For all of them.
    """
    ends = time.monotonic() + seconds
    waiting: queue.Queue[str] = queue.Queue()
    for part in parts:
        waiting.put(part)

    def serve(child: Child) -> None:
        while not child.ended:
            try:
                part = waiting.get_nowait()
            except queue.Empty:
                return
            left = ends - time.monotonic()
            if left <= 0:
                child.results.cut(part, "no time was left")
            else:
                child.run(part, left)

    threads = [threading.Thread(target=serve, args=(child,), daemon=True) for child in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
