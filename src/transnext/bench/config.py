"""Options of a benchmark."""

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from transnext.choices import Backend, Compile, DtypeName, Mode
from transnext.limits import MAX_SIDE, check_number

if TYPE_CHECKING:
    from transnext.bench.workload import Workload

MIN_SIDE = 32
"""Shortest side of an image, pixels."""
MAX_THREADS = 1024
"""Most threads that compute."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Models to measure, and the work that they are measured on."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    """Any models that timm knows; the others are compared with the first."""
    sizes: tuple[str, ...] = ("224",)
    """Image sizes, pixels: one number for a square, or HxW."""
    batch_size: int = 1
    """Images in a call."""
    features: bool = False
    """The maps of the stages, as for dense tasks, instead of the classifier."""
    train: bool = False
    """Forward, loss and backward, without the optimiser, instead of forward alone."""
    dtype: DtypeName = "float32"
    """Arithmetic: float32, or autocast to bfloat16 or float16."""
    mode: tuple[Mode, ...] = ("extrapolate",)
    """Ways in which the models of this package follow the image size; each of them is measured in each."""
    backend: tuple[Backend, ...] = ("auto",)
    """Implementations of the ops that the models of this package run; each of them is measured with each."""
    rounds: int | None = None
    """Calls of each model at each size; by default what fits about 20 seconds, 8 to 100."""
    threads: int | None = None
    """Threads that compute; PyTorch's choice by default."""
    compile: tuple[Compile, ...] = ("none",)
    """Ways of torch.compile that models pass through: none, for fixed sizes ("default") or any ("dynamic"); each is
    measured with each."""
    channels_last: bool = False
    """Images and convolution weights in PyTorch's channels-last memory format, which suits some ConvNets."""
    memory: bool = True
    """Measure the peak memory: on a CPU each model and size once more in a process of its own."""

    def __post_init__(self) -> None:
        """Refuses what cannot be measured."""
        if not self.models:
            raise ValueError("no model is given: transnext bench MODEL ...")
        for name in ("models", "sizes", "mode", "backend", "compile"):
            values = getattr(self, name)
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if twice:
                raise ValueError(f"{name.removesuffix('s')} {twice[0]!r} is given twice")
        for model in self.models:
            check_model_name(model)
        for size in self.sizes:
            parse_size(size)
        for name in ("sizes", "mode", "backend", "compile"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: give at least one")
        for name in ("batch_size", "rounds", "threads"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, 1, *((MAX_THREADS,) if name == "threads" else ()))
        from transnext.bench.workload import is_ours

        for name, usual in (("mode", "extrapolate"), ("backend", "auto")):
            values = getattr(self, name)
            if values != (usual,) and not any(map(is_ours, self.models)):
                raise ValueError(f"{name} is {' '.join(values)}, but only models named transnext_* have {name}s")

    def workloads(self, device: str) -> "list[list[Workload]]":
        """Work to measure, a list for each size; the items of a list in turn.

        Args:
            device: Type of the device: cpu, cuda or mps.
        """
        from transnext.bench.workload import Workload, is_ours

        return [
            [
                Workload(
                    model=model,
                    mode=mode,
                    backend=backend,
                    size=parse_size(size),
                    batch_size=self.batch_size,
                    features=self.features,
                    train=self.train,
                    dtype=self.dtype,
                    device=device,
                    compile=compile_,
                    channels_last=self.channels_last,
                )
                for model in self.models
                for mode in (self.mode if is_ours(model) else (None,))
                for backend in (self.backend if is_ours(model) else (None,))
                for compile_ in self.compile
            ]
            for size in self.sizes
        ]


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of "224" or "800x1216", pixels.

    Raises:
        ValueError: The text is something else, or a side is shorter than 32 or too long.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None:
        raise ValueError(f"size is {text!r}: expected pixels, such as 224 or 800x1216 (height x width)")
    height, width = int(match[1]), int(match[2] or match[1])
    if min(height, width) < MIN_SIDE or max(height, width) > MAX_SIDE:
        raise ValueError(f"size is {text!r}: expected at least {MIN_SIDE} and at most {MAX_SIDE} pixels a side")
    return height, width


def check_model_name(name: str) -> None:
    """Makes sure that timm can make a model.

    Args:
        name: Architecture, with or without a tag of weights.

    Raises:
        ValueError: timm does not know it; similar names are suggested.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() names them all"
        raise ValueError(f"timm has no model {name!r}: {hint}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"timm has no weights {tag!r} of {architecture}: leave the tag out") from error
