"""A cache of what is derived from weights, remade when they change."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from transnext.ops.backend import is_capturing

T = TypeVar("T")


class WeightCache:
    """Remembers values that were computed from weights, one for each key, until a weight changes.

    A change is seen by PyTorch's version counters, which count in-place updates (most optimisers, `load_state_dict`,
    `copy_`), and by the memory that a weight lies in. What writes into that memory past the counters is hidden from
    both: `weight.data.copy_`, NumPy arrays that share it, optimisers with `fused=True`. Call `clear` then, as `train()`
    and `eval()` of the model do, and every forward pass with gradients, which a step of an optimiser follows.

    It keeps the memory of the weights that entries were made from, so that no other tensor can take its place unseen.
    Copies and pickles of it are empty. Threads may share it.

    Args:
        max_entries: Entries kept; the oldest is dropped.
    """

    def __init__(self, max_entries: int = 4) -> None:
        self.max_entries = max_entries
        self._entries: dict[Hashable, tuple[list[Tensor], list[int], list[int], Any]] = {}

    def get(self, key: Hashable, weights: Sequence[Tensor], build: Callable[[], T]) -> T:
        """The value of `key`, built anew when it is not there or a weight has changed since.

        Args:
            key: Everything else that the value depends on.
            weights: What the value is computed from, always in the same order.
            build: Makes the value.
        """
        if is_capturing():  # a graph must read what nobody else frees, and see new weights
            return build()
        try:
            versions = [weight._version for weight in weights]
        except RuntimeError:  # made in inference mode, where nothing is counted
            return build()
        places = [weight.data_ptr() for weight in weights]
        entry = self._entries.get(key)
        if entry is not None and entry[1] == versions and entry[2] == places:
            value: T = entry[3]
            return value
        with torch.inference_mode(False), torch.no_grad():
            built = build()
        entries = dict(self._entries)
        entries.pop(key, None)
        while len(entries) >= self.max_entries:
            del entries[next(iter(entries))]
        entries[key] = ([weight.detach() for weight in weights], versions, places, built)
        self._entries = entries  # in one step: other threads see the old dictionary or the new one
        return built

    def clear(self) -> None:
        """Forgets everything."""
        self._entries = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __deepcopy__(self, memo: dict[int, Any]) -> "WeightCache":
        return WeightCache(self.max_entries)

    def __reduce__(self) -> tuple[type["WeightCache"], tuple[int]]:
        return WeightCache, (self.max_entries,)
