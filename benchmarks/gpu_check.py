"""What the kernels do on a GPU, in five minutes: right or not, how fast, beside what, and in whole models.

    python benchmarks/gpu_check.py --out check        # on an H100 or H200; --any for other NVIDIA GPUs
    python benchmarks/gpu_check.py --out check --dry  # a rehearsal on the CPU, at 8x8, which `make test` holds

It needs PyTorch, timm, NumPy, Triton and this repository, which need not be installed. Steps that fail or take longer
than their share of the time are reported and passed over. `results.json` in the folder is rewritten after each row;
tables are printed last.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Before they are imported: where things lie, how Triton works in a rehearsal, and that nothing is tuned.
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
os.environ["TRANSNEXT_TUNE"] = "0"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
if "--dry" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"

import timm
import torch
import triton

from gpu_correctness import check_all, one_map
from gpu_kernels import time_all
from gpu_models import Workers, work
from gpu_report import Report, time_us

STEPS = {"0 ceilings": 6, "1 compile": 25, "2 correctness": 50, "3 kernels": 75, "5 models": 100}
"""Seconds, of 290; what one leaves is shared out between the next ones."""

TABLES = {
    "A correctness": ("check", "case", "dtype", "worst", "of_budget", "passed"),
    "B kernels": ("kernel", "stage", "us_first", "us_best", "best", "dram_us", "of_dram", "launches"),
    "C ops": ("op", "stage", "images", "way", "forward_us", "both_us", "difference", "error"),
    "D models": (*("model", "mode", "images_per_s", "p10_to_p90", "ms", "peak_GB", "launches", "first_s", "error"),),
    "compiled": ("kernel", "config", "maps", "stage", "registers", "spilled", "shared", "narrow_loads"),
    "ceilings": ("what", "value"),
    "steps": ("step", "seconds", "error"),
}


def ceilings(report: Report) -> None:
    """The machine: its names, and what it copies and multiplies in a second."""
    names = {"torch": torch.__version__, "triton": triton.__version__, "timm": timm.__version__, "python": sys.version}
    for what, value in names.items():
        report.row("ceilings", what=what, value=value)
    if not report.dry:
        fields = "name,driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
        report.row("ceilings", what=fields, value=run.stdout.strip())
    size, side = (1 << 10, 64) if report.dry else (1 << 30, 8192)
    a = torch.empty(size, dtype=torch.int8, device=report.device)
    b = torch.empty_like(a)
    rate = 2 * size / time_us(lambda: b.copy_(a), report.dry) / 1e6
    report.row("ceilings", what="copy, TB/s", value=round(rate, 3), TB_per_s=rate)
    x = torch.randn(side, side, device=report.device, dtype=torch.bfloat16)
    rate = 2 * side**3 / time_us(lambda: torch.mm(x, x), report.dry) / 1e6
    report.row("ceilings", what="bfloat16 products, TFLOP/s", value=round(rate, 1))


def compile_kernels(report: Report) -> None:
    """Every kernel, configuration and precision, in processes that need no GPU; it fills Triton's cache as well."""
    capability = (9, 0) if report.dry else torch.cuda.get_device_capability()
    command = [sys.executable, "-m", "transnext.ops.triton.compile_ahead", "--json"]
    command += ["--targets", f"sm_{capability[0]}{capability[1]}"]
    if report.dry:
        command += ["--maps", "bf16", "--kernels", "gate_forward"]
    else:
        command += ["--maps", "bf16", "fp32", "fp32-tf32x3", "--stages", "1", "2", "--configs"]
        command += ["--jobs", str(min(16, os.cpu_count() or 1))]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            report.row("compiled", **json.loads(line))
    finally:
        if process.poll() is None:
            time.sleep(0.2)
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()


def use_interpreter() -> None:
    """Has the ops run the kernels on CPU tensors, by Triton's interpreter."""
    from transnext.ops.triton import attention, gate

    library = torch.library.Library("transnext", "IMPL")
    for name, module in (("aggregated_attention", attention), ("depthwise_conv_gelu_gate", gate)):
        library.impl(name, module.forward, "CPU", allow_override=True)
        library.impl(f"{name}_backward", module.backward, "CPU", allow_override=True)
    INTERPRETER.append(library)


INTERPRETER: list[torch.library.Library] = []
"""What keeps the interpreter in the place of the compiled kernels."""


def main() -> None:
    """Runs the steps, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder of results.json and logs")
    parser.add_argument("--budget", type=float, help="seconds for everything, 290 if not given")
    parser.add_argument("--dry", action="store_true", help="rehearse on the CPU, with Triton's interpreter")
    parser.add_argument("--any", action="store_true", help="go on where the GPU is no H100 or H200")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--one-map", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dry:
        torch.set_num_threads(1)
        use_interpreter()
    elif not torch.cuda.is_available():
        sys.exit("there is no GPU that PyTorch can use: --dry rehearses on the CPU")
    if options.worker:
        work(options.worker, options.dry)
        return
    if options.one_map:
        one_map(torch.device("cpu" if options.dry else "cuda"))
        return
    if not options.dry and not options.any and torch.cuda.get_device_capability() != (9, 0):
        sys.exit(f"{torch.cuda.get_device_name()} is no H100 or H200: --any goes on")
    report = Report(options.out, options.budget or (3000 if options.dry else 290), options.dry)
    workers = None
    try:
        for step, seconds in report.shares(report.left() - 5, STEPS):
            if step.startswith("2"):
                workers = Workers(report)
                check_all(report, seconds)
                workers.pause()
            elif step.startswith("3"):
                time_all(report, seconds)
            elif workers:
                workers.measure_all(seconds)
            else:
                with report.guarded(step, seconds):
                    ceilings(report) if step.startswith("0") else compile_kernels(report)
    finally:
        if workers:
            workers.close()
        for table, columns in TABLES.items():
            report.show(table, columns)
    failures = [row for row in report.tables.get("A correctness", []) if row["passed"] is False]
    failures += [row for row in report.tables.get("steps", []) if row["error"]]
    print(f"\n{len(failures)} checks or steps failed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
