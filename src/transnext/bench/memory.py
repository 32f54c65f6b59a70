"""Peak memory of a workload. Run as a program, it measures that of its own process.

On a CPU the memory that a model needs can be told apart only in a process that does nothing else.
"""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import nn

from transnext.bench.measure import WorkloadError, reason
from transnext.bench.workload import Step, Workload

STEPS = 2
"""The first call makes what depends on the size, the second is one like any other."""


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Memory of a process on a CPU, or of the tensors of a model on a GPU."""

    before_bytes: int
    """With the model and its input, before the first call."""
    peak_bytes: int
    """At most, up to the end of the second call."""

    @property
    def growth_bytes(self) -> int:
        """Bytes that the calls needed beside the model."""
        return max(0, self.peak_bytes - self.before_bytes)


def memory_of_process(workload: Workload, threads: int) -> MemoryUse:
    """Runs a workload in a fresh process.

    Args:
        workload: What to run; its device is the CPU.
        threads: Threads that compute.

    Raises:
        WorkloadError: The workload failed; the text says why.
    """
    job = json.dumps({"workload": dataclasses.asdict(workload), "threads": threads})
    run = subprocess.run([sys.executable, "-m", __name__, job], capture_output=True, text=True, check=False)
    if run.returncode < 0:
        raise WorkloadError(f"its process was ended by signal {-run.returncode}, probably for want of memory")
    lines = run.stdout.splitlines()
    if run.returncode or not lines:
        raise WorkloadError((run.stderr.splitlines() or [f"its process ended with status {run.returncode}"])[-1])
    answer: dict[str, Any] = json.loads(lines[-1])
    if "failure" in answer:
        raise WorkloadError(answer["failure"])
    return MemoryUse(**answer)


def build_with_cuda_memory(workload: Workload) -> tuple[nn.Module, Step, MemoryUse]:
    """Builds and calls a workload, and counts the memory of its tensors alone.

    Args:
        workload: What to run; its device is a CUDA one.

    Returns:
        The model, its step, and the memory.
    """
    others = torch.cuda.memory_allocated()
    model = workload.build()
    step = workload.step(model)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return model, step, MemoryUse(before_bytes=before - others, peak_bytes=peak - others)


def resident_bytes() -> int:
    """Memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """Largest memory that this process had so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss counts the process that started this one; VmHWM, in KiB, does not.
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _measure_this_process(job: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(job["threads"])
    try:
        workload = Workload(**{**job["workload"], "size": tuple(job["workload"]["size"])})
        step = workload.step(workload.build())
        before = resident_bytes()
        for _ in range(STEPS):
            step()
    except Exception as error:
        return {"failure": reason(error)}
    return dataclasses.asdict(MemoryUse(before_bytes=before, peak_bytes=peak_resident_bytes()))


if __name__ == "__main__":
    print(json.dumps(_measure_this_process(json.loads(sys.argv[1]))))
