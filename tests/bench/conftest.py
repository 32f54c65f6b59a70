"""Scripts of `benchmarks/` as modules, each a fixture."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture(scope="module")
def gpu_ops() -> ModuleType:
    return importlib.import_module("gpu_ops")


@pytest.fixture(scope="module")
def released_style() -> ModuleType:
    return importlib.import_module("released_style")
