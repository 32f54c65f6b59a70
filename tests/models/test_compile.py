"""torch.compile and torch.export: one graph, which calls the fused ops and answers as eager mode does."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from transnext import TransNeXt
from transnext.ops import Backend, backend
from transnext.ops.register import CPU_KERNELS

pytestmark = pytest.mark.usefixtures("one_thread")

Make = Callable[..., TransNeXt]
FUSED_OPS = {
    "transnext.aggregated_attention.default": 4,
    "transnext.depthwise_conv_gelu_gate.default": 5,
    "transnext.global_attention.default": 1,
}
"""How often a graph of the tiny network calls each."""
SIZES = (
    (64, 64),
    (96, 128),
    (64, 96),
    (100, 130),
    (96, 96),
    (160, 64),
    (97, 65),
    (128, 224),
    (113, 113),
    (192, 160),
)
"""Squares and rectangles, multiples of 32 and not: bins of pooling that are even and not."""
RECTANGLE_FIRST = (*SIZES[1:], SIZES[0])
MODES: dict[str, dict[str, Any]] = {
    "extrapolate": {},
    "interpolate": {"bias_mode": "interpolate"},
    "linear": {"fixed_pool_size": (2, 3)},
}
A_STAGE_OF_EACH_KIND: dict[str, Any] = {
    "embed_dims": (12, 16),
    "num_heads": (1, 2),
    "mlp_ratios": (3, 2),
    "depths": (1, 1),
    "sr_ratios": (4, 1),
}

needs_kernels = pytest.mark.skipif(CPU_KERNELS is None, reason="the kernels were not built")


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch._dynamo.reset()


def image(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def fused_ops(graph: torch.fx.GraphModule) -> dict[str, int]:
    """How often each op of this package occurs."""
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return {name: names.count(name) for name in names if name.startswith("transnext.")}


def assert_step_equals_eager(model: TransNeXt, compiled: Any, x: Tensor) -> None:
    eager = copy.deepcopy(model)
    loss, expected = compiled(x).square().mean(), eager(x).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    loss.backward()
    expected.backward()
    for (name, p), q in zip(model.named_parameters(), eager.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-3 * q.grad.norm() + 1e-4, name


@pytest.mark.parametrize("training", [False, True])
def test_one_graph(training: bool, tiny_model: Make) -> None:
    model, x = tiny_model().train(training), image(48, 64)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    if training:
        assert_step_equals_eager(model, compiled, x)
    else:
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


def test_one_graph_without_kernels(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "CPU_KERNELS", None)
    model, x = tiny_model(), image(48, 64)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


def test_each_size_is_compiled_once(tiny_model: Make) -> None:
    """With fixed sizes, which is the usual way to run."""
    model, counter = tiny_model(depths=(1, 1, 1, 1)), CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    with torch.no_grad():
        for _ in range(2):
            for size in ((48, 64), (64, 48), (33, 47)):
                torch.testing.assert_close(compiled(image(*size)), model(image(*size)), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 3


def test_weights_changed_after_compiling(tiny_model: Make) -> None:
    model, x = tiny_model(), image(48, 64)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        before = compiled(x)
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
        after = compiled(x)
        torch.testing.assert_close(after, model(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before, rtol=1e-3, atol=1e-3)


def check_sizes(model: TransNeXt, sizes: Sequence[tuple[int, int]], graphs: int) -> CompileCounterWithBackend:
    """Compiles a network for any size and holds its answers to those of eager mode."""
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in sizes:
            torch.testing.assert_close(compiled(image(*size)), model(image(*size)), rtol=1e-4, atol=1e-4)
    assert counter.frame_count <= graphs
    return counter


def test_ten_sizes_take_two_graphs(tiny_model: Make) -> None:
    """One for squares, which comes of the first size being one, and one for all."""
    check_ops(check_sizes(tiny_model(**A_STAGE_OF_EACH_KIND), SIZES, graphs=2), "auto")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("implementation", "options"),
    [
        ("auto", {"depths": (1, 1, 1, 1)}),
        ("auto", {**A_STAGE_OF_EACH_KIND, **MODES["interpolate"]}),
        ("auto", {**A_STAGE_OF_EACH_KIND, **MODES["linear"]}),
        ("reference", A_STAGE_OF_EACH_KIND),
    ],
)
def test_ten_sizes_take_one_graph_after_a_rectangle(
    implementation: Backend, options: dict[str, Any], tiny_model: Make
) -> None:
    model = tiny_model(**options)
    model.backend = implementation
    check_ops(check_sizes(model, RECTANGLE_FIRST, graphs=1), implementation)


def check_ops(counter: CompileCounterWithBackend, implementation: Backend) -> None:
    """Which ops of this package the last graph calls."""
    ops = {name.split(".")[1] for name in fused_ops(counter.graphs[-1])}
    fused = {"aggregated_attention", "depthwise_conv_gelu_gate", "global_attention", "position_bias_table"}
    assert ops == (fused if implementation == "auto" and CPU_KERNELS is not None else set())


@pytest.mark.slow
def test_ten_sizes_take_one_graph_in_training(tiny_model: Make) -> None:
    model = tiny_model(**A_STAGE_OF_EACH_KIND).train()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in RECTANGLE_FIRST:
        model.zero_grad()
        assert_step_equals_eager(model, compiled, image(*size))
    assert torch._dynamo.utils.counters["frames"]["ok"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_inductor(training: bool, tiny_model: Make) -> None:
    # A stage of each kind: compiling takes most of a minute for each block.
    model, x = tiny_model(**A_STAGE_OF_EACH_KIND).train(training), image(48, 64)
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    if training:
        assert_step_equals_eager(model, compiled, x)
    else:
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@needs_kernels
@pytest.mark.parametrize("grad", [False, True])
def test_export_holds_the_fused_ops(grad: bool, tiny_model: Make) -> None:
    model, x = tiny_model(), image(48, 64)
    with torch.set_grad_enabled(grad):
        program = torch.export.export(model, (x,))
    assert fused_ops(program.graph_module) == FUSED_OPS
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)


def test_export_for_other_runtimes(tiny_model: Make) -> None:
    """With backend="reference" a program consists of PyTorch's own operators."""
    model, x = tiny_model(), image(48, 64)
    model.backend = "reference"
    program = torch.export.export(model, (x,))
    assert fused_ops(program.graph_module) == {}
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "mode", ["extrapolate", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("interpolate", "linear"))]
)
def test_export_for_any_size(mode: str, tiny_model: Make) -> None:
    """Batch, height and width are free, and not only in multiples of the patch."""
    model = tiny_model(**A_STAGE_OF_EACH_KIND, **MODES[mode])
    model.backend = "reference"
    any_number = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(
            model, (image(96, 128),), dynamic_shapes=({0: any_number, 2: any_number, 3: any_number},)
        )
    assert fused_ops(program.graph_module) == {}
    run = program.module()
    with torch.no_grad():
        for batch, *size in ((1, 64, 64), (3, 96, 160), (2, 100, 130), (5, 224, 96), (1, 113, 113)):
            x = torch.randn(batch, 3, *size)
            torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-4)
