"""Decoding in processes of its own, which are killed when an image takes too long."""

import asyncio
import contextlib
import json
import subprocess
import sys

from PIL import Image

from transnext.web.server.decoder import ANSWER, REQUEST

MAX_PIXELS = 1 << 26
"""Images that say they have more pixels are refused before any is decoded: as RGB they need 200 MB."""
SECONDS = 10.0
"""After which a process that decodes is killed."""
PROCESSES = 2
"""So that an image that takes long keeps nobody else waiting."""
IMAGES = 200
"""After which a process gives way to a fresh one, with all that a codec did not free."""
_START_SECONDS = 60.0
_CHUNK = 1 << 20
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from transnext.web.server.decoder import main; main()"
)


class RefusedImage(ValueError):  # noqa: N818 - the name says what it is
    """Bytes that cannot be decoded, or not within the limits; the message is the reason, one line."""


class _Process:
    """A process of `decoder.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.images = 0

    @classmethod
    async def start(cls) -> "_Process":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _PROGRAM,
            json.dumps(sys.path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            limit=_CHUNK,
        )
        started = cls(process)
        try:
            assert process.stdout is not None
            await asyncio.wait_for(process.stdout.readexactly(1), _START_SECONDS)
        except (asyncio.IncompleteReadError, asyncio.TimeoutError, OSError):
            await started.kill()
            raise RuntimeError("the process that decodes images does not start") from None
        except BaseException:
            await started.kill()
            raise
        return started

    async def decode(self, data: bytes, least_side: int | None, most_pixels: int) -> Image.Image:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        self.images += 1
        stdin.write(REQUEST.pack(least_side or 0, most_pixels, len(data)))
        for start in range(0, len(data), _CHUNK):
            stdin.write(data[start : start + _CHUNK])
            await stdin.drain()
        good, width, height = ANSWER.unpack(await stdout.readexactly(ANSWER.size))
        if not good:
            raise RefusedImage((await stdout.readexactly(width)).decode())
        if width * height > most_pixels:  # it speaks for bytes of a stranger
            raise RefusedImage(f"{width} x {height} is more than the limit of {most_pixels} pixels; make it smaller")
        pixels = bytearray()
        while missing := 3 * width * height - len(pixels):
            part = await stdout.read(min(missing, _CHUNK))
            if not part:
                raise asyncio.IncompleteReadError(bytes(0), missing)
            pixels += part
        return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        if self.process.stdin is not None:
            self.process.stdin.close()
        await self.process.wait()


class Decoders:
    """Processes that decode images, kept ready.

    Args:
        processes: How many.
        seconds: After which one that decodes is killed.
        max_pixels: Most pixels of an image.
    """

    def __init__(self, processes: int = PROCESSES, seconds: float = SECONDS, max_pixels: int = MAX_PIXELS) -> None:
        self.seconds = seconds
        self.max_pixels = max_pixels
        self._idle: asyncio.Queue[asyncio.Task[_Process]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[_Process]] = set()
        for _ in range(processes):
            self._start()

    async def ready(self) -> None:
        """Waits until all have started.

        Raises:
            RuntimeError: One does not.
        """
        await asyncio.gather(*self._tasks)

    async def decode(self, data: bytes, least_side: int | None = None) -> Image.Image:
        """An image file as 8-bit RGB, upright, as `transnext.data.read_image` gives it.

        Args:
            data: The file.
            least_side: As in `read_image`.

        Raises:
            RefusedImage: It is no image, a damaged one, too large, or takes too long.
        """
        task = await self._idle.get()
        process: _Process | None = None
        usable = False
        try:
            process = await asyncio.shield(task)
            picture = await asyncio.wait_for(process.decode(data, least_side, self.max_pixels), self.seconds)
            usable = process.images < IMAGES
            return picture
        except RefusedImage:
            usable = process is not None and process.images < IMAGES
            raise
        except asyncio.TimeoutError:
            raise RefusedImage(f"it takes more than {self.seconds:g} s to decode") from None
        except (asyncio.IncompleteReadError, OSError):
            raise RefusedImage("it is damaged in a way that ends the decoder") from None
        finally:
            if usable:
                self._idle.put_nowait(task)
            else:
                self._tasks.discard(task)
                self._start()
                if process is not None:
                    await process.kill()

    async def close(self) -> None:
        """Ends the processes."""
        for task in list(self._tasks):
            if task.done() and not task.cancelled() and task.exception() is None:
                await task.result().kill()
            else:
                task.cancel()
                await asyncio.wait([task])
        self._tasks.clear()

    def _start(self) -> None:
        task = asyncio.create_task(_Process.start())
        self._tasks.add(task)
        self._idle.put_nowait(task)
