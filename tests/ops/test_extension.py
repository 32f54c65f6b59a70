"""The compiled module as a file, and what of it is no op."""

import os
import platform
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

import transnext
from tests.helpers.attention_cases import threads
from transnext.ops.register import CPU_KERNELS

needs_kernels = pytest.mark.skipif(CPU_KERNELS is None, reason="the kernels were not built")


@needs_kernels
def test_extension_is_small() -> None:
    """No debug symbols are in it, which Python's own flags ask for."""
    assert CPU_KERNELS is not None
    assert CPU_KERNELS.__file__ is not None
    assert Path(CPU_KERNELS.__file__).stat().st_size <= 1_250_000


def knows(header: str) -> bool:
    """Tells if the compiler has the functions of a kind of instructions, and with them the instructions."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return False
    code = f"#if !__has_include(<{header}>)\n#error none\n#endif\n"
    run = subprocess.run([compiler, "-x", "c++", "-E", "-"], input=code, capture_output=True, text=True, check=False)
    return run.returncode == 0


@needs_kernels
@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="instructions of x86-64")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="nothing reads the instructions back")
def test_bfloat16_instructions_are_in_it() -> None:
    """Those of AVX-512 BF16 and AMX, which few processors that run tests have, with tiles in registers as meant."""
    assert CPU_KERNELS is not None
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(CPU_KERNELS.__file__)], capture_output=True, text=True, check=True
    ).stdout
    if knows("avx512bf16intrin.h"):
        assert listing.count("vdpbf16ps") >= 2 * sum(range(1, 13)), "tiles of 1 to 12 rows of two vectors"
        assert "vcvtneps2bf16" in listing
    if knows("amxbf16intrin.h"):
        for name in ("ldtilecfg", "tilezero", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"):
            assert name in listing
        for registers in ("%tmm6,%tmm4,%tmm0", "%tmm7,%tmm4,%tmm1", "%tmm6,%tmm5,%tmm2", "%tmm7,%tmm5,%tmm3"):
            assert f"tdpbf16ps {registers}" in listing


def test_package_is_small() -> None:
    """What a wheel holds, most of it compressed already, the runtime of a page among it: at most 12 MB as one file."""
    package = Path(transnext.__file__).parent
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    packed = sum(len(zlib.compress(path.read_bytes())) for path in files if path.suffix != ".so")
    assert packed + 1_250_000 / 2 <= 12_000_000


@needs_kernels
@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("whole", [True, False])
def test_digests_do_not_depend_on_threads(whole: bool) -> None:
    assert CPU_KERNELS is not None
    weights = [torch.randn(700, 301), torch.randn(5), torch.randn(1, 50_000)]
    matrices = [(weight.data_ptr(), len(weight), weight.nbytes) for weight in weights]
    with threads(1):
        one = CPU_KERNELS.digest(matrices, whole)
    with threads(3):
        assert CPU_KERNELS.digest(matrices, whole) == one
    weights[2][0, -1] += 1
    assert CPU_KERNELS.digest(matrices, whole) != one
