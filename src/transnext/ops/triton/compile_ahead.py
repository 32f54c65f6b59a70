"""Compiles the kernels for GPUs that are not there, and tells what registers and memory they take.

    python -m transnext.ops.triton.compile_ahead               # as `make test` does
    python -m transnext.ops.triton.compile_ahead --all         # every configuration that tuning chooses from

A program that needs more shared memory than a GPU gives does not start; one that needs more registers keeps some of its
numbers in memory, which is slow. Either is an error here: exit status 1.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from transnext.ops.triton import attention, gate
from transnext.ops.triton.kernels import attention_backward as backward_kernels
from transnext.ops.triton.kernels import gate as gate_kernels
from transnext.ops.triton.launch import block_of

TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * 1024),
}
"""Targets and the shared memory that a program may have there, bytes (A100, H100, B200, MI300)."""

MAX_SPILLED_BYTES = 32
"""Bytes of a thread's registers that may lie in memory."""

HEAD_DIM = 24
"""Of all variants of the paper."""

MAPS = frozenset({"q", "k", "v", "k_pool", "v_pool", "grad", "out", "grad_q", "grad_k", "grad_v", "x", "grad_x"})
INTEGERS = frozenset({"B", "M", "H", "W", "P", "P_h", "P_w", "U_h", "U_w", "R", "F", "SPLITS"})


@dataclass(frozen=True)
class Compiled:
    """What a kernel takes on a target.

    Attributes:
        kernel: Its name.
        config: Tile sizes and warps.
        dtype: Of the maps.
        target: One of `TARGETS`.
        registers: Of a thread.
        spilled: Bytes of a thread's registers that lie in memory.
        shared: Shared memory of a program, bytes.
    """

    kernel: str
    config: str
    dtype: str
    target: str
    registers: int
    spilled: int
    shared: int

    def complaint(self) -> str | None:
        """Why it may not be so; None if all is well."""
        limit = TARGETS[self.target][1]
        if self.shared > limit:
            return f"{self.shared} bytes of shared memory, and {self.target} has {limit}"
        if self.spilled > MAX_SPILLED_BYTES:
            return f"{self.spilled} bytes spilled, and {MAX_SPILLED_BYTES} are allowed"
        return None


def kernels(every_config: bool) -> Iterator[tuple[Any, triton.Config]]:
    """The kernels and how they are launched: as first tried, or in every way."""
    for tuned in (
        attention.FORWARD,
        attention.QUERY_GRADIENT,
        attention.LOCAL_GRADIENT,
        attention.POOLED_GRADIENT,
        attention.BIAS_GRADIENT,
        gate.FORWARD,
        gate.INPUT_GRADIENT,
    ):
        for config in tuned.configs if every_config else tuned.configs[:1]:
            yield tuned.fn, config
    yield backward_kernels.fold_bias_gradient, triton.Config({"BLOCK_U": attention.BLOCK_U})
    blocks = {"BLOCK_R": gate.SUMS_BLOCK_R, "BLOCK_F": gate.SUMS_BLOCK_F}
    yield gate_kernels.gate_and_conv_gradient, triton.Config(blocks, num_warps=gate.SUMS_WARPS)


def compile_for(kernel: Any, config: triton.Config, dtype: str, target: str, taps: int = 1) -> Compiled:
    """Compiles one kernel.

    Args:
        kernel: A function of `triton.jit`.
        config: Tile sizes and warps.
        dtype: Of the maps, as Triton calls it: "fp32", "bf16" or "fp16".
        target: One of `TARGETS`.
        taps: Taps of the position bias, 2 as in interpolating mode.
    """
    gpu, _ = TARGETS[target]
    precision = "ieee" if dtype == "fp32" or gpu.backend == "hip" else "tf32x3"
    constants = {
        "D": HEAD_DIM,
        "BLOCK_D": block_of(HEAD_DIM),
        "RADIUS": 1,
        "SIDE": 3,
        "HAS_BIAS": True,
        "TAPS": taps,
        "PRECISION": precision,
        "WIDE": False,
        "SIZE": 0,
        "BLOCK_Q": attention.SUMS_BLOCK_Q,
        **config.kwargs,
    }
    names = kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    signature = {name: "constexpr" if name in constants else _type_of(name, dtype) for name in names}
    # What a launch finds out by itself: memory of PyTorch begins at multiples of 16 bytes.
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    compiled = triton.compile(source, target=gpu, options=options)
    registers, spilled = _amd_usage(compiled) if gpu.backend == "hip" else _nvidia_usage(compiled)
    blocks = " ".join(f"{name.removeprefix('BLOCK_')}{value}" for name, value in config.kwargs.items())
    return Compiled(
        kernel.__name__,
        f"{blocks} warps{config.num_warps}",
        dtype,
        target,
        registers,
        spilled,
        compiled.metadata.shared,
    )


def _type_of(name: str, dtype: str) -> str:
    if name in MAPS:
        return f"*{dtype}"
    if name in INTEGERS or re.fullmatch(r"[qkvx]_[byxm]|step_[yx]|first_row|num_rows", name):
        return "i32"
    return "*i32" if name == "terms" else "*fp32"


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
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--taps", type=int, default=1, choices=[1, 2], help="2 as in interpolating mode")
    parser.add_argument("--all", action="store_true", help="every configuration that tuning chooses from")
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set: unset it, nothing is compiled with it")
    print(f"{'kernel':24} {'configuration':20} {'maps':5} {'target':7} {'registers':>9} {'spilled':>7} {'shared':>7}")
    failures = 0
    for kernel, config in kernels(options.all):
        for target in options.targets:
            for dtype in options.dtypes:
                made = compile_for(kernel, config, dtype, target, options.taps)
                complaint = made.complaint()
                failures += complaint is not None
                print(
                    f"{made.kernel:24} {made.config:20} {made.dtype:5} {made.target:7} {made.registers:9} "
                    f"{made.spilled:7} {made.shared:7}{'' if complaint is None else '  ERROR: ' + complaint}",
                    flush=True,
                )
    if failures:
        sys.exit(f"{failures} kernels take more than their GPU has")


if __name__ == "__main__":
    main()
