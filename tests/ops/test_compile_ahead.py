"""The kernels for GPUs compile for GPUs that are not here, within their registers and memory."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

from transnext.ops.triton.compile_ahead import MAX_SPILLED_BYTES, TARGETS, Compiled


def compile_ahead(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the tests around this one have kernels interpreted."""
    command = [sys.executable, "-m", "transnext.ops.triton.compile_ahead", *arguments]
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_fits(target: str) -> None:
    run = compile_ahead("--targets", target)
    assert run.returncode == 0, run.stdout + run.stderr
    kernels = {line.split()[0] for line in run.stdout.splitlines()[1:]}
    assert len(kernels) == 9
    assert run.stdout.count(target) == 2 * len(kernels)  # float32 and bfloat16


@pytest.mark.slow
def test_every_kernel_of_the_interpolating_mode_fits() -> None:
    run = compile_ahead("--targets", "sm_90", "--dtypes", "fp32", "--taps", "2")
    assert run.returncode == 0, run.stdout + run.stderr


def test_what_is_too_much() -> None:
    usage = {"kernel": "k", "config": "", "dtype": "fp32", "registers": 255}
    limit = TARGETS["gfx942"][1]
    fits = Compiled(**usage, target="gfx942", spilled=MAX_SPILLED_BYTES, shared=limit)
    assert fits.complaint() is None
    large = Compiled(**usage, target="gfx942", spilled=0, shared=limit + 1)
    assert large.complaint() == "65537 bytes of shared memory, and gfx942 has 65536"
    spilled = Compiled(**usage, target="sm_80", spilled=MAX_SPILLED_BYTES + 8, shared=0)
    assert spilled.complaint() == f"{MAX_SPILLED_BYTES + 8} bytes spilled, and {MAX_SPILLED_BYTES} are allowed"


def test_not_by_the_interpreter() -> None:
    run = compile_ahead(TRITON_INTERPRET="1")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "TRITON_INTERPRET is set: unset it, nothing is compiled with it"
