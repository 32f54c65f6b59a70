"""Compiles the kernels for GPUs that are not there, and tells what registers and memory they take.

    python -m transnext.ops.triton.compile_ahead               # as first tried, bfloat16 and float32 maps
    python -m transnext.ops.triton.compile_ahead --all         # all that tuning chooses from, all dtypes and modes

Launches of the ops on tensors without memory are noted down, and compiled as Triton compiles them when they are made:
for strides that are multiples of 16, for pointers that are aligned. A program that needs more shared memory than a GPU
gives does not start; one that needs more registers keeps some of its numbers in memory, which is slow. A kernel none of
whose configurations (of those that are compiled) does without is an error: exit status 1.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from transnext.ops.position_bias import axis_index
from transnext.ops.triton import attention, gate
from transnext.ops.triton.launch import Launch, noted_launches

TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * 1024),
}
"""Targets and the shared memory that a program may have there, bytes (A100, H100, B200, MI300)."""

MAPS = {
    "bf16": (torch.bfloat16, "tf32x3"),
    "fp16": (torch.float16, "tf32x3"),
    "fp32": (torch.float32, "ieee"),
    "fp32-tf32": (torch.float32, "tf32"),
    "fp32-tf32x3": (torch.float32, "tf32x3"),
}
"""Dtypes of maps, and how their products are made on NVIDIA."""

MODES: dict[str, dict[str, Any]] = {"": {}, "uneven": {"EVEN": False}, "resized": {"TAPS": 2}, "wide": {"WIDE": True}}
"""Changes of a launch: bins of two widths, the interpolating mode, and maps whose offsets take 64 bits."""

STAGES = ((56, 3, 384), (28, 6, 768))
"""Side of the map, heads and hidden channels of the first two stages of TransNeXt-Tiny at 224x224.

Rows of stage 1 are no multiples of 16 numbers, those of all others are.
"""

MAX_SPILLED_BYTES = 32
"""Bytes of a thread's registers that may lie in memory."""


class Case(NamedTuple):
    """A kernel and how it is compiled, in words that another process understands.

    Attributes:
        target: One of `TARGETS`.
        maps: One of `MAPS`.
        mode: One of `MODES`.
        stage: Place in `STAGES`.
        kernel: Place among the launches of a forward and a backward pass.
        config: Place among the kernel's configurations.
    """

    target: str
    maps: str
    mode: str
    stage: int
    kernel: int
    config: int

    @property
    def launch(self) -> Launch:
        """The launch that is compiled."""
        return launches(self.maps, self.stage)[self.kernel]


class Compiled(NamedTuple):
    """Resources that a kernel takes on a target.

    Attributes:
        kernel: Its name.
        config: Tile sizes and warps.
        maps: One of `MAPS`.
        mode: One of `MODES`.
        stage: 1 or 2.
        target: One of `TARGETS`.
        registers: Of a thread.
        spilled: Bytes of a thread's registers that lie in memory.
        shared: Shared memory of a program, bytes.
        narrow_loads: Instructions that load 2 bytes of global memory; None on AMD.
    """

    kernel: str
    config: str
    maps: str
    mode: str
    stage: int
    target: str
    registers: int
    spilled: int
    shared: int
    narrow_loads: int | None

    def complaint(self) -> str | None:
        """Reason for which it may not be so; None if all is well."""
        limit = TARGETS[self.target][1]
        if self.shared > limit:
            return f"{self.shared} bytes of shared memory, and {self.target} has {limit}"
        if self.spilled > MAX_SPILLED_BYTES:
            return f"{self.spilled} bytes spilled, and {MAX_SPILLED_BYTES} are allowed"
        return None


@lru_cache
def launches(maps: str, stage: int) -> list[Launch]:
    """The launches of attention and gate, forward and backward, batch 128; one for each kernel."""
    (side, M, F), (dtype, _), (B, D, P) = STAGES[stage], MAPS[maps], (128, 24, 7)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    q, grad = (empty(B, side, side, M, D, dtype=dtype) for _ in range(2))
    k, v = empty(B, side, side, 2, M, D, dtype=dtype).unbind(3)
    pooled = [empty(B, P, P, M, D, dtype=dtype) for _ in range(2)]
    U = len(axis_index(side, P).offsets)
    parameters = [empty(M, 1, D), empty(M, 1, 1), empty(M, 9), empty(M, D, 9), empty(M, 1, 9), empty(M, U, U)]
    arguments: list[Any] = [q, k, v, *pooled, *parameters, side, side, P, P]
    x, weight, bias = empty(B, side, side, 2 * F, dtype=dtype), empty(F, 1, 3, 3), empty(F)
    with noted_launches() as noted:
        attention.forward(*arguments)
        attention.backward(grad, *arguments)
        gate.forward(x, weight, bias)
        gate.backward(x[..., :F], x, weight, bias)
    return noted


def cases(
    targets: Iterable[str], maps: Iterable[str], modes: Iterable[str], stages: Iterable[int], every_config: bool
) -> Iterator[Case]:
    """All combinations, without those that are the same.

    Args:
        targets: Some of `TARGETS`.
        maps: Some of `MAPS`.
        modes: Some of `MODES`.
        stages: Places in `STAGES`.
        every_config: Whether kernels are compiled as tuning may choose, or as is tried first.
    """
    for target, kind, mode, stage in product(targets, maps, modes, stages):
        hip = TARGETS[target][0].backend == "hip"
        if hip and kind.startswith("fp32-"):
            continue  # products are IEEE ones there
        for place, (kernel, _, _, kwargs) in enumerate(launches(kind, stage)):
            if not MODES[mode].keys() <= kwargs.keys() or (kind.startswith("fp32-") and "PRECISION" not in kwargs):
                continue
            for config in range(len(kernel.configs) if every_config else 1):
                yield Case(target, kind, mode, stage, place, config)


class _Absent:
    """A driver of Triton for a GPU that is not there: kernels are compiled for it, and not launched."""

    def __init__(self, target: str) -> None:
        self._device = list(TARGETS).index(target)  # compiled kernels are kept by device
        self._target = TARGETS[target][0]

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._device

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_launch(launch: Launch, config: triton.Config, target: str, **changes: Any) -> Any:
    """Compiles a kernel as this launch would have it, but for arguments to be changed, and returns what Triton does."""
    driver.set_active(_Absent(target))
    kwargs = {**launch.kwargs, **changes}
    return launch.kernel.function.warmup(*launch.args, grid=launch.grid, **kwargs, **config.all_kwargs())


def compile_case(case: Case) -> Compiled:
    """Compiles one kernel."""
    launch = case.launch
    config = launch.kernel.configs[case.config]
    gpu = TARGETS[case.target][0]
    changes = dict(MODES[case.mode])
    if "PRECISION" in launch.kwargs:
        changes["PRECISION"] = "ieee" if gpu.backend == "hip" else MAPS[case.maps][1]
    compiled = compile_launch(launch, config, case.target, **changes)
    registers, spilled = _amd_usage(compiled) if gpu.backend == "hip" else _nvidia_usage(compiled)
    blocks = " ".join(f"{name.removeprefix('BLOCK_')}{value}" for name, value in config.kwargs.items())
    return Compiled(
        launch.kernel.function.__name__,
        f"{blocks} warps{config.num_warps}",
        case.maps,
        case.mode,
        case.stage + 1,
        case.target,
        registers,
        spilled,
        compiled.metadata.shared,
        None if gpu.backend == "hip" else len(re.findall(r"ld\.global(?:\.(?!v\d)\w+)*\.b16\b", compiled.asm["ptx"])),
    )


def compile_all(wanted: Iterable[Case], jobs: int) -> Iterator[Compiled]:
    """Compiles kernels in several processes, and yields them in order. They are kept in Triton's cache on the disk."""
    if jobs == 1:
        yield from map(compile_case, wanted)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(compile_case, wanted)


def _nvidia_usage(compiled: Any) -> tuple[int, int]:
    """Registers and bytes of the stack of a thread, as NVIDIA's own tool reads them from the binary."""
    with TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(binary)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(int(re.findall(rf"\b{word}:(\d+)", text)[-1]) for word in ("REG", "STACK"))  # type: ignore[return-value]


def _amd_usage(compiled: Any) -> tuple[int, int]:
    """Vector registers and bytes of scratch memory of a thread, from the notes in the assembly."""
    text = compiled.asm["amdgcn"]
    return tuple(  # type: ignore[return-value]
        int(re.findall(rf"\.{word}:\s+(\d+)", text)[-1]) for word in ("vgpr_count", "private_segment_fixed_size")
    )


def main() -> None:
    """Prints a table, and ends with status 1 if something in it may not be so."""
    parser = argparse.ArgumentParser(description="Compile the GPU kernels ahead of time.")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--maps", nargs="+", default=["bf16", "fp32"], choices=MAPS, help="dtypes, and their products")
    parser.add_argument("--modes", nargs="+", default=[""], choices=MODES, help="what a launch is changed to")
    parser.add_argument("--configs", action="store_true", help="every configuration that tuning chooses from")
    parser.add_argument("--stages", nargs="+", type=int, default=[1], choices=[1, 2], help="strides of which stage")
    parser.add_argument("--kernels", nargs="+", help="some kernels only, by name")
    parser.add_argument("--all", action="store_true", help="all maps, modes, configurations, and stage 2 too")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each, instead of a table")
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set: unset it, nothing is compiled with it")
    if options.all:
        wanted = cases(options.targets, MAPS, MODES, range(len(STAGES)), every_config=True)
    else:
        wanted = cases(options.targets, options.maps, options.modes, [n - 1 for n in options.stages], options.configs)
    if options.kernels:
        wanted = (case for case in wanted if case.launch.kernel.function.__name__ in options.kernels)
    heads = ("kernel", "configuration", "maps", "mode", "stage", "target", "registers", "spilled", "shared", "narrow")
    if not options.json:
        print("{:24} {:20} {:11} {:7} {:5} {:7} {:>9} {:>7} {:>7} {:>6}".format(*heads))
    fits: dict[tuple[Any, ...], bool] = {}
    for made in compile_all(wanted, options.jobs):
        complaint = made.complaint()
        kernel = (made.kernel, *made[2:6])
        fits[kernel] = fits.get(kernel, False) or complaint is None
        if options.json:
            print(json.dumps(made._asdict()), flush=True)
            continue
        cells = ("-" if cell is None else cell or ("-" if cell == "" else 0) for cell in made)
        row = "{:24} {:20} {:11} {:7} {:5} {:7} {:9} {:7} {:7} {:>6}".format(*cells)
        print(row + ("" if complaint is None else f"  {complaint}"), flush=True)
    failures = [" ".join(map(str, kernel)) for kernel, fit in fits.items() if not fit]
    if failures:
        sys.exit(f"kernels that take more than their GPU has: {', '.join(failures)}")


if __name__ == "__main__":
    main()
