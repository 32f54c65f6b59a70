"""The steps of `gpu_check.py` as they are done with a GPU, by processes that only say what such a one would say."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import gpu_check
import gpu_process
from gpu_process import Results

SERVED = """
import json, os, signal, sys, time

def send(**message):
    print(json.dumps(message), flush=True)

def row(table, **cells):
    send(table=table, row=cells)

CONFIGS = [dict(name=f"tiles {n}", what="", state="open", op="gate", kernels=["k"], is_config=True) for n in (1, 2, 3)]
STAGES = [("224 stage 1", True), ("224 stage 2", True), ("224 stage 3", True), ("224 stage 4", False), ("800", True)]

for line in sys.stdin:
    part = json.loads(line)["part"]
    word, _, rest = part.partition(" ")
    error, last = "", False
    if word == "ceilings":
        for what, value in (("torch", "2"), ("GPU", "H200"), ("target", TARGET)):
            row("ceilings", what=what, value=value)
        row("ceilings", what="copy", value=4.0, TB_per_s=4.0)
    elif word == "list":
        for name, attention in STAGES:
            row("stages", stage=name, attention=attention)
        for variant in CONFIGS:
            row("variants", **variant)
    elif word == "checks":
        for name, urgent in (("values 1", True), ("values 2", True), ("opcheck 1", False)):
            row("checks", part=name, urgent=urgent)
    elif word == "check":
        row("A correctness", check=f"variant {rest}", passed=True)
    elif word == "variant":
        if rest == "tiles 2":  # reads what is not its own
            row("B variants", variant=rest, stage="224 stage 1", error="AcceleratorError: illegal memory access")
            last = True
        elif rest == "tiles 3":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            for name, _ in STAGES[:4]:
                row("B variants", variant=rest, stage=name, us_before=10.0, us_after=8.0)
    elif word == "kernels":
        row("B kernels", kernel="k", stage=rest, us=1.0)
    elif word == "measure":
        name, kind = rest.split()
        row("D models", model=name, mode=f"bfloat16 {kind}", images_per_s=9000.0, gmacs=5.0)
    elif word == "prepare":
        time.sleep(0.5)
    row("done", part=part, pid=os.getpid())
    send(done=part, seconds=0.0, error=error, last=last)
"""


def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str = "sm_90") -> Results:
    script = tmp_path / "served.py"
    script.write_text(SERVED.replace("TARGET", repr(target)))
    monkeypatch.setattr(gpu_process, "SCRIPT", script)
    monkeypatch.setattr(gpu_check, "CHECKERS", 2)
    return Results(tmp_path / "out", 60, dry=False)


def test_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = prepared(tmp_path, monkeypatch)
    with ExitStack() as processes:
        run = gpu_check.Run(results, processes, any_gpu=False)
        run.all()
        run.conclude()
    done = [row["part"] for row in results.rows("done")]
    for part in (
        *("compile sm_90", "values 1", "values 2", "opcheck 1", "check tiles 3", "warm attention 224 stage 1"),
        *("kernels 4.0 224 stage 4", "kernels 4.0 800", "variant tiles 1", "variant tiles 2", "variant-large tiles 1"),
        *("ways attention 800", "ways global 224 stage 4", "ways gate 224 stage 4", "counters"),
        *("measure swin_tiny_patch4_window7_224 compiled", "again convnext_tiny eager", "large transnext_tiny eager"),
    ):
        assert done.count(part) == 1, part
    assert done.index("opcheck 1") > done.index("values 1")
    assert results.rows("cut") == []
    assert [row["step"] for row in results.rows("steps") if row["error"]] == ["variant tiles 3"]
    assert [row["decision"] for row in results.rows("D decisions")] == [
        "tiles 1: +20.0 %, keep",
        "tiles 2: not measured, drop (224 stage 1: AcceleratorError: illegal memory access)",
        "tiles 3: not measured, open (not measured in any stage)",
        "first of k: +20.0 %, drop (tiles 1 takes its place; 1 of 3 are open)",
    ]
    assert any(row["reached"] is True for row in results.rows("bars"))
    assert json.loads((results.out / "results.json").read_text()) == results.tables
    models = {row["pid"] for row in results.rows("done") if row["part"].startswith(("prepare", "measure", "again"))}
    assert len(models) == 6


def test_budget_that_is_over_lists_what_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = prepared(tmp_path, monkeypatch)
    monkeypatch.setattr(gpu_check, "LEAST", 1000.0)
    with ExitStack() as processes:
        gpu_check.Run(results, processes, any_gpu=False).all()
    assert [row["part"] for row in results.rows("cut")] == list(gpu_check.STEPS)


def test_another_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = prepared(tmp_path, monkeypatch, "sm_80")
    with ExitStack() as processes, pytest.raises(SystemExit, match="H200 is no H100 or H200: --any goes on"):
        gpu_check.Run(results, processes, any_gpu=False).all()


def test_steps_fit_the_usual_budget() -> None:
    assert sum(gpu_check.STEPS.values()) <= 290 - 5


def test_parent_imports_no_pytorch() -> None:
    """It lives as long as the run, and an error on the GPU may not reach it."""
    code = "import sys, gpu_check; sys.exit('torch' in sys.modules)"
    folder = Path(gpu_check.__file__).parent
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode == 0
