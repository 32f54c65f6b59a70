"""A stand-in for the module `pickle`, for `torch.load`: makes tensors and containers, and never runs code of a file."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

_MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class Inert:
    """Stands for an object whose class is unknown. Takes everything that unpickling does to it and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        """Itself."""
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None:
        """Nothing."""

    def __str__(self) -> str:
        return type(self).__qualname__


class Unpickler(pickle.Unpickler):
    """Puts an `Inert` for everything that a file names, save what tensors are made with. Imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name. Storage classes, which are data types only, torch deals with before this."""
        if (module, name) in _MAKERS:
            maker = _MAKERS[module, name]
            # A new function each time: a file can set attributes of what it gets, and must not reach the real one.
            return lambda *args: maker(*args)
        return type("Inert", (Inert,), {"__qualname__": f"{module}.{name}"})


def load(file: Any, **kwargs: Any) -> Any:
    """As `pickle.load`."""
    return Unpickler(file, **kwargs).load()
