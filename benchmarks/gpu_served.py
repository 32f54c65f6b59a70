"""The processes that `gpu_check.py` starts: what each kind of them can be told to do."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

if "--dry" in sys.argv and "compile" not in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
else:
    os.environ.pop("TRITON_INTERPRET", None)
if "GPU_CHECK_CACHES" in os.environ:
    # Inductor locks files there, and a process that is stopped keeps its locks: those that are, models, share nothing.
    own = f"inductor_{os.getpid()}" if any(word.startswith("model") for word in sys.argv) else "inductor"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(os.environ["GPU_CHECK_CACHES"]) / own)

import timm
import torch
import triton

from gpu_report import Report, time_us


def main(options: argparse.Namespace) -> None:
    """Serves as the kind of process that `options.serve` says, or does one thing for a tool that watches it."""
    stream = private_output()
    torch.set_num_threads(1 if options.dry else 4)
    torch.backends.cudnn.allow_tf32 = options.serve is not None and options.serve.startswith("model")
    kind, _, name = (options.serve or "").partition(" ")
    report = Report(stream, options.out, options.dry)
    if options.dry and kind != "compile":
        use_interpreter()
    if options.one_map:
        from gpu_correctness import one_map

        one_map(report.device)
    elif options.counted:
        import gpu_counters

        gpu_counters.counted(report.device, stream)
    elif kind == "compile":
        import gpu_compile

        report.serve({"compile": gpu_compile.compile_all})
    elif kind == "model":
        import gpu_models

        report.serve(gpu_models.parts(name))
    else:
        serve_gpu(report)


def serve_gpu(report: Report) -> None:
    """Serves as a process that checks and times kernels."""
    import gpu_correctness
    import gpu_counters
    import gpu_kernels
    import gpu_ways

    report.serve(
        {
            "ceilings": ceilings,
            "list": gpu_kernels.list_all,
            "checks": gpu_correctness.list_checks,
            **gpu_correctness.parts(),
            **gpu_kernels.parts(),
            "ways": gpu_ways.compare_ways,
            "warm": gpu_ways.compile_ways,
            "counters": gpu_counters.count_all,
        }
    )


def private_output() -> TextIO:
    """Standard output, for this process's own lines alone: what libraries print there goes to standard error."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return stream


def ceilings(report: Report, _: str) -> None:
    """The machine: its names, and what it copies and multiplies in a second."""
    versions = {"torch": torch.__version__, "triton": triton.__version__, "timm": timm.__version__}
    for what, value in {**versions, "python": sys.version}.items():
        report.row("ceilings", what=what, value=value)
    if not report.dry:
        there = torch.cuda.is_available()
        report.row("ceilings", what="GPU", value=torch.cuda.get_device_name() if there else "")
        if not there:
            return
        report.row("ceilings", what="target", value="sm_{}{}".format(*torch.cuda.get_device_capability()))
        fields = "name,driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"
        try:
            command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
            run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=4)
            report.row("ceilings", what=fields, value=run.stdout.strip())
        except (OSError, subprocess.TimeoutExpired) as error:
            report.row("ceilings", what=fields, value=f"not known: {error}")
    size, side = (1 << 10, 64) if report.dry else (1 << 30, 8192)
    a = torch.empty(size, dtype=torch.int8, device=report.device)
    b = torch.empty_like(a)
    rate = 2 * size / time_us(lambda: b.copy_(a), report.dry) / 1e6
    report.row("ceilings", what="copy, TB/s", value=round(rate, 3), TB_per_s=rate)
    x = torch.randn(side, side, device=report.device, dtype=torch.bfloat16)
    rate = 2 * side**3 / time_us(lambda: torch.mm(x, x), report.dry) / 1e6
    report.row("ceilings", what="bfloat16 products, TFLOP/s", value=round(rate, 1))


INTERPRETER: list[torch.library.Library] = []
"""What keeps the interpreter in the place of the compiled kernels."""


def use_interpreter() -> None:
    """Has the ops run the kernels on CPU tensors, by Triton's interpreter, and training take the way of a GPU."""
    from transnext.ops import attention as op
    from transnext.ops.triton.interpreted import put_on_cpu

    op._keeps_log_sum = lambda tensors: torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    INTERPRETER.append(put_on_cpu())
