"""Description of the machine that a benchmark runs on."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from transnext.ops.bfloat16 import bfloat16_products
from transnext.version import __version__


def describe_machine(device: str) -> dict[str, Any]:
    """Machine, versions and threads, of this process as it is set now.

    Args:
        device: Type of the device: cpu, cuda or mps.
    """
    return {
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "processors": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_products": bfloat16_products(),
        "memory_bytes": psutil.virtual_memory().total,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "timm": version("timm"),
        "transnext": __version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
