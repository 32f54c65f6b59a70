"""Step 1 of `gpu_check.py`: every kernel and variant compiled, in several processes that need no GPU.

Kernels that are timed later come from Triton's cache on the disk, which this fills. What cannot be compiled, or takes
more than the GPU has, is a row with the reason.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from gpu_report import Report, first_line
from gpu_variants import Variant, applied, open_ones, variants, words
from transnext.ops.triton.compile_ahead import TARGETS, compile_launch, launches
from transnext.ops.triton.machine_code import usage

STAGE_1 = 128 * 3 * 2
"""Images x heads x tiles of 32 pooled keys of what is compiled."""


def jobs() -> Iterator[tuple[str, str]]:
    """Names of maps or of a variant, and of a kernel: kernels as they are, then as they are timed."""
    seen = set()
    for maps in ("bf16", "fp32-tf32x3"):
        for launch in launches(maps, 0):
            yield maps, launch.kernel.function.__name__
    for variant in open_ones():
        if variant.constants or variant.splits is not None:
            continue  # the same machine code, but for tiles that sums are laid out by
        for kernel in variant.kernels:
            if (variant.name, kernel) not in seen:
                seen.add((variant.name, kernel))
                yield variant.name, kernel


def compile_one(name: str, kernel: str, target: str) -> dict[str, Any]:
    """Cells of a row: what a kernel takes in a variant, or as it is."""
    row: dict[str, Any] = {"variant": name, "kernel": kernel}
    variant = variants().get(name) or Variant(name=name, what="")
    maps = name if variant.name not in variants() else variant.maps
    if variant.precision == "ieee":
        maps = "fp32"
    try:
        with applied(variant, STAGE_1):
            noted = launches.__wrapped__("fp32" if maps.startswith("fp32") else maps, 0)
            launch = next(one for one in noted if one.kernel.function.__name__ == kernel)
            config = launch.kernel.configs[0]
            compiled = compile_launch(launch, config, target)
            used = usage(compiled)
        row |= {"config": words(config), "registers": used.registers, "spilled": used.spilled}
        row |= {"shared": compiled.metadata.shared, "narrow_loads": used.narrow_loads}
        limit = TARGETS[target][1]
        if compiled.metadata.shared > limit:
            row["error"] = f"{compiled.metadata.shared} bytes of shared memory, and {target} has {limit}"
    except Exception as error:
        row["error"] = first_line(error)
    return row


def compile_all(report: Report, target: str) -> None:
    """A row for each, on a target of `compile_ahead`."""
    if target not in TARGETS:
        report.row("compiled", variant="", kernel="", error=f"{target} is none of {', '.join(TARGETS)}")
        return
    every = [(*job, target) for job in jobs()]
    if report.dry:
        for job in (every[-1], ("bf16", "gate_forward", "sm_12")):  # one that is compiled, and one that is not
            report.row("compiled", **compile_one(*job))
        return
    workers = min(10, max(1, (os.cpu_count() or 1) - 2))
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        for row in pool.map(compile_one_of, every):
            report.row("compiled", **row)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # also when time is over, which waits for nobody


def compile_one_of(job: tuple[str, str, str]) -> dict[str, Any]:
    """`compile_one` of a tuple."""
    return compile_one(*job)
