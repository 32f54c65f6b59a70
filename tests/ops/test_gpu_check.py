"""`benchmarks/gpu_check.py` is rehearsed on the CPU, without packages that a machine with a GPU may lack."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_check.py"
BLOCKED = """
import importlib.abc, importlib.util, sys

class Blocked(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name in {"tyro", "accelerate", "matplotlib", "tensorboard", "rich", "pytest", "expecttest", "psutil"}:
            return importlib.util.spec_from_loader(name, self)

    def exec_module(self, module):
        raise ImportError(f"{module.__name__} is not there")

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
def test_rehearsal(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(tmp_path)
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "--dry", "--out", str(out)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "0 checks or steps failed"
    tables = json.loads((out / "results.json").read_text())
    steps = {row["step"].split()[0] for row in tables["steps"]}
    assert {step[0] for step in steps} == set("01235")
    assert all(row["passed"] in (True, "") for row in tables["A correctness"])
    assert {row["kernel"] for row in tables["compiled"]} == {"gate_forward"}
    assert len({row["kernel"] for row in tables["B kernels"]}) == 9
    ways = {row["way"]: row for row in tables["C ops"] if row["op"] == "attention"}
    assert "backward on CPU" in ways.pop("FlexAttention")["error"]
    assert all("error" not in row for row in [*ways.values(), *tables["D models"]])
    assert all(float(row["difference"]) < 0.02 for row in tables["C ops"])
    modes = {(row["model"], row["mode"]) for row in tables["D models"]}
    assert ("transnext_pico", "training compiled") in modes
    assert ("test_convnext", "bfloat16 eager, again") in modes
    for table in tables:
        assert f"\n{table}\n" in run.stdout


def test_not_without_a_gpu(tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "out")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "there is no GPU that PyTorch can use: --dry rehearses on the CPU"
