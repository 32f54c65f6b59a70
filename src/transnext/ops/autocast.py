"""Where computations choose their own precision."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


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
