"""Fixtures that tests of several packages use."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

REPOSITORY = Path(__file__).resolve().parent.parent


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


@pytest.fixture(scope="session")
def shared_golden() -> Path:
    """Folder of the full golden files, which a clean clone does not have."""
    folder = REPOSITORY.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("the full golden files are not beside this repository; tests/golden holds small ones")
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
