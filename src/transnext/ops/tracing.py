"""State in which PyTorch runs the code: with sizes that are symbols, for other runtimes, under autocast."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_shared: dict[Hashable, Any] | None = None


def is_symbolic(*sizes: int) -> bool:
    """Tells if one of `sizes` is a symbol: to compare it would bind the graph to the answer.

    Args:
        sizes: Sizes of tensors, or what was computed from them.
    """
    # Dynamo shows symbols as integers.
    if not torch.compiler.is_compiling() and not any(isinstance(size, torch.SymInt) for size in sizes):
        return False
    from torch.fx.experimental.symbolic_shapes import has_static_value  # takes a second to import

    return not all(has_static_value(size) for size in sizes)


def at_least_one(size: int) -> int:
    """`max(1, size)`, which for a symbol would be a question."""
    if not is_symbolic(size):
        return max(1, size)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    found: int = size if statically_known_true(size >= 1) else torch.sym_max(1, size)  # type: ignore[assignment]
    return found


def is_exporting() -> bool:
    """Tells if a graph is traced for runtimes that have none of our ops: within `exporting`, or by `torch.onnx.export`.

    `torch.export` by itself keeps our ops, which PyTorch runs.
    """
    if _shared is not None:
        return True
    return (torch.compiler.is_compiling() or torch.jit.is_tracing()) and torch.onnx.is_in_onnx_export()


@contextmanager
def exporting() -> Iterator[None]:
    """In the block, ops write themselves down in plain operators, and what depends on sizes alone once."""
    global _shared
    outer, _shared = _shared, {}
    try:
        yield
    finally:
        _shared = outer


def shared(key: tuple[Hashable, ...], build: Callable[[], T]) -> T:
    """Return what `build` makes; within `exporting` it is made once for each key.

    Args:
        key: Everything that it depends on, sizes among them.
        build: Makes it.
    """
    if _shared is None:
        return build()
    name = tuple(map(str, key))  # symbols have no hash
    if name not in _shared:
        _shared[name] = build()
    built: T = _shared[name]
    return built


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float64 stays, all others become float32; `torch.promote_types` would leave nodes.

    Args:
        dtype: A floating-point one.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def as_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x.to(dtype)`, which would leave nodes in a graph where it does nothing."""
    return x if x.dtype == dtype else x.to(dtype)


def no_autocast(device_type: str) -> AbstractContextManager[object]:
    """Turns autocast off; does nothing where it is off already, so that exported graphs have no regions for it.

    Args:
        device_type: "cpu", "cuda" and so on.
    """
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
