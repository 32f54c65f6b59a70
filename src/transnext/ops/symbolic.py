"""Sizes that are symbols, as in a graph that `torch.compile` or `torch.export` traces for any size."""

import torch


def is_symbolic(*sizes: int) -> bool:
    """Whether one of `sizes` is a symbol: to compare it would bind the graph to the answer.

    Args:
        sizes: Sizes of tensors, or what was computed from them.
    """
    if not torch.compiler.is_compiling():
        return False
    from torch.fx.experimental.symbolic_shapes import has_static_value  # takes a second to import

    return not all(has_static_value(size) for size in sizes)
