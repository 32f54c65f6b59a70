"""A queue in front of the models: one computation at a time, a few that wait, and a clear no to all others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")

PLACES = 32
"""Requests that are read, decoded, waiting or computed at once."""
BYTES = 128 << 20
"""Of files that these requests hold together."""


class BusyError(Exception):
    """There is no place in the queue."""


class GoneError(Exception):
    """Whoever asked has gone away."""


class Lane:
    """The one thread that computes, and the queue in front of it.

    PyTorch uses all cores for one image: two at once would only take each other's caches. And the mode of a model is
    a setting of its weights, which nobody else may change meanwhile.

    Args:
        places: Requests that are admitted at once.
        num_bytes: Most bytes of files that they hold.
    """

    def __init__(self, places: int = PLACES, num_bytes: int = BYTES) -> None:
        self.places = places
        self.bytes = num_bytes
        self._turn = asyncio.Lock()  # asyncio's are fair
        self._thread = ThreadPoolExecutor(1, "transnext-models")

    @asynccontextmanager
    async def place(self, num_bytes: int = 0) -> AsyncIterator[None]:
        """A place in the queue, taken for the block.

        Args:
            num_bytes: Of the file that the request brings.

        Raises:
            BusyError: There is none.
        """
        if self.places < 1 or self.bytes < num_bytes:
            raise BusyError
        self.places -= 1
        self.bytes -= num_bytes
        try:
            yield
        finally:
            self.places += 1
            self.bytes += num_bytes

    async def run(self, gone: Callable[[], Awaitable[bool]], function: Callable[[], T]) -> T:
        """Computes when it is this request's turn.

        Args:
            gone: Tells if nobody waits for the answer any more; asked when the turn comes.
            function: What to compute.

        Raises:
            GoneError: Nobody waits.
        """
        async with self._turn:
            if await gone():
                raise GoneError
            # Shielded: a thread cannot be stopped, and the turn is over only when it has finished.
            work = asyncio.get_running_loop().run_in_executor(self._thread, function)
            try:
                return await asyncio.shield(work)
            finally:
                await asyncio.wait([work])

    def close(self) -> None:
        """Ends the thread when it has finished."""
        self._thread.shutdown(wait=False, cancel_futures=True)
