"""`transnext info`."""

import platform
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from transnext.engine.device import pick_device
from transnext.models.fast import has_16_bit_products, reasons
from transnext.ops.backend import kernels_missing, why_not_fused
from transnext.ops.bfloat16 import bfloat16_products
from transnext.ops.register import CPU_KERNELS
from transnext.version import __version__


def info(model: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = None) -> None:
    """Show versions, device, threads and which implementation runs, for a bug report.

    Args:
        model: Show also which kernels this one runs, and why its blocks do not run on them: a run folder, a checkpoint
            or the name of a model, whose weights are not needed.
    """
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
        "16-bit products": _products(),
        "threads": str(torch.get_num_threads()),
        **({} if model is None else _of_model(model, device)),
    }
    console = Console(highlight=False, soft_wrap=True)
    for name, value in rows.items():
        console.print(f"{name:16} {value}", markup=False)


def _implementation(device: str) -> str:
    """Implementation of the ops on a type of device, and the reason where it is not the kernels."""
    why_not = why_not_fused((torch.empty(0, device=device),))
    return "fused kernels" if why_not is None else f"reference (plain PyTorch): {why_not}"


def _kernels() -> str:
    """The instruction set of the compiled kernels and those that this processor could run."""
    if CPU_KERNELS is None:
        return f"none: {kernels_missing()}"
    return f"{CPU_KERNELS.instruction_set()} (available: {', '.join(CPU_KERNELS.instruction_sets())})"


def _products() -> str:
    """What multiplies bfloat16 numbers."""
    name = bfloat16_products()
    if name is not None:
        return f"native, by the kernels: {name}"
    return "native, by PyTorch" if has_16_bit_products() else "not native, no faster than float32"


def _of_model(name: str, device: torch.device) -> dict[str, str]:
    """Rows of a model: its blocks and kernels in inference and in training, in float32 and under autocast."""
    from transnext.data.preprocessing import Preprocessing
    from transnext.loaded import opened
    from transnext.models import TransNeXt
    from transnext.models.variants import create
    from transnext.tasks.headed import HeadedNet

    path = Path(name)
    if path.exists() or len(path.parts) > 1 or path.suffix in (".safetensors", ".pth", ".pt"):
        loaded = opened(name)
        net, size = loaded.model, loaded.preprocessing.input_size
        if isinstance(net, HeadedNet):  # what stands on the backbone runs as PyTorch runs it
            net = net.backbone.net
    else:
        net = create(name, {})
        size = Preprocessing.of_model(net).input_size
    if not isinstance(net, TransNeXt):
        return {"model": f"{name}, which is no TransNeXt and runs as PyTorch runs it"}
    net, images = net.to(device), torch.zeros(1, *size, device=device)
    rows = {"model": f"{name}, an image of {size[-2]}x{size[-1]}"}
    for training in (False, True):
        for autocast in (False, True):
            net.train(training)
            with torch.set_grad_enabled(training), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                rows[("training" if training else "inference") + (" bf16" if autocast else "")] = _paths(net, images)
    return rows


def _paths(net: Any, images: torch.Tensor) -> str:
    """Blocks by the way they run, and how often each kernel of this package is called."""
    with _Ops() as ops:
        found = reasons(net, images)
    blocks = Counter(found.values())
    paths = [
        f"{number} blocks " + ("by kernels" if why is None else f"not by kernels alone: {why}")
        for why, number in blocks.items()
    ]
    kernels = [f"{name} x{number}" for name, number in ops.called.items()]
    return "; ".join(paths) + f" [{', '.join(kernels) or 'no kernel'}]"


class _Ops(TorchDispatchMode):
    """Counts the calls of the ops of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.called: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "transnext":
            self.called[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))
