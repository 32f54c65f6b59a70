"""A cache of what is derived from weights, and the question if weights may stand for the call of a module."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from transnext.ops.backend import is_capturing
from transnext.ops.register import CPU_KERNELS

T = TypeVar("T")

PLAIN_TENSORS: tuple[type, ...] = (Tensor, nn.Parameter)


def is_untouched(module: nn.Module) -> bool:
    """Tells if calling a module does what its class says: nobody patched or hooked it."""
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    return "forward" not in module.__dict__


def global_hooks() -> bool:
    """Tells if hooks watch the calls of all modules."""
    watching = nn.modules.module
    return bool(
        watching._global_forward_hooks
        or watching._global_forward_pre_hooks
        or watching._global_backward_hooks
        or watching._global_backward_pre_hooks
    )


def untouched_weights(*linears: nn.Module) -> Sequence[Tensor] | None:
    """Weights and biases from which the result of Linears may be computed without calling them; None if it may not."""
    if not all(type(linear) is nn.Linear and is_untouched(linear) for linear in linears) or global_hooks():
        return None
    weights = [p for linear in linears for p in linear._parameters.values() if p is not None]
    plain = len(weights) == 2 * len(linears) and all(type(p) in PLAIN_TENSORS for p in weights)
    return weights if plain else None


Matrices: TypeAlias = list[tuple[int, int, int]] | None
"""Address, rows and bytes of each weight; None if they cannot be read there."""


class _Entry(NamedTuple):
    weights: list[Tensor]
    state: Sequence[Hashable]
    matrices: Matrices
    digests: dict[bool, bytes]
    value: Any


class WeightCache:
    """Remembers values that were computed from weights, one for each key, until a weight changes.

    A change is seen by PyTorch's version counters, by where and how a weight lies in memory, and by a digest of its
    content. The digest is for what goes past the counters: `weight.data.mul_`, NumPy arrays that share the memory,
    other processes, optimisers with `fused=True`. It is of all bytes if `whole`, and always of matrices up to 16 KB or
    with few rows. Of others it is else of 64 bytes of each row, at another place in each: it sees whatever changes a
    whole row, a whole column or more, but not for certain what changes parts of them alone, such as
    `weight.data[0, 0] = 1`. `clear` forgets everything, as `train()` and `eval()` of the model do, and every forward
    pass with gradients.

    Nothing is remembered of weights on other devices, whose content would have to be waited for, nor of those made in
    inference mode, where nothing is counted; and nothing is served while forward-mode derivatives are taken, for a
    weight may then carry a tangent that lies elsewhere.

    It keeps the memory of the weights that entries were made from, so that no other tensor can take its place unseen.
    Copies and pickles of it are empty. Threads may share it.

    Args:
        max_entries: Entries kept; the oldest is dropped.
    """

    def __init__(self, max_entries: int = 4) -> None:
        self.max_entries = max_entries
        self._entries: dict[Hashable, _Entry] = {}

    def get(self, key: Hashable, weights: Sequence[Tensor], build: Callable[[], T], whole: bool = True) -> T:
        """The value of `key`, built anew when it is not there or a weight has changed since.

        Args:
            key: Everything else that the value depends on.
            weights: What the value is computed from, always in the same order.
            build: Makes the value.
            whole: Compare all bytes of the weights, not samples of the large ones.
        """
        # A CUDA graph must read what nobody else frees, and see new weights.
        if is_capturing() or torch.autograd.forward_ad._current_level >= 0:
            return build()
        try:
            state = [(w._version, w.data_ptr(), w.shape, w.stride(), w.dtype) for w in weights]
        except RuntimeError:  # made in inference mode, where nothing is counted, or transformed by torch.func
            return build()
        entry = self._entries.get(key)
        if entry is not None and entry.state == state:
            value: T = entry.value
            if entry.digests[whole] == _digest(weights, entry.matrices, whole):
                return value
        if not all(weight.is_cpu for weight in weights):
            return build()
        matrices: Matrices = None
        if CPU_KERNELS is not None and all(weight.is_contiguous() for weight in weights):
            matrices = [(weight.data_ptr(), len(weight), weight.nbytes) for weight in weights]
        # Before the value, for weights may change while it is built.
        digests = {kind: _digest(weights, matrices, kind) for kind in (False, True)}
        with torch.inference_mode(False), torch.no_grad():
            built = build()
        entries = dict(self._entries)
        entries.pop(key, None)
        while len(entries) >= self.max_entries:
            del entries[next(iter(entries))]
        entries[key] = _Entry([weight.detach() for weight in weights], state, matrices, digests, built)
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


def _digest(weights: Sequence[Tensor], matrices: Matrices, whole: bool) -> bytes:
    """A digest of the content of weights, as `whole` says; without `matrices` the content itself."""
    if matrices is None or CPU_KERNELS is None:
        return b"".join(w.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() for w in weights)
    digest: bytes = CPU_KERNELS.digest(matrices, whole)
    return digest
