"""Launch of the kernels: choice of tile sizes, precision of products, sizes that want 64-bit offsets.

Nothing here keeps tensors, so that CUDA graphs may be captured around any launch.
"""

import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from transnext.ops.backend import is_capturing

INTERPRETED: bool = triton.knobs.runtime.interpret
"""True if Triton runs kernels on the CPU (`TRITON_INTERPRET=1`), where there is nothing to be tuned."""

PROGRAMS_WANTED = 2048
"""Programs that keep a large GPU busy: about four times as many as run at once."""

MOST_REGISTERS = 168
"""Of a thread: 12 warps at once on a processor of an NVIDIA GPU."""

FLOAT_WARPS = 2
"""Warps of a program that multiplies float32 maps, at least."""


def config(num_warps: int, num_stages: int = 3, registers: int | None = None, **blocks: int) -> triton.Config:
    """Tile sizes by name, and how a program of that size is run.

    Args:
        num_warps: Of a program.
        num_stages: Trips of a loop whose loads are under way at once.
        registers: The most that a thread may have, on NVIDIA GPUs.
        blocks: Tile sizes.
    """
    most = None if torch.version.hip is not None else registers
    return triton.Config(blocks, num_warps=num_warps, num_stages=num_stages, maxnreg=most)


class Launch(NamedTuple):
    """A launch that was noted down instead of made.

    Attributes:
        kernel: The kernel.
        grid: As Triton takes it: numbers of programs, or a function of the arguments that tells them.
        args: Arguments by position.
        kwargs: Arguments by name, without those of a configuration.
    """

    kernel: "Kernel"
    grid: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that it reads or writes; some arguments are tuples of them."""
        flat = [one for arg in self.args for one in (arg if isinstance(arg, tuple) else (arg,))]
        return [one for one in flat if isinstance(one, Tensor)]

    def make(self, config: triton.Config) -> None:
        """Make it now. What it reads must be there: launches that were noted before it may have to be made first.

        Args:
            config: One of those of the kernel.
        """
        self.kernel.function[self.grid](*self.args, **self.kwargs, **self.kernel.options(config, self.kwargs))


class Kernel:
    """A kernel and the configurations it may run in, launched as `kernel[grid](...)`.

    The first time that it meets a key it tries all of them, and remembers the best on the disk. With `TRANSNEXT_TUNE=0`
    in the environment, and where a CUDA graph that is being captured forbids it, the first one is taken.

    Args:
        function: A function of `triton.jit`.
        configs: What to try, the one that is expected to be best first.
        key: Arguments, given by name, for whose values the choice holds.
        bound_units: Numbers of a unit of strides (`stride_unit`) with which bounds of registers hold: 8 of 16-bit maps,
            and 4 of float32 ones, which most kernels want more registers for.
    """

    def __init__(
        self,
        function: Any,
        configs: Sequence[triton.Config],
        key: Sequence[str] = (),
        bound_units: Sequence[int] = (8,),
    ) -> None:
        self.function = function
        self.configs = list(configs)
        self._key = key
        self._bound_units = bound_units
        self._chosen: dict[tuple[Any, ...], triton.Config] = {}
        self._tuner = triton.autotune(configs=self.configs, key=list(key), cache_results=True)(function)
        self._lock = threading.Lock()  # the tuner is not made for several threads

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            if _noted is not None:
                _noted.append(Launch(self, grid, args, kwargs))
                return
            self.function[grid](*args, **kwargs, **self.options(self._choice(grid, args, kwargs), kwargs))

        return launch

    def options(self, config: triton.Config, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a configuration. Its bound of registers is for 32-bit offsets and a bias that is not resized.

        Others take what there are: with fewer they would spill.

        Args:
            config: The configuration.
            arguments: Those of the launch, by name.
        """
        options: dict[str, Any] = config.all_kwargs()
        if arguments.get("TAPS") == 2 or arguments.get("WIDE") or arguments.get("UNIT") not in self._bound_units:
            options.pop("maxnreg", None)
        if "PRECISION" in arguments and arguments.get("UNIT") != 8:
            # Factors take twice the registers, and programs of one warp would spill.
            options["num_warps"] = max(FLOAT_WARPS, options["num_warps"])
        return options

    def _choice(self, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> triton.Config:
        place = tuple(kwargs[name] for name in self._key)
        choice = self._chosen.get(place)
        if choice is not None:
            return choice
        if len(self.configs) == 1 or not _may_tune():
            return self.configs[0]
        with self._lock:
            if place not in self._chosen:
                self._tuner[grid](*args, **kwargs)
                self._chosen[place] = self._tuner.best_config
            return self._chosen[place]


_noted: list[Launch] | None = None


@contextmanager
def noted_launches() -> Iterator[list[Launch]]:
    """Has launches noted down in a list instead of being made."""
    global _noted
    _noted, before = [], _noted
    try:
        yield _noted
    finally:
        _noted = before


def _may_tune() -> bool:
    return not INTERPRETED and os.environ.get("TRANSNEXT_TUNE") != "0" and not is_capturing()


def block_of(channels: int) -> int:
    """Channels of a tile: a power of two, and what matrix units take at least."""
    return max(16, triton.next_power_of_2(channels))


def parts_of(channels: int) -> tuple[int, int]:
    """Channels of two tiles, powers of two, that hold all of them with less room to spare than one; 0 for no second."""
    whole = block_of(channels)
    main = whole // 2
    rest = max(8, triton.next_power_of_2(channels - main))
    if torch.version.hip is not None or main < 16 or main + rest >= whole:  # AMD's units multiply no 8 columns
        return whole, 0
    return main, rest


def size_class(like: Tensor, *sizes: int) -> int:
    """One number for a device, a dtype and sizes of about the same magnitude, for which one configuration serves.

    Args:
        like: A tensor of that device and dtype.
        sizes: Each at least 0.
    """
    return _size_class(like.device, like.dtype, *((size - 1).bit_length() for size in sizes))


@lru_cache(maxsize=1024)
def _size_class(device: torch.device, dtype: torch.dtype, *magnitudes: int) -> int:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return zlib.crc32(repr((name, dtype, magnitudes)).encode()) >> 1  # 31 bits


def product_precision(dtype: torch.dtype) -> str:
    """Precision in which `tl.dot` multiplies float32 factors that came from a map of `dtype`.

    Three TF32 products, whose error is nearly that of float32, where there are such units; one where PyTorch's own may
    use TF32, and IEEE products, on the slower units, where `torch.backends.cuda.matmul.fp32_precision` asks for them.
    """
    if INTERPRETED or torch.version.hip is not None:
        return "ieee"
    asked = torch.backends.cuda.matmul.fp32_precision if dtype == torch.float32 else "none"
    return asked if asked in ("tf32", "ieee") else "tf32x3"


def stride_unit(*maps: Tensor) -> int:
    """Numbers, at most 16 bytes of them, of which all strides of maps `[..., D]` but the last are multiples."""
    unit = 16 // maps[0].itemsize
    return math.gcd(unit, *(s for t in maps for s, n in zip(t.stride()[:-1], t.shape, strict=False) if n > 1))


def wants_64_bits(*maps: Tensor) -> bool:
    """Tells if an offset within an image of a map `[B, ..., D]` exceeds 32 bits."""
    return any(sum((n - 1) * s for n, s in zip(t.shape[1:], t.stride()[1:], strict=True)) >= 2**31 for t in maps)


def dense_channels(t: Tensor) -> Tensor:
    """The same map with channels next to one another, which the kernels rely on; other strides are free."""
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()
