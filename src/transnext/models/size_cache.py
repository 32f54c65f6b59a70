"""A small bounded cache for tensors that depend on sizes only."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor

from transnext.ops.backend import is_capturing
from transnext.ops.tracing import is_exporting, shared

T = TypeVar("T")


class SizeCache:
    """Least-recently-used cache of what is built once per input size. Threads may share it.

    It is passed over where a remembered tensor would be wrong: while a graph is being traced (sizes may be symbolic)
    and for tensor subclasses such as fake tensors; and while a CUDA graph is being captured, which would read an entry
    after it was dropped. Entries are made outside inference mode so that a model that was
    first used for inference can be trained.

    Args:
        max_entries: Entries kept; the least recently used one is dropped.
    """

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self._entries: OrderedDict[Hashable, object] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, like: Tensor, build: Callable[[], T]) -> T:
        """The entry of `key`, built when it is not there.

        Args:
            key: Everything the entry depends on: sizes, dtype, device.
            like: A tensor of the running computation; only plain tensors are served from the cache.
            build: Makes the entry.
        """
        if is_exporting():
            return shared((id(self), key), build)
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(like) is not Tensor:
            return build()
        if is_capturing():
            return build()
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]  # type: ignore[return-value]
        with torch.inference_mode(False), torch.no_grad():
            entry = build()
        with self._lock:
            self._entries[key] = entry
            while len(self._entries) > self.max_entries:
                self._entries.popitem(last=False)
        return entry
