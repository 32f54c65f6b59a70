"""Golden files of detectors for tests that name their kind; a small set, and a detector that was trained on it."""

from pathlib import Path

import pytest

from tests.helpers.detection_golden import KINDS, detection_files
from tests.helpers.rectangles import rectangle_config, rectangle_set
from transnext.config import TrainConfig
from transnext.engine import TrainResult, train


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test on every golden file of its kind."""
    for fixture in KINDS.keys() & set(metafunc.fixturenames):
        files = detection_files(metafunc.config.getoption("--golden"), *KINDS[fixture])
        metafunc.parametrize(fixture, files, ids=[file.stem for file in files])


@pytest.fixture(scope="session")
def rectangles(tmp_path_factory) -> Path:
    return rectangle_set(tmp_path_factory.mktemp("rectangles"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory, rectangles) -> tuple[TrainConfig, TrainResult]:
    """A Mask R-CNN that knows the rectangles."""
    output = tmp_path_factory.mktemp("trained") / "run"
    options = {"model": "transnext_pico.emoji", "pretrained": True, "augment": "none", "hflip": 0.0, "ema": 0.5}
    config = rectangle_config(rectangles, output, epochs=30, batch_size=2, lr=2e-3, **options)
    return config, train(config, quiet=True)
