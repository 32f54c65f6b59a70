"""Step 4 of `gpu_check.py`: what the GPU counts in a launch of each kernel, read by NVIDIA's profiler, `ncu`.

The profiler runs this script anew, with `--counted`; that process makes its launches once, then lets the profiler count
one more of each. Where the profiler is missing, or may not read the counters, a row says so.
"""

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import torch

from gpu_kernels import STAGES, launches_of, stage_named
from gpu_report import Deadline, Report

PLACES = ("/usr/local/cuda/bin/ncu", "/opt/nvidia/nsight-compute/ncu")
COUNTED_STAGES = ("224 stage 1", "224 stage 3")
BASE = {
    "gpu__time_duration.sum": "us",
    "smsp__inst_executed.sum": "warp_instructions",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue_active",
    "dram__bytes.sum": "dram_MB",
}
MORE = {
    "lts__t_bytes.sum": "l2_MB",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps_active",
}
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
STALLS = (
    *("long_scoreboard", "short_scoreboard", "barrier", "wait", "math_pipe_throttle"),
    *("mio_throttle", "lg_throttle", "no_instruction", "not_selected", "dispatch_stall"),
)
UNITS = {
    **{"nsecond": 1e-3, "ns": 1e-3, "usecond": 1.0, "us": 1.0, "msecond": 1e3, "ms": 1e3, "second": 1e6, "s": 1e6},
    **{"byte": 1e-6, "Kbyte": 1e-3, "Mbyte": 1.0, "Gbyte": 1e3},
}
"""What numbers are multiplied by to be microseconds or megabytes."""


def count_all(report: Report, _: str) -> None:
    """A row for each kernel and stage; where there are none, a row that says why."""
    if report.dry:
        counted(report.device, sys.stderr, dry=True)
    tool = shutil.which("ncu") or next((place for place in PLACES if Path(place).exists()), None)
    if report.dry or tool is None:
        report.row(
            "E counters", kernel="", stage="", error="ncu is not there" if tool is None else "not in a rehearsal"
        )
        return
    why = ""
    for metrics in ([*BASE, *MORE, *(STALL.format(stall) for stall in STALLS)], list(BASE)):
        if report.left() < 8:
            why = why or "no time was left"
            break
        rows, why = profile(report, tool, metrics)
        for row in rows:
            report.row("E counters", **row)
        if rows:
            return
    report.row("E counters", kernel="", stage="", error=why)


def profile(report: Report, tool: str, metrics: list[str]) -> tuple[list[dict[str, Any]], str]:
    """Rows, and why there are none. What the profiler says is kept in `counters.csv`.

    Args:
        report: Tells where, and how much time is left.
        tool: The profiler.
        metrics: Names of what is counted.
    """
    command = [tool, "--csv", "--page", "raw", "--profile-from-start", "off", "--clock-control", "none"]
    command += ["--metrics", ",".join(metrics), sys.executable, str(Path(__file__).with_name("gpu_check.py"))]
    command += ["--counted", "--out", str(report.out)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=max(1.0, report.left() - 2))
    except subprocess.TimeoutExpired:  # what it has started is ended with this process
        raise Deadline("the profiler was not ready") from None
    text = run.stdout + run.stderr
    (report.out / "counters.csv").write_text(text)
    rows = list(rows_of(text, stages_of_launches(text)))
    why = next((line for line in text.splitlines() if line.startswith("==ERROR==")), f"status {run.returncode}")
    return rows, "" if rows else f"ncu: {why}"[:300]


def stages_of_launches(text: str) -> list[str]:
    """The stages that `counted` prints, in the order of launches."""
    return [line.removeprefix("counted: ") for line in text.splitlines() if line.startswith("counted: ")]


def rows_of(text: str, stages: list[str]) -> Iterable[dict[str, Any]]:
    """Rows of a table that `ncu --csv --page raw` prints: names, units, then a launch a line.

    Args:
        text: All that was printed; lines before the table begin with "==", or are the program's own.
        stages: Names of the stages, in the order of launches.
    """
    lines = [line for line in text.splitlines() if line.startswith('"')]
    launches = list(csv.DictReader(io.StringIO("\n".join(lines))))
    units = launches.pop(0) if launches and not launches[0].get("ID") else {}

    def number(launch: dict[str, str], metric: str) -> float | None:
        try:
            return float(launch[metric].replace(",", "")) * UNITS.get(units.get(metric, ""), 1.0)
        except (KeyError, ValueError, AttributeError):  # not there, or "n/a"
            return None

    for place, launch in enumerate(launches):
        found = {name: number(launch, metric) for metric, name in {**BASE, **MORE}.items()}
        stalls = {stall: number(launch, STALL.format(stall)) for stall in STALLS}
        worst = sorted((s for s in stalls if stalls[s]), key=lambda s: -(stalls[s] or 0.0))[:3]
        yield {
            "kernel": launch.get("Kernel Name", "").split("(")[0],
            "stage": stages[place] if place < len(stages) else "",
            **{name: None if value is None else round(value, 1) for name, value in found.items()},
            "stalls": ", ".join(f"{stall} {stalls[stall]:.1f}" for stall in worst),
        }


def counted(device: torch.device, stream: TextIO, dry: bool = False) -> None:
    """Launches every kernel once in each stage, between what the profiler takes for a beginning and an end."""
    launches = []
    for name in [stage.name for stage in STAGES if stage.name in COUNTED_STAGES] if not dry else ["dry"]:
        for op in ("attention", "gate"):
            noted = launches_of(stage_named(name), device, op)
            launches += [(name, launch) for launch in {launch.kernel: launch for launch in noted}.values()]
    if not dry:
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        for name, launch in launches:
            launch.make(launch.kernel.configs[0])
            stream.write(f"counted: {name}\n")
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        stream.flush()
