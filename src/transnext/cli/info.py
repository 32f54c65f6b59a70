"""`transnext info`."""

import platform
import sys
from importlib.metadata import version

import torch
from rich.console import Console

from transnext.engine.device import pick_device
from transnext.models.inference import has_16_bit_products
from transnext.ops.backend import kernels_missing, why_not_fused
from transnext.ops.register import CPU_KERNELS
from transnext.version import __version__


def info() -> None:
    """Show versions, device, threads and which implementation runs, for a bug report."""
    device = pick_device()
    rows = {
        "transnext": __version__,
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "timm": version("timm"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": str(device),
        **{f"runs on {kind}": _implementation(kind) for kind in dict.fromkeys((device.type, "cpu"))},
        "CPU kernels": _kernels(),
        "GPU kernels": kernels_missing("cuda") or f"Triton {version('triton')}",
        "torch's kernels": torch.backends.cpu.get_cpu_capability(),
        "16-bit products": "native" if has_16_bit_products() else "not native, no faster than float32",
        "threads": str(torch.get_num_threads()),
    }
    console = Console(highlight=False, soft_wrap=True)
    for name, value in rows.items():
        console.print(f"{name:16} {value}", markup=False)


def _implementation(device: str) -> str:
    """What computes the ops on a type of device, and why not the kernels where it is not them."""
    why_not = why_not_fused((torch.empty(0, device=device),))
    return "fused kernels" if why_not is None else f"reference (plain PyTorch): {why_not}"


def _kernels() -> str:
    """The instruction set of the compiled kernels and those that this processor could run."""
    if CPU_KERNELS is None:
        return f"none: {kernels_missing()}"
    return f"{CPU_KERNELS.instruction_set()} (available: {', '.join(CPU_KERNELS.instruction_sets())})"
