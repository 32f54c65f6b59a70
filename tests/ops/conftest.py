"""Fixtures for the compiled kernels."""

from collections.abc import Iterator

import pytest
import torch

from transnext.ops.backend import HAS_TRITON
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


@pytest.fixture(scope="module")
def interpreted_kernels() -> Iterator[None]:
    """The ops run the kernels for GPUs on CPU tensors, below the dispatcher as on a GPU, by Triton's interpreter."""
    if not HAS_TRITON:
        pytest.skip("Triton is not installed")
    from transnext.ops.triton import attention, gate, launch

    if not launch.INTERPRETED:
        pytest.skip("on a GPU test_gpu.py runs the same kernels through the ops")
    library = torch.library.Library("transnext", "IMPL")
    for name, module in (("aggregated_attention", attention), ("depthwise_conv_gelu_gate", gate)):
        library.impl(name, module.forward, "CPU", allow_override=True)
        library.impl(f"{name}_backward", module.backward, "CPU", allow_override=True)
    library.impl("aggregated_attention_training", attention.forward_training, "CPU")
    library.impl("aggregated_attention_training_backward", attention.backward_training, "CPU")
    yield
    library._destroy()
