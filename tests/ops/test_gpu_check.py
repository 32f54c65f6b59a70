"""`benchmarks/gpu_check.py` is rehearsed on the CPU, without packages that a machine with a GPU may lack."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.attention_cases import attention_inputs, attention_results, gate_inputs, gate_results

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
    assert run.returncode == 0, run.stdout + run.stderr + (out / "log.txt").read_text()
    assert run.stdout.splitlines()[-1] == "0 checks or steps failed; 0 were cut"
    assert {path.name for path in out.iterdir()} == {"results.json", "log.txt"}
    tables: dict[str, list[dict[str, Any]]] = json.loads((out / "results.json").read_text())
    steps = {row["step"].split()[0] for row in tables["steps"]}
    assert steps == {
        *("ceilings", "list", "checks", "compiled", "sanitizer", "values", "bits", "graphs", "mixed", "check"),
        *("opcheck", "compile", "kernels", "ways", "counters", "measure", "again", "large"),
    }
    assert all(row["passed"] in (True, "") for row in tables["A correctness"])
    checked = {row["check"] for row in tables["A correctness"]}
    variants = [
        *("B3 single 16-bit weights", "C4 2 splits"),
        *("G add_layer_norm_gradient 1024 numbers", "G gelu_pool 2 pixels"),
    ]
    assert {"opcheck", *(f"variant {name}" for name in variants)} <= checked
    compiled, refused = tables["compiled"]
    assert compiled["registers"] > 0
    assert "sm_12" in refused["error"]
    timed = {row["kernel"] for row in tables["B kernels"]}
    assert timed > {"attention_forward", "query_gradient", "local_gradient", "pooled_gradient", "bias_gradient"}
    assert any(name.startswith("gate") for name in timed)
    assert [row["variant"] for row in tables["B variants"]] == variants
    assert all(row["us_after"] > 0 for row in tables["B variants"])
    ways = {row["way"]: row for row in tables["C ops"] if row["op"] == "attention"}
    assert "backward on CPU" in ways.pop("FlexAttention")["error"]
    assert all("error" not in row for row in [*ways.values(), *tables["D models"]])
    assert all(float(row["difference"]) < 0.02 for row in tables["C ops"] if "error" not in row)
    modes = {(row["model"], row["mode"]) for row in tables["D models"]}
    assert ("transnext_pico", "training compiled") in modes
    assert ("test_convnext", "bfloat16 eager, again") in modes
    assert "ncu" in tables["E counters"][0]["error"] or "rehearsal" in tables["E counters"][0]["error"]
    assert {row["verdict"] for row in tables["D decisions"]} <= {"keep", "drop"}
    states = {row["state"] for row in tables["variants"]}
    assert {"open", "adopted"} < states
    for table in tables.keys() - {"variants", "checks", "stages"}:
        assert f"\n{table}\n" in run.stdout


def test_not_without_a_gpu(tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "out")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "there is no GPU that PyTorch can use: --dry rehearses on the CPU"


def test_budget_is_above_0(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "out"), "--budget", "0"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].endswith("--budget is 0: expected seconds above 0")


def test_checks_follow_the_device() -> None:
    """Nothing is left on the CPU: on a device without numbers that would be an error, as it is on a GPU."""
    meta = torch.device("meta")
    inputs = {
        name: value.to(meta, torch.bfloat16)
        if isinstance(value, torch.Tensor)
        else type(value)(*(None if t is None else t.to(meta) for t in value[:3]), value[3])
        for name, value in attention_inputs(6, 5, 3, 2, D=8).items()
    }
    assert {t.device for t in attention_results(inputs, "reference").values()} == {meta}
    x, weight, bias = (t.to(meta, torch.bfloat16) for t in gate_inputs(1, 4, 5, 8))
    assert {t.device for t in gate_results(x, weight, bias, "reference").values()} == {meta}
