"""Many names in little memory."""

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


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

    def __getitem__(self, index: int) -> str:  # type: ignore[override] # slices are not needed
        index = range(len(self))[index]
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.data[start : self.ends[index]].tobytes())
