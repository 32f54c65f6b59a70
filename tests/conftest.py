"""Fixtures that tests of several packages use."""

import importlib.util
import io
import os
import runpy
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

# Settings of the process come before PyTorch, and what PyTorch knows of GPUs before transnext, which imports Triton: so
# the function is fetched from its file.
PACKAGE = Path(importlib.util.find_spec("transnext").origin).parent
runpy.run_path(str(PACKAGE / "cli" / "process.py"))["let_threads_sleep"]()

# The same decisions on every processor; tests of products of bfloat16 numbers choose what multiplies them.
os.environ["TRANSNEXT_BF16"] = "0"

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its kernels then run on the CPU

from transnext.ops.backend import HAS_TRITON  # noqa: E402
from transnext.ops.bfloat16 import use_bfloat16_products  # noqa: E402
from transnext.ops.register import CPU_KERNELS  # noqa: E402


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Keeps torch to one thread: on tiny tensors several are slower, much so beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=CPU_KERNELS.bfloat16_instruction_sets() if CPU_KERNELS is not None else [])
def bfloat16_products(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each set of products of bfloat16 numbers, in turn: emulations, and those of this processor."""
    use_bfloat16_products(request.param)
    yield request.param
    use_bfloat16_products(None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, metavar="DIR", help="run every .safetensors file in this folder")


@pytest.fixture(scope="session")
def shared_golden(request: pytest.FixtureRequest) -> Path:
    """Folder of the full golden files, which a clean clone does not have."""
    folder = request.config.getoption("--golden")
    if folder is None:
        pytest.skip("--golden does not name the full golden files; tests/golden holds small ones")
    return folder


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Gives every parameter a random value: at their initial ones, zero biases and tiny tables hide mistakes."""

    def _randomise(model: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in model.named_parameters():
                noise = torch.randn(p.shape, generator=generator)
                if p.ndim > 1 and "cpb" not in name and "embedding" not in name:
                    p.copy_(noise / max(1, p[0].numel()) ** 0.5)
                elif name.endswith("temperature"):
                    p.copy_(4 + 0.3 * noise)
                elif "norm" in name and name.endswith("weight"):
                    p.copy_(1 + 0.1 * noise)
                else:
                    p.copy_(0.2 * noise)
        return model

    return _randomise


@pytest.fixture(scope="session")
def png() -> Callable[[int], bytes]:
    """A small PNG file, another one for each number."""

    def _png(number: int) -> bytes:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()

    return _png


@pytest.fixture(scope="session")
def tar() -> Callable[[Mapping[str, bytes]], bytes]:
    """A tar file of members by name."""

    def _tar(members: Mapping[str, bytes]) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as file:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        return stream.getvalue()

    return _tar


@pytest.fixture
def tar_folder(tmp_path, monkeypatch, png, tar) -> Callable[..., Path]:
    """A folder of WebDataset shards with these numbers of images, whose classes are 0, 1, 2, 0, 1, ..."""
    monkeypatch.setenv("TRANSNEXT_CACHE", str(tmp_path / "cache"))

    def _tar_folder(**sizes: Sequence[int]) -> Path:
        folder = tmp_path / "shards"
        folder.mkdir()
        number = 0
        for split, counts in sizes.items():
            for shard, count in enumerate(counts):
                members = {}
                for i in range(count):
                    members |= {f"{i:04}.png": png(number), f"{i:04}.cls": str(number % 3).encode()}
                    number += 1
                (folder / f"{split}-{shard:03}.tar").write_bytes(tar(members))
        return folder

    return _tar_folder


@pytest.fixture(scope="module")
def interpreted_kernels() -> Iterator[None]:
    """The ops run the kernels for GPUs on CPU tensors, below the dispatcher as on a GPU, by Triton's interpreter."""
    if not HAS_TRITON:
        pytest.skip("Triton is not installed")
    from transnext.ops.triton import interpreted, launch

    if not launch.INTERPRETED:
        pytest.skip("on a GPU test_gpu.py runs the same kernels through the ops")
    library = interpreted.put_on_cpu()
    yield
    library._destroy()
