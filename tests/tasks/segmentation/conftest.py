"""Golden files of segmenters for tests that name their kind."""

import pytest

from tests.helpers.segmentation_golden import KINDS, segmentation_files


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test on every golden file of its kind."""
    for fixture in KINDS.keys() & set(metafunc.fixturenames):
        files = segmentation_files(metafunc.config.getoption("--golden"), *KINDS[fixture])
        metafunc.parametrize(fixture, files, ids=[file.stem for file in files])
