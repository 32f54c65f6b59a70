"""What the kernels do on a GPU, in five minutes: right or not, how fast, beside what, and in whole models.

    python benchmarks/gpu_check.py --out check        # on an H100 or H200; --any for other NVIDIA GPUs
    python benchmarks/gpu_check.py --out check --dry  # a rehearsal on the CPU, at a few pixels, which `make test` holds

It needs PyTorch, timm, NumPy, Triton and this repository, which need not be installed. All that touches the GPU happens
in processes of its own: one that fails, hangs or reads what is not its own is reported and replaced. What there was no
time for is listed. `results.json` in the folder is rewritten after each row; tables are printed last. docs/gpu.md says
what is measured and by which rule variants of kernels are kept.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from gpu_decisions import NOT_CHECKED, beside_bars, decide_all
from gpu_process import Child, Results, run_side_by_side, shares

MODELS = ("transnext_tiny", "convnext_tiny", "swin_tiny_patch4_window7_224")
DRY_MODELS = ("transnext_pico eager", "test_convnext eager", "transnext_pico compiled")
DRY_VARIANTS = (
    *("B3 single 16-bit weights", "C4 2 splits"),
    *("G add_layer_norm_gradient 1024 numbers", "G gelu_pool 2 pixels"),
)
WARMED = (("attention", "224 stage 1"), ("attention", "224 stage 3"), ("gate", "224 stage 1"), ("gate", "224 stage 3"))
CHECKERS = 10
"""Processes that check values side by side: most of their time goes into compiling."""

OF_A_VARIANT = 12.0
"""Seconds after which a variant is given up: some are compiled only then."""

OF_VARIANTS = ("variant ", "variant-large ", "check ")
"""How checks and steps of variants begin: nobody uses those, and what fails in them decides about them."""

LEAST = 2.0
"""Seconds without which a part is not begun."""

STEPS = {
    "0 ceilings": 14.0,
    "1 compile, 2 correctness": 92.0,
    "3 kernels": 10.0,
    "3 variants": 48.0,
    "3 ops": 20.0,
    "4 counters": 25.0,
    "5 models": 76.0,
}
"""Seconds, of 290; what one leaves is shared out between the next ones."""

TABLES = {
    "ceilings": ("what", "value"),
    "compiled": ("variant", "kernel", "config", "registers", "spilled", "shared", "narrow_loads", "error"),
    "A correctness": ("check", "case", "dtype", "worst", "of_budget", "passed"),
    "B kernels": ("kernel", "stage", "us", "dram_us", "of_dram", "launches"),
    "B variants": ("variant", "stage", "us_before", "us_after", "gain", "error"),
    "C ops": ("op", "stage", "images", "way", "forward_us", "both_us", "difference", "error"),
    "D models": (
        *("model", "mode", "images_per_s", "p10_to_p90", "ms", "gmacs", "peak_GB", "launches", "first_s", "error"),
    ),
    "E counters": (
        *("kernel", "stage", "us", "warp_instructions", "issue_active", "dram_MB", "l2_MB", "warps_active", "stalls"),
        "error",
    ),
    "steps": ("step", "seconds", "error"),
    "cut": ("part", "why"),
    "bars": ("what", "found", "bar", "reached"),
    "D decisions": ("variant", "saved_us", "at_800x1216", "verdict", "decision"),
}


class Run:
    """The steps, and the processes that do them.

    Args:
        results: Where rows go.
        processes: Ends all processes when it is closed.
        any_gpu: Whether to go on where the GPU is no H100 or H200.
    """

    def __init__(self, results: Results, processes: ExitStack, any_gpu: bool) -> None:
        self.results, self._processes, self._any = results, processes, any_gpu
        self._first = self._child("gpu")
        kinds = [f"{name} {kind}" for kind in ("eager", "compiled") for name in MODELS]
        self._models = {kind: self._child(f"model {kind}") for kind in (DRY_MODELS if results.dry else kinds)}

    def _child(self, kind: str) -> Child:
        child = Child(self.results, kind)
        self._processes.callback(child.end)
        return child

    def all(self) -> None:
        """All steps, each in its share of the time."""
        steps = (
            *(self._ceilings, self._compile_and_check, self._kernels, self._variants, self._ways, self._counters),
            self._measure_models,
        )
        for (name, seconds), step in zip(shares(self.results.left() - 5, STEPS), steps, strict=True):
            if seconds < LEAST:
                self.results.cut(name, "no time was left")
            else:
                step(seconds)

    def _parts(self, parts: Sequence[str], seconds: float, most: float, quiet: bool = False) -> None:
        """Parts one after the other in the process that has the GPU for itself, until the time is over.

        A part is not cut short by much: what is interrupted takes the process along, and what that has ready.
        """
        ends = time.monotonic() + seconds
        for part in parts:
            left = ends - time.monotonic()
            if left < LEAST / 4:
                self.results.cut(part, "no time was left")
            else:
                self._first.run(part, min(left + LEAST, most), quiet)

    def _ceilings(self, seconds: float) -> None:
        began = self._first.run("ceilings", seconds)
        rows = {row["what"]: row["value"] for row in self.results.rows("ceilings")}
        if not began and "torch" not in rows:
            raise SystemExit(f"nothing could be started: see {self.results.log}")
        if rows.get("GPU") == "":
            raise SystemExit("there is no GPU that PyTorch can use: --dry rehearses on the CPU")
        if not self.results.dry and not self._any and "target" in rows and rows["target"] != "sm_90":
            raise SystemExit(f"{rows['GPU']} is no H100 or H200: --any goes on")
        self._first.run("list", 30)

    def _compile_and_check(self, seconds: float) -> None:
        """Fills the processors: compilation, checks, and models that are made ready."""
        results = self.results
        target = next((row["value"] for row in results.rows("ceilings") if row["what"] == "target"), "sm_90")
        compiler = self._child("compile")
        compiler.begin(f"compile {target}", seconds)
        for model in self._models.values():
            model.begin("prepare", results.left())
        self._first.run("checks", LEAST * 10)
        checks = results.rows("checks")
        parts = [row["part"] for row in checks if row["urgent"]]
        parts += [f"check {row['name']}" for row in self._open()]
        parts += [row["part"] for row in checks if not row["urgent"]]
        checkers = [self._first]
        if not results.dry:
            checkers += [self._child("gpu") for _ in range(CHECKERS - 1)]
            parts = [f"warm {op} {stage}" for op, stage in WARMED] + parts
        run_side_by_side(checkers, parts, seconds - 1)
        compiler.finish(f"compile {target}")
        for child in (compiler, *checkers[1:]):
            child.close()
        for model in self._models.values():
            model.begin("hold", results.left())  # before it begins with another mode
        if not results.dry:
            for model in self._models.values():
                model.pause()

    def _open(self) -> list[dict[str, Any]]:
        """Rows of the variants that are timed."""
        found = [row for row in self.results.rows("variants") if row["state"] == "open"]
        return [row for row in found if row["name"] in DRY_VARIANTS] if self.results.dry else found

    def _stages(self) -> list[str]:
        return [row["stage"] for row in self.results.rows("stages")]

    def _kernels(self, seconds: float) -> None:
        rates = [row["TB_per_s"] for row in self.results.rows("ceilings") if "TB_per_s" in row]
        bandwidth = rates[0] if rates else 0.0
        self._parts([f"kernels {bandwidth} {stage}" for stage in self._stages()], seconds, 60)

    def _variants(self, seconds: float) -> None:
        """At 224x224, those first that are compiled already; then those that are kept at 800x1216."""
        compiled = {row["variant"] for row in self.results.rows("compiled")}
        ready = sorted(self._open(), key=lambda row: row["is_config"] and row["name"] not in compiled)
        names = [row["name"] for row in ready]
        self._parts([f"variant {name}" for name in names], 0.8 * seconds, OF_A_VARIANT, quiet=True)
        unchecked = [row["variant"] for row in self._decisions() if row["decision"].endswith(NOT_CHECKED)]
        self._parts([f"check {name}" for name in unchecked], 0.05 * seconds, OF_A_VARIANT)
        kept = [row["variant"] for row in self._decisions() if row["verdict"] == "keep" and row["variant"] in names]
        if not self.results.dry:
            self._parts([f"variant-large {name}" for name in kept], 0.15 * seconds, OF_A_VARIANT, quiet=True)
        self._first.run("forget", 10, quiet=True)

    def _decisions(self) -> list[dict[str, Any]]:
        """What the rule says of what is known so far."""
        results = self.results
        options = {"depths": {"dry": 1}} if results.dry else {}
        return decide_all(self._open(), results.rows("B variants"), results.rows("A correctness"), **options)

    def _ways(self, seconds: float) -> None:
        """Those first that were compiled beforehand, then stage 4, then the others."""
        parts = [] if self.results.dry else [f"ways {op} {stage}" for op, stage in WARMED]
        for row in sorted(self.results.rows("stages"), key=lambda row: row["attention"]):
            ops = ("attention",) if row["attention"] else ("global",)
            ops = ("attention", "global") if self.results.dry else ops
            parts += [f"ways {op} {row['stage']}" for op in (*ops, "gate")]
        self._parts(list(dict.fromkeys(parts)), seconds, 60)

    def _counters(self, seconds: float) -> None:
        self._first.run("counters", seconds)

    def _measure_models(self, seconds: float) -> None:
        self._first.close()
        weights = {"eager": 1.0, "compiled": 0.8}
        parts = {f"measure {which}": weights[which.split()[1]] for which in self._models}
        eager = [which for which in self._models if which.endswith("eager")]
        parts |= {f"again {which}": 0.15 for which in eager if "convnext" in which}
        parts |= {f"large {which}": 0.3 for which in eager if "convnext" not in which}
        for part, share in shares(seconds, parts):
            model = self._models[part.partition(" ")[2]]
            if share < LEAST:
                self.results.cut(part, "no time was left")
                continue
            model.pause(False)
            model.run(part, share)
            if not self.results.dry:
                model.pause()

    def conclude(self) -> None:
        """Rows of decisions, and of what was reached."""
        for row in beside_bars(self.results.rows("D models")):
            self.results.row("bars", **row)
        for row in self._decisions():
            self.results.row("D decisions", **row)


def main() -> None:
    """Runs the steps, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder of results.json and log.txt")
    parser.add_argument("--budget", type=float, help="seconds for everything, 290 if not given")
    parser.add_argument("--dry", action="store_true", help="rehearse on the CPU, with Triton's interpreter")
    parser.add_argument("--any", action="store_true", help="go on where the GPU is no H100 or H200")
    for hidden in ("--serve", "--one-map", "--counted"):  # how this script starts itself
        parser.add_argument(hidden, help=argparse.SUPPRESS, **({} if hidden == "--serve" else {"action": "store_true"}))
    options = parser.parse_args()
    if options.budget is not None and options.budget <= 0:
        parser.error(f"--budget is {options.budget:g}: expected seconds above 0")
    if options.serve or options.one_map or options.counted:
        import gpu_served

        gpu_served.main(options)
        return
    caches = tempfile.TemporaryDirectory(prefix="gpu_check_", ignore_cleanup_errors=True)
    settle_environment(Path(caches.name))
    results = Results(options.out, options.budget or (3000 if options.dry else 290), options.dry)
    said = ""
    signal.signal(signal.SIGTERM, stop_steps)
    with caches, ExitStack() as processes:
        run = Run(results, processes, options.any)
        try:
            run.all()
        except SystemExit as stop:
            said = str(stop)
        except (Stopped, KeyboardInterrupt) as stop:
            results.cut("whatever was left", str(stop) or "interrupted")
    if said:
        sys.exit(said)
    attempt(run.conclude, results)
    for table, columns in TABLES.items():
        results.show(table, columns)
    failures = [row["check"] for row in results.rows("A correctness") if row["passed"] is False]
    failures += [row["step"] for row in results.rows("steps") if row["error"]]
    counted = [name for name in failures if not name.startswith(OF_VARIANTS)]
    print(f"\n{len(counted)} checks or steps failed; {len(results.rows('cut'))} were cut")
    sys.exit(bool(counted))


class Stopped(BaseException):
    """Someone wants the script to end: tables are printed, and processes ended, all the same."""


def stop_steps(*_: object) -> None:
    """What a signal to end does."""
    raise Stopped("ended from outside")


def attempt(conclude: Callable[[], None], results: Results) -> None:
    """Draws conclusions; tables are printed even where they cannot be drawn."""
    try:
        conclude()
    except Exception as error:
        results.row("steps", step="decisions", seconds=0.0, error=f"{type(error).__name__}: {error}")


def settle_environment(caches: Path) -> None:
    """Of all processes: nothing is tuned, and caches are new, so that first calls are first ones."""
    os.environ["TRANSNEXT_TUNE"] = "0"
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Not within that of Inductor, where it would be otherwise: processes find what others have compiled.
    os.environ["TRITON_CACHE_DIR"] = str(caches / "triton")
    os.environ["GPU_CHECK_CACHES"] = str(caches)


if __name__ == "__main__":
    main()
