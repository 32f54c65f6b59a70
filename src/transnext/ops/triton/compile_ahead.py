"""Compiles the kernels for GPUs that are not there, and counts registers, memory and instructions that they take.

    python -m transnext.ops.triton.compile_ahead               # as first tried, bfloat16 and float32 maps
    python -m transnext.ops.triton.compile_ahead --all         # all that tuning chooses from, all dtypes and modes

Launches of the ops on tensors without memory are noted down, and compiled as Triton compiles them when they are made:
for strides that are multiples of 16, for pointers that are aligned. A program that needs more shared memory than a GPU
gives does not start; one that needs more registers keeps some of its numbers in memory, which is slow; so are loads of
16-bit maps number by number. A kernel none of whose configurations (of those that are compiled) does without is an
error, and so is one that takes more than its budget as first tried: exit status 1.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from transnext.ops.position_bias import axis_index
from transnext.ops.triton import add_norm, attention, gate, gelu_pool
from transnext.ops.triton.launch import Launch, noted_launches
from transnext.ops.triton.machine_code import Usage, usage

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


HEADS = (
    *("kernel", "configuration", "maps", "mode", "stage", "target", "registers", "spilled", "shared", "narrow"),
    *("code", "loops", "counted"),
)


class Budget(NamedTuple):
    """What a kernel may take for what it computes, as first tried, on sm_90 and 16-bit maps.

    Attributes:
        unit: What is counted by.
        blocks: Tile sizes of which a trip of the loop makes as many units as their product.
        most: Instructions of a thread for a unit.
        registers: The most that a thread may have; none may be spilled.
        times: Further units that each of those is.
        loop: "products" for the innermost loops that multiply matrices, "longest" for the longest one, "kernel" for all
            of a kernel in which no loop is left, or in which it is run through once.
        resized: Instructions and registers in interpolating mode; None where that makes no difference.
    """

    unit: str
    blocks: tuple[str, ...]
    most: float
    registers: int = 168
    times: int = 1
    loop: str = "products"
    resized: tuple[float, int] | None = None

    def bound(self, mode: str) -> tuple[float, int] | None:
        """The most that instructions and registers may be in one of `MODES`; None where that is left open."""
        return {"": (self.most, self.registers), "resized": self.resized}.get(mode)

    def counted(self, used: Usage, config: triton.Config, others: dict[str, Any] | None = None) -> float:
        """Instructions of a thread for a unit; `others` are tile sizes that are none of the configuration's."""
        if self.loop == "kernel":
            trip = used.instructions
        elif self.loop == "longest":
            trip = max((loop.instructions for loop in used.loops), default=0)
        else:
            trip = sum(loop.instructions for loop in used.loops if loop.products)
        units = self.times
        for block in self.blocks:
            units *= {**(others or {}), **config.kwargs}[block]
        return trip * 32 * config.num_warps / units


OF_LOGITS = ("BLOCK_Q", "BLOCK_K")
OF_UNITS = ("ROWS", "UNIT")
OF_NUMBERS = ("BLOCK_G", "PIXELS", "BLOCK_F")
BUDGETS: dict[str, Budget] = {
    "attention_forward": Budget("logit", OF_LOGITS, 30, resized=(38, 168)),
    "query_gradient": Budget("logit", OF_LOGITS, 30, resized=(39, 255)),
    "local_gradient": Budget("tap", ("BLOCK_Q",), 180, loop="longest"),
    "pooled_gradient": Budget("logit", OF_LOGITS, 50, resized=(60, 168)),
    "bias_gradient": Budget("logit", OF_LOGITS, 25, resized=(25, 168)),
    "resize_rows": Budget("entry", ("BLOCK_R", "BLOCK_U"), 185, loop="kernel"),
    "resize_gradient": Budget("product", ("BLOCK_R", "BLOCK_T"), 9, loop="longest"),
    "gate_forward": Budget("number", OF_NUMBERS, 36, loop="longest"),
    "gate_and_conv_gradient": Budget("number", OF_NUMBERS, 65, loop="longest"),
    "conv_input_gradient": Budget("number", OF_NUMBERS, 17, loop="longest"),
    "add_layer_norm": Budget("number", ("NUMBERS",), 23, loop="kernel"),
    "add_layer_norm_gradient": Budget("number", ("NUMBERS",), 33, loop="longest"),
    "gelu_pool": Budget("number", OF_UNITS, 24, loop="longest"),
    "gelu_pool_gradient": Budget("number", OF_UNITS, 72, loop="kernel"),
}
"""Budgets of kernels: of pooled logits, of a neighbour of a pixel, of an entry of the bias table that is resized and of
a number times a weight in its gradient, of a number that the gate lets through, and of one that the passes between
products read or write."""


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
    """What a kernel takes on a target.

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
        narrow_loads: Instructions that load less than 4 bytes of global memory.
        instructions: Of the whole kernel.
        loops: Of a trip of each innermost loop, in order.
        counted: Of a thread for what its budget counts by, with the unit; None where it has no budget, and on AMD.
        budget: The most that instructions and registers may be; None where that is left open.
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
    narrow_loads: int
    instructions: int
    loops: list[int]
    counted: tuple[float, str] | None
    budget: tuple[float, int] | None

    def complaint(self) -> str | None:
        """Reason for which it may not be so; None if all is well."""
        limit = TARGETS[self.target][1]
        if self.shared > limit:
            return f"{self.shared} bytes of shared memory, and {self.target} has {limit}"
        if self.spilled > MAX_SPILLED_BYTES:
            return f"{self.spilled} bytes spilled, and {MAX_SPILLED_BYTES} are allowed"
        if self.narrow_loads and self.maps in ("bf16", "fp16"):
            return f"{self.narrow_loads} loads of single 16-bit numbers"
        if self.counted and self.budget:
            instructions, registers = self.budget
            if self.counted[0] > instructions:
                return f"{self.counted[0]:.1f} instructions a {self.counted[1]}, and {instructions:g} are allowed"
            if self.registers > registers or self.spilled:
                return f"{self.registers} registers and {self.spilled} bytes spilled, and {registers} are allowed"
        return None

    def cells(self) -> list[str]:
        """Words of a line of the table, without blanks but in the configuration."""
        loops = "+".join(map(str, self.loops)) or "-"
        counted = f"{self.counted[0]:.1f}/{self.counted[1]}" if self.counted else "-"
        return [str(cell) if cell != "" else "-" for cell in self[:11]] + [loops, counted]


@lru_cache
def launches(maps: str, stage: int) -> list[Launch]:
    """The launches of all ops, forward and backward, batch 128; one for each kernel."""
    (side, M, F), (dtype, _), (B, D, P) = STAGES[stage], MAPS[maps], (128, 24, 7)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    q, grad = (empty(B, side, side, M, D, dtype=dtype) for _ in range(2))
    k, v = empty(B, side, side, 2, M, D, dtype=dtype).unbind(3)
    pooled = [empty(B, P, P, M, D, dtype=dtype) for _ in range(2)]
    U = len(axis_index(side, P).offsets)
    parameters = [empty(M, 1, D), empty(M, 1, 1), empty(M, 9), empty(M, D, 9), empty(M, 1, 9), empty(M, U, U)]
    arguments: list[Any] = [q, k, v, *pooled, *parameters, side, side, P, P]
    trained = side // 2
    U = len(axis_index(trained, P).offsets)
    resized = [*arguments[:10], empty(M, U, U), trained, trained, P, P]
    x, weight, bias = empty(B, side, side, 2 * F, dtype=dtype), empty(F, 1, 3, 3), empty(F)
    with noted_launches() as noted:
        attention.backward(grad, *resized)  # of which those stay that the next has not
        attention.backward_training(grad, *attention.forward_training(*arguments), *arguments)
        gate.forward(x, weight, bias)
        gate.backward(x[..., :F], x, weight, bias)
        z = empty(B, side, side, 4, M * D, dtype=dtype).unbind(3)[3]
        total, normed = add_norm.forward(z, z, empty(M * D), empty(M * D), 1e-6, dtype)
        add_norm.backward(total, normed, total, empty(M * D), empty(M * D), 1e-6)
        gelu_pool.backward(gelu_pool.forward(z, P, P), z, P, P)
    return list({launch.kernel: launch for launch in noted}.values())


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
    kwargs |= launch.kernel.options(config, kwargs)
    if TARGETS[target][0].backend == "hip":
        kwargs.pop("maxnreg", None)
    return launch.kernel.function.warmup(*launch.args, grid=launch.grid, **kwargs)


def _is_bound(case: Case) -> bool:
    """Whether a case must be within its kernel's budget."""
    return case.target == "sm_90" and case.config == 0 and not case.maps.startswith("fp32")


def compile_case(case: Case) -> Compiled:
    """Compiles one kernel."""
    launch = case.launch
    config = launch.kernel.configs[case.config]
    gpu = TARGETS[case.target][0]
    changes = dict(MODES[case.mode])
    if "PRECISION" in launch.kwargs:
        changes["PRECISION"] = "ieee" if gpu.backend == "hip" else MAPS[case.maps][1]
    compiled = compile_launch(launch, config, case.target, **changes)
    used = usage(compiled)
    name = launch.kernel.function.__name__
    budget = None if gpu.backend == "hip" else BUDGETS.get(name)
    blocks = " ".join(f"{name.removeprefix('BLOCK_')}{value}" for name, value in config.kwargs.items())
    return Compiled(
        name,
        f"{blocks} warps{config.num_warps}",
        case.maps,
        case.mode,
        case.stage + 1,
        case.target,
        used.registers,
        used.spilled,
        compiled.metadata.shared,
        used.narrow_loads,
        used.instructions,
        [loop.instructions for loop in used.loops],
        (budget.counted(used, config, launch.kwargs), budget.unit) if budget else None,
        budget.bound(case.mode) if budget and _is_bound(case) else None,
    )


def compile_all(wanted: Iterable[Case], jobs: int) -> Iterator[Compiled]:
    """Compiles kernels in several processes, and yields them in order. They are kept in Triton's cache on the disk."""
    if jobs == 1:
        yield from map(compile_case, wanted)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(compile_case, wanted)


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
    form = "{:24} {:20} {:11} {:7} {:5} {:7} {:>9} {:>7} {:>7} {:>6} {:>6} {:>12} {:>12}"
    if not options.json:
        print(form.format(*HEADS))
    fits: dict[tuple[Any, ...], bool] = {}
    for made in compile_all(wanted, options.jobs):
        complaint = made.complaint()
        kernel = (made.kernel, *made[2:6])
        fits[kernel] = fits.get(kernel, False) or complaint is None
        if options.json:
            print(json.dumps(made._asdict()), flush=True)
            continue
        print(form.format(*made.cells()) + ("" if complaint is None else f"  {complaint}"), flush=True)
    failures = [" ".join(map(str, kernel)) for kernel, fit in fits.items() if not fit]
    if failures:
        sys.exit(f"kernels that take more than their GPU has: {', '.join(failures)}")


if __name__ == "__main__":
    main()
