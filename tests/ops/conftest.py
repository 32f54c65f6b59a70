"""Fixtures for the compiled kernels."""

from collections.abc import Iterator

import pytest
import torch

from transnext.ops.register import CPU_KERNELS


@pytest.fixture(scope="module", params=CPU_KERNELS.instruction_sets() if CPU_KERNELS is not None else [])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each set of kernels that this processor can run, in turn."""
    assert CPU_KERNELS is not None
    fastest = CPU_KERNELS.instruction_set()
    CPU_KERNELS.use_instruction_set(request.param)
    yield request.param
    CPU_KERNELS.use_instruction_set(fastest)


@pytest.fixture(scope="module")
def poisoned_memory() -> Iterator[None]:
    """New tensors begin as NaN, those that C++ makes too: what a kernel leaves unwritten shows."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill
