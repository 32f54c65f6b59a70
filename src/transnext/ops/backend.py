"""The choice of implementation: the kernels of the device or the definition in plain PyTorch, and why.

Of one call of an op. `why_not_fused` says if its maps can go to kernels, each op adds what it asks of its own arguments
(dropout, dtypes of parameters, side of the kernel), and `use_fused` makes a decision of the reason: for
`backend="auto"` the definition, for `backend="fused"` an error. Whoever calls several ops as one decides by
`use_fused`, too. CPUs have compiled kernels, NVIDIA and AMD GPUs have those of Triton.
"""

import warnings
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from typing import get_args

import torch
from torch import Tensor

from transnext.choices import Backend
from transnext.ops.register import CPU_KERNELS
from transnext.ops.tracing import is_exporting

BACKENDS: tuple[str, ...] = get_args(Backend)
HAS_TRITON = find_spec("triton") is not None
FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_backend(backend: str) -> None:
    """Raises a ValueError unless `backend` is one of `BACKENDS`."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}: expected one of {', '.join(map(repr, BACKENDS))}")


def kernels_missing(device_type: str = "cpu") -> str | None:
    """Reason for which there are no kernels for a type of device; None if there are.

    Args:
        device_type: As in `torch.device.type`; AMD GPUs are "cuda" too.
    """
    if device_type == "cpu":
        if CPU_KERNELS is not None:
            return None
        return "the compiled kernels were not built: install a C++ compiler and reinstall transnext"
    if device_type == "cuda":
        return None if HAS_TRITON else "Triton, which the kernels for GPUs are written in, is not installed"
    return f"there are kernels for CPUs and for NVIDIA and AMD GPUs, the tensors are on {device_type}"


def why_not_fused(tensors: Iterable[Tensor]) -> str | None:
    """Reason for which an op cannot run on kernels for these maps; None if it can.

    Args:
        tensors: The maps of a call, the one that gives the dtype first.
    """
    first, *others = tensors
    missing = kernels_missing(first.device.type)
    if missing:
        return missing
    if is_exporting():
        return "a graph for other runtimes consists of plain operators"
    if torch.jit.is_tracing():
        return "torch.jit.trace records plain operators"
    # Dynamo takes the stack for one of its own variables, which is never None.
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        return "the kernels have no rule for the transforms of torch.func"
    if torch.autograd.forward_ad._current_level >= 0:
        return "the kernels have no forward-mode derivatives"
    if first.dtype not in FUSED_DTYPES:
        return f"the kernels compute in float32: {str(first.dtype).removeprefix('torch.')} goes to the reference"
    for other in others:
        if other.dtype != first.dtype or other.device != first.device:
            return "the maps differ in dtype or device"
    return None


def why_not_cpu_kernels(tensors: Iterable[Tensor]) -> str | None:
    """Reason for which an op that has kernels for CPUs alone cannot run on them; None if it can.

    Args:
        tensors: As in `why_not_fused`.
    """
    tensors = list(tensors)
    if tensors[0].device.type != "cpu":
        return f"these kernels are for the CPU, the tensors are on {tensors[0].device}"
    return why_not_fused(tensors)


def has_16_bit_products(dtype: torch.dtype = torch.bfloat16) -> bool:
    """Tells if the processor has instructions for matrix products of a 16-bit dtype (AVX-512 BF16 or AMX).

    Args:
        dtype: Of the factors; False for all but bfloat16 and float16.
    """
    return dtype in _NATIVE_16_BIT


_NATIVE_16_BIT = tuple(
    dtype
    for dtype, names in (
        (torch.bfloat16, ("_is_avx512_bf16_supported", "_is_amx_tile_supported")),
        (torch.float16, ("_is_amx_fp16_supported",)),
    )
    if any(getattr(torch.cpu, name, bool)() for name in names)
)


def is_capturing() -> bool:
    """Tells if a CUDA graph is being captured: it must read nothing that others free, and nothing may wait."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def use_fused(backend: str, why_not: str | None) -> bool:
    """The decision for one call.

    Args:
        backend: "auto", "fused" or "reference".
        why_not: What `why_not_fused` said.

    Raises:
        ValueError: `backend` is unknown, or "fused" was asked for and cannot be had.
    """
    check_backend(backend)
    if backend == "auto" and why_not is not None and not torch.compiler.is_compiling() and why_not == kernels_missing():
        _say_once()
    if backend == "fused" and why_not is not None:
        raise ValueError(f'backend is "fused", but {why_not}')
    return backend != "reference" and why_not is None


@cache
def _say_once() -> None:
    warnings.warn(f"transnext runs its reference path, several times slower: {kernels_missing()}", stacklevel=2)
