"""The kernels for GPUs compile for GPUs that are not here, within their registers and memory."""

import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton")

from transnext.ops.triton import attention, gate
from transnext.ops.triton import compile_ahead as module
from transnext.ops.triton.compile_ahead import (
    BUDGETS,
    MAPS,
    MAX_SPILLED_BYTES,
    MODES,
    STAGES,
    TARGETS,
    Budget,
    Compiled,
    cases,
)
from transnext.ops.triton.launch import config
from transnext.ops.triton.machine_code import Loop, Usage


def compile_ahead(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the tests around this one have kernels interpreted."""
    command = [sys.executable, "-m", "transnext.ops.triton.compile_ahead", *arguments]
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, check=False)


def compiling(script: str) -> subprocess.CompletedProcess[str]:
    """What a script does in a process in which kernels are compiled."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", script], env=kept, capture_output=True, text=True, check=False)


def rows_of(run: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Words of a line: kernel, tiles, warps, maps, mode, stage, target, registers, spilled, shared, narrow loads, code,
    loops, instructions counted."""
    assert run.returncode == 0, run.stdout + run.stderr
    return [line.split() for line in run.stdout.splitlines()[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "maps"), [("sm_80", 1), ("sm_90", 2), ("sm_100", 1), ("gfx942", 1)])
def test_every_kernel_fits(target: str, maps: int) -> None:
    rows = rows_of(compile_ahead("--targets", target, "--maps", *["bf16", "fp32"][:maps]))
    kernels = {row[0] for row in rows}
    assert len(kernels) == 17
    assert len(rows) == maps * len(kernels)
    if target == "sm_90":  # compiled for the strides of real launches, maps are read 16 bytes at a time
        assert {row[-4] for row in rows if row[-11] == "bf16"} == {"0"}
        assert {row[0] for row in rows if row[-1] != "-"} == set(BUDGETS)
        assert {row[-6] for row in rows} == {"0"}  # spilled by none, float32 maps included


@pytest.mark.slow
def test_every_mode_fits() -> None:
    rows = rows_of(compile_ahead("--targets", "sm_90", "--maps", "bf16", "--modes", "uneven", "resized", "wide"))
    assert len(rows) == 3 + 5 + 10
    assert {row[0] for row in rows if row[-10] == "resized"} == {"attention_factors"} | {
        name for name, budget in BUDGETS.items() if budget.resized
    }


FIRST_THAT_FITS = """
from transnext.ops.triton.compile_ahead import cases, compile_case

fitting = set()
for case in cases(["sm_90"], ["fp32-tf32x3"], [""], [0], every_config=True):
    if case.kernel not in fitting and compile_case(case).complaint() is None:
        fitting.add(case.kernel)
        print(case.launch.kernel.function.__name__)
"""


@pytest.mark.slow
def test_a_configuration_of_three_products_fits() -> None:
    """The first one, or another one that tuning may choose: later ones are compiled only if those before do not fit."""
    run = compiling(FIRST_THAT_FITS)
    assert run.stdout.split() == ["attention_forward", "query_gradient", "pooled_gradient", "bias_gradient"], run.stderr


def test_all_there_is() -> None:
    """What `--all` compiles, which takes an hour."""
    found = list(cases(TARGETS, MAPS, MODES, range(len(STAGES)), every_config=True))
    assert len(set(found)) == len(found)
    with_products = {(case.target, case.maps) for case in found if "PRECISION" in case.launch.kwargs}
    on_amd = ("fp32-tf32", "fp32-tf32x3")
    assert with_products == {(t, m) for t in TARGETS for m in MAPS if t != "gfx942" or m not in on_amd}
    assert {case.mode for case in found if case.launch.kernel is attention.FORWARD} == set(MODES) - {"uneven"}
    assert {case.mode for case in found if case.launch.kernel is attention.FOLD} == {"", "uneven"}
    for kernel in (attention.FORWARD, attention.LOCAL_GRADIENT, gate.FORWARD, gate.INPUT_GRADIENT):
        assert {case.config for case in found if case.launch.kernel is kernel} == set(range(len(kernel.configs)))


ONE_FOR_ALL_SIZES = """
import torch
from transnext.ops import axis_index
from transnext.ops.triton import attention, gate
from transnext.ops.triton.compile_ahead import compile_launch
from transnext.ops.triton.launch import noted_launches

for B, H, W, M in ((1, 1, 1, 2), (2, 16, 24, 4), (128, 56, 56, 16), (1, 200, 304, 2)):
    P_h, P_w = max(1, H // 8), max(1, W // 8)
    q = torch.empty(B, H, W, M, 24, device="meta")
    pooled = q.new_empty(B, P_h, P_w, M, 24)
    U_h, U_w = (len(axis_index(n, p).offsets) for n, p in ((H, P_h), (W, P_w)))
    shapes = ((M, 1, 24), (M, 1, 1), (M, 9), (M, 24, 9), (M, 1, 9), (M, U_h, U_w))
    parameters = [q.new_empty(shape) for shape in shapes]
    with noted_launches() as noted:
        attention.forward(q, q, q, pooled, pooled, *parameters, H, W, P_h, P_w)
        gate.forward(q.new_empty(B, H, W, 64), q.new_empty(32, 1, 3, 3), None)
    for launch in noted:
        compile_launch(launch, launch.kernel.configs[0], "sm_90")
for kernel in (attention.FORWARD, gate.FORWARD):
    print([len(cache[0]) for cache in kernel.function.device_caches.values()])
"""


@pytest.mark.slow
def test_no_compilation_for_another_size() -> None:
    run = compiling(ONE_FOR_ALL_SIZES)
    assert run.stdout.splitlines() == ["[1]", "[1]"], run.stdout + run.stderr


def test_what_is_too_much() -> None:
    usage: dict[str, Any] = {"kernel": "k", "config": "", "maps": "fp32", "mode": "", "stage": 1, "registers": 255}
    usage |= {"narrow_loads": 0, "instructions": 9, "loops": [7], "counted": (20.25, "logit"), "budget": None}
    limit = TARGETS["gfx942"][1]
    fits = Compiled(**usage, target="gfx942", spilled=MAX_SPILLED_BYTES, shared=limit)
    assert fits.complaint() is None
    large = Compiled(**usage, target="gfx942", spilled=0, shared=limit + 1)
    assert large.complaint() == "65537 bytes of shared memory, and gfx942 has 65536"
    spilled = Compiled(**usage, target="sm_80", spilled=MAX_SPILLED_BYTES + 8, shared=0)
    assert spilled.complaint() == f"{MAX_SPILLED_BYTES + 8} bytes spilled, and {MAX_SPILLED_BYTES} are allowed"

    bound = fits._replace(budget=(20.5, 255))
    assert bound.complaint() == "255 registers and 32 bytes spilled, and 255 are allowed"
    bound = bound._replace(spilled=0)
    assert bound.complaint() is None
    assert bound._replace(registers=256).complaint() == "256 registers and 0 bytes spilled, and 255 are allowed"
    assert bound._replace(budget=(20, 255)).complaint() == "20.2 instructions a logit, and 20 are allowed"
    narrow = fits._replace(maps="bf16", narrow_loads=48)
    assert narrow.complaint() == "48 loads of single 16-bit numbers"
    assert narrow._replace(maps="fp32").complaint() is None
    assert fits.cells()[1:] == ["-", "fp32", "-", "1", "gfx942", "255", "32", "65536", "0", "9", "7", "20.2/logit"]


def test_one_configuration_that_fits_is_enough(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """With `--configs` all are compiled, and a kernel fails of which none fits."""
    spilled, asked = {0}, []

    def compiled(wanted: Any, jobs: int) -> Any:
        for case in wanted:
            asked.append(case)
            used = MAX_SPILLED_BYTES + 1 if case.config in spilled else 0
            name = case.launch.kernel.function.__name__
            yield Compiled(name, "", case.maps, "", 1, case.target, 9, used, 0, 0, 9, [], None, None)

    monkeypatch.setattr(module.triton.knobs.runtime, "interpret", False)
    monkeypatch.setattr(module, "compile_all", compiled)
    monkeypatch.setattr(sys, "argv", ["compile_ahead", "--targets", "sm_90", "--maps", "fp32-tf32x3", "--configs"])
    module.main()
    kernels = (attention.FORWARD, attention.QUERY_GRADIENT, attention.POOLED_GRADIENT, attention.BIAS_GRADIENT)
    assert len(asked) == sum(len(kernel.configs) for kernel in kernels)
    assert capsys.readouterr().out.count(f"{MAX_SPILLED_BYTES} are allowed") == len(kernels)
    spilled |= {1, 2}
    with pytest.raises(SystemExit, match="kernels that take more than their GPU has: query_gradient "):
        module.main()


def test_counted_by_what_a_trip_makes() -> None:
    """Of threads, where a warp of 32 issues an instruction once."""
    used = Usage(0, 0, 1000, 0, (Loop(100, 4, 0), Loop(300, 0, 0), Loop(60, 1, 0)))
    tiles = config(4, BLOCK_Q=64, BLOCK_K=32)
    assert Budget("logit", ("BLOCK_Q", "BLOCK_K"), 30).counted(used, tiles) == 160 * 128 / (64 * 32)
    assert Budget("tap", ("BLOCK_Q",), 30, loop="longest").counted(used, tiles) == 300 * 128 / 64
    assert Budget("tap", ("BLOCK_Q",), 30, times=9, loop="kernel").counted(used, tiles) == 1000 * 128 / (64 * 9)
    bounds = [Budget("logit", ("BLOCK_Q",), 30, resized=(40, 255)).bound(mode) for mode in ("", "resized", "wide")]
    assert bounds == [(30, 168), (40, 255), None]


def test_not_by_the_interpreter() -> None:
    run = compile_ahead(TRITON_INTERPRET="1")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "TRITON_INTERPRET is set: unset it, nothing is compiled with it"
