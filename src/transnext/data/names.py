"""File names: many in little memory, and any of them as text that can be written anywhere."""

import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

# Control characters, the line breaks of Unicode, and what `os.fsdecode` makes of bytes that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(name: str | bytes | os.PathLike[str]) -> str:
    """Return a name as text of one line that every terminal, JSON, HTML and UTF-8 file takes.

    Bytes that are not UTF-8 become `\\xff`, control characters `\\n`, `\\x1b`; all else stays. Such a text cannot be
    opened: keep the path for that.
    """
    return _UNPRINTABLE.sub(_escaped, os.fsdecode(name))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else match[0].encode("unicode_escape").decode()


class PackedNames(Sequence[str]):
    """File names as two arrays.

    A million Python strings would be copied by each forked worker: touching a string writes its reference count.

    Args:
        data: uint8, the encoded names one after the other.
        ends: int64 `[n]`, where each ends.
    """

    def __init__(self, data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        self.data = data
        self.ends = ends

    @classmethod
    def pack(cls, names: Sequence[str]) -> "PackedNames":
        """Return `names`, which may hold what is not Unicode, as `os.fsdecode` gives it."""
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        data, start = self.data.tobytes(), 0
        for end in self.ends.tolist():
            yield os.fsdecode(data[start:end])
            start = end

    def __getitem__(self, index: int) -> str:  # type: ignore[override] # slices are not needed
        index = range(len(self))[index]
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.data[start : self.ends[index]].tobytes())
