"""The choice of what multiplies bfloat16 numbers on the CPU: AVX-512 BF16, AMX, or nothing but the float32 kernels."""

import os
from typing import NamedTuple

import torch
from torch import Tensor

from transnext.ops.register import CPU_KERNELS

VARIABLE = "TRANSNEXT_BF16"
"""Environment variable that chooses: empty for the fastest, 0 for none, or a name of `bfloat16_products()`."""


class Panel(NamedTuple):
    """Layout of packed bfloat16 weights: columns of a panel, and what its depth is rounded up to a multiple of."""

    width: int
    depth: int


def bfloat16_products() -> str | None:
    """Name of the instructions by which the kernels multiply bfloat16 numbers; None where they do not."""
    if CPU_KERNELS is None:
        return None
    name: str | None = CPU_KERNELS.bfloat16_instruction_set()
    return name


def use_bfloat16_products(name: str | None) -> None:
    """Chooses what multiplies bfloat16 numbers.

    Args:
        name: "AVX-512 BF16" or "AMX", where the processor has them; for tests "AVX-512 BF16, emulated" or "AMX,
            emulated", anywhere; None for none.

    Raises:
        ValueError: The processor or the build has no such instructions.
    """
    names = [] if CPU_KERNELS is None else CPU_KERNELS.bfloat16_instruction_sets()
    if name is not None and name not in names:
        raise ValueError(
            f"bfloat16 numbers cannot be multiplied by {name!r} here: expected one of {', '.join(map(repr, names))}"
        )
    if CPU_KERNELS is not None:
        CPU_KERNELS.use_bfloat16_instruction_set(name)


def panel() -> Panel | None:
    """Layout of packed weights for the instructions in use; None if there are none."""
    found = None if CPU_KERNELS is None else CPU_KERNELS.bfloat16_panel()
    return None if found is None else Panel(*found)


def multiplies_bfloat16(x: Tensor) -> bool:
    """Tells if the products of a map are those of bfloat16 numbers, as it is now: by its dtype, or by autocast's.

    Args:
        x: Any map on the CPU.
    """
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
    return dtype == torch.bfloat16 and x.dtype in (torch.bfloat16, torch.float32) and bfloat16_products() is not None


def _choose() -> None:
    wanted = os.environ.get(VARIABLE, "")
    if not wanted:
        return
    try:
        use_bfloat16_products(None if wanted == "0" else wanted)
    except ValueError as error:
        raise ValueError(f"{VARIABLE} is {wanted!r}: {error}, or 0 for none") from None


_choose()
