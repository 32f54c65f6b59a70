"""Scripts of `benchmarks/` as modules, each a fixture."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def loaded(name: str) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def gpu_ops() -> Iterator[ModuleType]:
    yield from loaded("gpu_ops")


@pytest.fixture(scope="module")
def released_style() -> Iterator[ModuleType]:
    yield from loaded("released_style")
