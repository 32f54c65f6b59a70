"""The compiled module as a file, and what of it is no op."""

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
    assert Path(CPU_KERNELS.__file__).stat().st_size <= 1_000_000


def test_package_is_small() -> None:
    """What a wheel holds, most of it compressed already: at most 9 MB as one file."""
    package = Path(transnext.__file__).parent
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    packed = sum(len(zlib.compress(path.read_bytes())) for path in files if path.suffix != ".so")
    assert packed + 1_000_000 / 2 <= 9_000_000


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
