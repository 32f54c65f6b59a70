"""Ctrl-C and SIGTERM as a wish that is granted between two updates."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Those that ask for an end; where processes got different ones, the first counts."""


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal asked the run to end.

    Attributes:
        signal: Which one.
    """

    def __init__(self, received: int) -> None:
        super().__init__(received)
        self.signal = received


class StopRequest:
    """Notes the first signal while the block runs; a second one interrupts at once.

    In a thread other than the main one it notes nothing, as Python allows signal handlers there alone.

    Attributes:
        received: The signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
