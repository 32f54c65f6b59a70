"""The process that decodes images of strangers: it holds no model, sees no other image, and may be killed.

It imports no PyTorch, so that it starts at once. `decoding.py` starts it and speaks to it.
"""

import os
import struct
import sys
from typing import BinaryIO

REQUEST = struct.Struct(">QQQ")
"""Least side (0 for none), most pixels, and number of bytes of a file, which follow."""
ANSWER = struct.Struct(">?QQ")
"""Success with width and height, after which RGB pixels follow in rows; or failure with the number of bytes of the
reason, which follow, and 0."""
MEMORY = 2 << 30
"""Most address space beyond what the process begins with, bytes."""


def main() -> None:
    """Answers requests from standard input on standard output until it is closed."""
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # libraries that print must not get between the answers
        os.dup2(nothing, descriptor)
    from PIL import Image

    from transnext.data.images import read_image

    Image.init()
    _limit()
    answers.write(b"\1")  # ready
    answers.flush()
    while head := sys.stdin.buffer.read(REQUEST.size):
        least_side, most_pixels, size = REQUEST.unpack(head)
        data = sys.stdin.buffer.read(size)
        try:
            picture = read_image(data, least_side or None, max_pixels=most_pixels)
        except ValueError as error:
            _refuse(answers, str(getattr(error, "reason", error)))
        except MemoryError:
            _refuse(answers, "not enough memory to decode it")
        else:
            answers.write(ANSWER.pack(True, picture.width, picture.height))
            answers.write(picture.tobytes())
        answers.flush()


def _refuse(answers: BinaryIO, reason: str) -> None:
    text = reason.encode(errors="backslashreplace")
    answers.write(ANSWER.pack(False, len(text), 0) + text)


def _limit() -> None:
    """Takes from the process what decoding does not need, where the system can do that."""
    try:
        import resource
    except ImportError:  # Windows
        return
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            held = int(file.read().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, held + MEMORY)
    _lower(resource.RLIMIT_FSIZE, 0)  # no file
    _lower(resource.RLIMIT_CORE, 0)


def _lower(which: int, limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(which, (limit, limit))


if __name__ == "__main__":
    main()
