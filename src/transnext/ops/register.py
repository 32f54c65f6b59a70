"""Registration of an op with PyTorch: schema, shapes of its results, gradient, cost, kernels.

Each op's file calls these for itself. Only what `transnext.ops.backend` lets through comes to an op.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

LIBRARY = torch.library.Library("transnext", "DEF")
OPS = getattr(torch.ops, LIBRARY.ns)

Function = TypeVar("Function", bound=Callable[..., Any])
Gradients = tuple[Tensor | None, ...]


def define(schema: str) -> Callable[[Function], Function]:
    """Defines an op; what is decorated is its fake kernel, which makes results of the right shape, dtype and strides.

    Args:
        schema: In PyTorch's notation, without the name of the library.
    """
    LIBRARY.define(schema)
    name = f"{LIBRARY.ns}::{schema.split('(')[0]}"

    def register(fake: Function) -> Function:
        torch.library.register_fake(name, fake, lib=LIBRARY)
        return fake

    return register


def costs(name: str) -> Callable[[Function], Function]:
    """Registers what an op costs, for `torch.utils.flop_counter`: two for a multiply-add, nothing for exponentials.

    What is decorated takes the shapes of the arguments that are tensors and returns the number of operations.

    Args:
        name: Of the op.
    """

    def register(formula: Function) -> Function:
        register_flop_formula(getattr(OPS, name))(formula)
        return formula

    return register


def register_gradient(
    name: str,
    definition: Callable[..., Tensor],
    gradient: Callable[..., Sequence[Tensor | None]],
    num_tensors: int,
    keeps_result: bool = False,
) -> None:
    """Registers the gradient of an op that keeps its inputs, and its results beyond the first, which have no gradient.

    A gradient that is to be differentiated once more (`create_graph=True`) comes from the definition.

    Args:
        name: Of the op.
        definition: The op in plain PyTorch, with its arguments.
        gradient: Takes which tensors want one (a tuple of bools), the gradient of the result, the other results and the
            arguments, and returns a gradient for each tensor; it may be None, and is ignored, where none is wanted.
        num_tensors: How many of the arguments, the first ones, are tensors or None.
        keeps_result: Whether the first result is kept as well, and given to `gradient` before the others.
    """

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        results = output if isinstance(output, tuple) else (output,)
        ctx.mark_non_differentiable(*results[1:])
        # Else each of the other results, some of them the largest maps there are, gets zeros for a gradient.
        ctx.set_materialize_grads(False)
        others = results if keeps_result else results[1:]
        ctx.save_for_backward(*others, *inputs[:num_tensors])
        ctx.num_others, ctx.sizes = len(others), inputs[num_tensors:]

    def backward(ctx: Any, grad: Tensor | None, *_: object) -> Gradients:
        if grad is None:  # of a result that another function wants no gradient of
            return (None,) * (num_tensors + len(ctx.sizes))
        saved = ctx.saved_tensors  # once: under checkpointing they cannot be had again
        others, tensors = saved[: ctx.num_others], saved[ctx.num_others :]
        wanted = ctx.needs_input_grad[:num_tensors]
        if torch.is_grad_enabled():
            found: Sequence[Tensor | None] = plain_gradients(definition, tensors, ctx.sizes, grad)
        else:
            found = gradient(wanted, grad, *others, *tensors, *ctx.sizes)
        return (*(g if want else None for g, want in zip(found, wanted, strict=True)), *(None for _ in ctx.sizes))

    torch.library.register_autograd(f"{LIBRARY.ns}::{name}", backward, setup_context=keep, lib=LIBRARY)


def plain_gradients(
    definition: Callable[..., Tensor], tensors: Sequence[Tensor | None], sizes: Sequence[Any], grad: Tensor
) -> Gradients:
    """Gradients of a function in plain PyTorch, as part of the graph.

    Args:
        definition: What was computed, of `tensors` and `sizes`.
        tensors: Tensors, or None where an optional one is left out.
        sizes: The other arguments.
        grad: Gradient of the function's result.

    Returns:
        One for each tensor; None for those that want none.
    """
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    with torch.enable_grad():
        result = definition(*tensors, *sizes)
        found = iter(torch.autograd.grad(result, wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in tensors)


def register_triton(name: str, file: str, suffix: str = "") -> None:
    """Registers the Triton kernels of an op and of its backward, which are imported when they are called.

    Args:
        name: Of the op.
        file: In `transnext.ops.triton`; it has functions `forward` and `backward`.
        suffix: Of the names of those functions.
    """

    def implementation(function: str) -> Callable[..., Any]:
        def run(first: Tensor, *others: Any) -> Any:
            with torch.cuda.device(first.device):
                return getattr(import_module(f"transnext.ops.triton.{file}"), function)(first, *others)

        return run

    LIBRARY.impl(name, implementation(f"forward{suffix}"), "CUDA")
    LIBRARY.impl(f"{name}_backward", implementation(f"backward{suffix}"), "CUDA")


def _load_kernels() -> ModuleType | None:
    try:
        return import_module("transnext.ops._cpu")
    except ImportError:
        return None


CPU_KERNELS = _load_kernels()
"""The compiled module, which registers the kernels as it is imported; None where it was not built or does not load."""
