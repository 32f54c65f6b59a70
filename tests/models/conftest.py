"""A small network for tests of what any variant does."""

from collections.abc import Callable

import pytest
from torch import nn

from tests.helpers.golden_files import KINDS, golden_files
from transnext import TransNeXt


@pytest.fixture
def tiny_model(randomise: Callable[[nn.Module], nn.Module]) -> Callable[..., TransNeXt]:
    """Makes a network of 50,000 parameters with random weights, in eval mode."""

    def make(**kwargs: object) -> TransNeXt:
        args = {
            "img_size": 64,
            "num_classes": 5,
            "embed_dims": (12, 16, 24, 32),
            "num_heads": (1, 2, 2, 4),
            "mlp_ratios": (3, 3, 2, 2),
            "depths": (1, 1, 2, 1),
        }
        return randomise(TransNeXt(**{**args, **kwargs})).eval()

    return make


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test on every golden file of its kind."""
    for kind in KINDS.keys() & set(metafunc.fixturenames):
        files = golden_files(metafunc.config.getoption("--golden"), kind)
        metafunc.parametrize(kind, files, ids=[file.stem for file in files])
