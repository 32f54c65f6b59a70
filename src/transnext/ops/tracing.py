"""How PyTorch runs the code just now: with sizes that are symbols, under autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch


def is_symbolic(*sizes: int) -> bool:
    """Whether one of `sizes` is a symbol, as in a graph that `torch.compile` or `torch.export` traces for any size.

    To compare a symbol would bind the graph to the answer.

    Args:
        sizes: Sizes of tensors, or what was computed from them.
    """
    if not torch.compiler.is_compiling():
        return False
    from torch.fx.experimental.symbolic_shapes import has_static_value  # takes a second to import

    return not all(has_static_value(size) for size in sizes)


def no_autocast(device_type: str) -> AbstractContextManager[object]:
    """Turns autocast off; does nothing where it is off already, so that exported graphs have no regions for it.

    Args:
        device_type: "cpu", "cuda" and so on.
    """
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
