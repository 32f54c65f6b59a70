"""Peak memory of a process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from transnext.bench.measure import WorkloadError
from transnext.bench.memory import MemoryUse, build_with_cuda_memory, memory_of_process
from transnext.bench.workload import Workload

MB = 10**6
SCRIPT = """
from transnext.bench.memory import peak_resident_bytes, resident_bytes
import numpy as np
print(peak_resident_bytes())
big = np.ones({megabytes} * 10**6, np.uint8)
del big
print(peak_resident_bytes(), resident_bytes())
"""


def peaks(megabytes: int) -> list[int]:
    """Peak before and after, and memory at the end, of a process that uses so much for a while."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(megabytes=megabytes)], capture_output=True, text=True, check=True
    )
    return [int(word) for word in run.stdout.split()]


def test_the_peak_is_that_of_the_process_and_stays() -> None:
    this_process = np.ones(1500 * MB, np.uint8)  # on Linux a naive measurement counts that of the parent
    before, peak, after = peaks(400)
    assert this_process.nbytes > before
    assert peak - before > 380 * MB
    assert after < peak - 300 * MB


def test_a_model_is_measured_in_a_process_of_its_own() -> None:
    this_process = np.ones(1500 * MB, np.uint8)
    use = memory_of_process(Workload(model="resnet10t", size=(128, 128), batch_size=32, train=True), threads=1)
    assert 50 * MB < use.growth_bytes < this_process.nbytes
    assert 100 * MB < use.before_bytes < this_process.nbytes


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('hello'); raise SystemExit('no\\nspace')", "space"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9, probably for want of memory"),
        ('print(\'{"failure": "ValueError: too small"}\')', "^ValueError: too small$"),
    ],
)
def test_a_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str) -> None:
    """Of a process that ends before it answers, that is killed, and that answers."""
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(WorkloadError, match=message):
        memory_of_process(Workload(model="resnet10t", size=(64, 64)), threads=1)


def test_growth_is_never_negative() -> None:
    assert MemoryUse(before_bytes=5, peak_bytes=3).growth_bytes == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_memory_on_a_gpu_is_that_of_one_model() -> None:
    workload = Workload(model="resnet10t", size=(224, 224), device="cuda")
    _first, _, alone = build_with_cuda_memory(workload)
    _second, _, beside = build_with_cuda_memory(workload)
    assert beside.before_bytes == pytest.approx(alone.before_bytes, rel=0.1)
    assert beside.peak_bytes == pytest.approx(alone.peak_bytes, rel=0.1)
