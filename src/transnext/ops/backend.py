"""Which implementation runs: the compiled kernels or the definition in plain PyTorch, and why.

One predicate, `why_not_fused`, decides for `backend="auto"`, explains itself for `backend="fused"` and is what
`transnext info` shows.
"""

import warnings
from collections.abc import Iterable
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from transnext.ops.library import CPU_KERNELS

Backend = Literal["auto", "fused", "reference"]
BACKENDS: tuple[str, ...] = get_args(Backend)
FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_backend(backend: str) -> None:
    """Raises a ValueError unless `backend` is one of `BACKENDS`."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}: expected one of {', '.join(map(repr, BACKENDS))}")


def kernels_missing() -> str | None:
    """Why there are no compiled kernels; None if there are."""
    if CPU_KERNELS is not None:
        return None
    return "the compiled kernels were not built: install a C++ compiler and reinstall transnext"


def why_not_fused(tensors: Iterable[Tensor]) -> str | None:
    """Why the compiled kernels cannot take these maps; None if they can.

    Args:
        tensors: The maps of a call, the one that gives the dtype first.
    """
    missing = kernels_missing()
    if missing:
        return missing
    if torch.jit.is_tracing():
        return "torch.jit.trace records plain operators"
    # Dynamo takes the stack for one of its own variables, which is never None.
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        return "the kernels have no rule for the transforms of torch.func"
    if torch.autograd.forward_ad._current_level >= 0:
        return "the kernels have no forward-mode derivatives"
    first, *others = tensors
    if first.device.type != "cpu":
        return f"the kernels are for the CPU, the tensors are on {first.device}"
    if first.dtype not in FUSED_DTYPES:
        return f"the kernels compute in float32: {str(first.dtype).removeprefix('torch.')} goes to the reference"
    for other in others:
        if other.dtype != first.dtype or other.device != first.device:
            return "the maps differ in dtype or device"
    return None


def use_fused(backend: str, why_not: str | None) -> bool:
    """The decision for one call.

    Args:
        backend: "auto", "fused" or "reference".
        why_not: What `why_not_fused` said.

    Raises:
        ValueError: `backend` is unknown, or "fused" was asked for and cannot be had.
    """
    check_backend(backend)
    if backend == "auto" and CPU_KERNELS is None and not torch.compiler.is_compiling():
        _say_once()
    if backend == "fused" and why_not is not None:
        raise ValueError(f'backend is "fused", but {why_not}')
    return backend != "reference" and why_not is None


@cache
def _say_once() -> None:
    warnings.warn(f"transnext runs its reference path, several times slower: {kernels_missing()}", stacklevel=2)
