"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, in a program of their own: `sanitize/main.cpp`."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

HERE = Path(__file__).parent / "sanitize"
KERNELS = Path(__file__).parents[2] / "src" / "transnext" / "ops" / "cpu"
COMPILER = os.environ.get("CXX", "c++").split()[0]

# Without optimisation, which would make the build three times as long and change no access to memory.
FLAGS = ["-std=c++17", "-O0", "-g1", "-Wall", "-Wno-psabi", "-DTRANSNEXT_POISON_SCRATCH"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def run(*command: str | Path) -> str:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # leaks cannot be looked for in every container
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"
    return result.stdout


needs_compiler = pytest.mark.skipif(
    shutil.which(COMPILER) is None or sys.platform == "win32", reason=f"no C++ compiler ({COMPILER})"
)


@needs_compiler
def test_headers_can_be_read_alone() -> None:
    """Each includes what it uses, in any order."""
    headers = sorted(set(KERNELS.glob("*.h")) - {KERNELS / "isa_body.h", KERNELS / "bf16_body.h"})
    assert len(headers) > 10
    quiet = ["-Wno-unused-function", "-Wno-pragma-once-outside-header"]
    run(
        COMPILER,
        *FLAGS[:1],
        *quiet,
        "-fsyntax-only",
        *(f"-isystem{path}" for path in include_paths()),
        "-x",
        "c++",
        *headers,
    )


@pytest.mark.slow
@needs_compiler
def test_kernels_under_sanitizers(tmp_path: Path) -> None:
    """Every set of kernels, on many odd sizes, in memory of just their size; scratch memory begins as NaN."""
    sources = [
        KERNELS / "axis.cpp",
        KERNELS / "dispatch.cpp",
        *sorted(KERNELS.glob("isa_*.cpp")),
        *sorted(KERNELS.glob("bf16_*.cpp")),
        *sorted(HERE.glob("*.cpp")),
    ]
    includes = [f"-I{KERNELS}", *(f"-isystem{path}" for path in include_paths())]
    objects = [tmp_path / f"{source.stem}.o" for source in sources]

    def compile_one(source: Path, to: Path) -> None:
        run(COMPILER, *FLAGS, *SANITIZERS, *includes, "-c", source, "-o", to)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    program = tmp_path / "driver"
    run(COMPILER, *SANITIZERS, *objects, "-pthread", "-o", program)
    said = run(program)
    assert said.startswith("checked, ")
    assert "16 lanes" in said
