"""Where computations choose their own precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def no_autocast(device_type: str) -> AbstractContextManager[object]:
    """Turns autocast off; does nothing where it is off already, so that exported graphs have no regions for it.

    Args:
        device_type: "cpu", "cuda" and so on.
    """
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
