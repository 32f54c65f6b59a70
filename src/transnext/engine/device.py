"""Choice of the device to compute on."""

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; for "auto" the accelerator if there is one, else the CPU.

    Raises:
        ValueError: The name is not one of `DEVICES`, or there is no such device here.
    """
    if name not in DEVICES:
        raise ValueError(f"device is {name!r}: expected one of {', '.join(DEVICES)}")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return found or torch.device("cpu")
    if name != "cpu" and (found is None or found.type != name):
        raise ValueError(f"device is {name!r}, but PyTorch sees none here: use auto or cpu")
    return torch.device(name)
