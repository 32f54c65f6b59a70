"""Gradients that can be differentiated once more, which those of the kernels cannot: they come from the reference."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def differentiable_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of a function in plain PyTorch, as part of the graph.

    Args:
        function: What was computed, of `inputs`.
        inputs: Tensors, or None where an optional one is left out.
        grad: Gradient of the function's result.

    Returns:
        One for each input; None for those that want none.
    """
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    with torch.enable_grad():
        found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in inputs)
