"""`transnext info`."""

import platform
import sys
from importlib.metadata import version

import torch
from rich.console import Console

from transnext.engine.device import pick_device
from transnext.version import __version__


def info() -> None:
    """Show versions, device and threads, for a bug report."""
    rows = {
        "transnext": __version__,
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "timm": version("timm"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": str(pick_device()),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "implementation": "reference (plain PyTorch)",
    }
    console = Console(highlight=False, soft_wrap=True)
    for name, value in rows.items():
        console.print(f"{name:16} {value}", markup=False)
