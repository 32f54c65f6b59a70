"""PyTorch's own exporters, called on a model as it is: what they write gives what the network gives."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from transnext import TransNeXt
from transnext.export.onnx_file import quiet
from transnext.ops import aggregated_attention, axis_index, exported, reference
from transnext.ops.tracing import exporting, is_exporting, shared

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.usefixtures("one_thread")


def _check(path: Path, network: nn.Module, *shapes: tuple[int, ...]) -> None:
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    session = onnxruntime.InferenceSession(path)
    for shape in shapes:
        x = torch.randn(shape)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            expected = network(x).numpy()
        assert expected.std() > 0.05
        assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("mode", ["extrapolate", "interpolate", "linear"])
@pytest.mark.parametrize("way", ["dynamo", "legacy", "program"])
@pytest.mark.filterwarnings("ignore")
def test_onnx(way: str, mode: str, network: TransNeXt, tmp_path: Path) -> None:
    """A rectangle with a side whose bins of pooling differ in width."""
    model = copy.deepcopy(network)
    if mode == "linear":
        model.fixed_pool_size = (2, 3)
    else:
        model.bias_mode = mode
    x, path = torch.randn(2, 3, 52, 32), tmp_path / "a.onnx"
    with quiet():
        if way == "program":
            model.backend = "reference"
            with torch.no_grad():
                program = torch.export.export(model, (x,))
            torch.onnx.export(program, (), path, opset_version=20, external_data=False)
        else:
            torch.onnx.export(model, (x,), path, dynamo=way == "dynamo", opset_version=20, external_data=False)
    _check(path, model, (2, 3, 52, 32))


@pytest.mark.filterwarnings("ignore")
def test_onnx_with_a_free_batch(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with quiet():
        torch.onnx.export(
            network,
            (torch.randn(2, 3, 32, 40),),
            path,
            dynamo=True,
            opset_version=20,
            dynamic_shapes=({0: Dim("batch", min=1)},),
            external_data=False,
        )
    _check(path, network, (1, 3, 32, 40), (3, 3, 32, 40))


def test_a_program_of_torch_export(network: nn.Module) -> None:
    x = torch.randn(2, 3, 52, 32)
    with torch.no_grad():
        program = torch.export.export(network, (x,))
        expected = network(x)
        for taken_apart in (program, program.run_decompositions(), program.run_decompositions({})):
            assert (taken_apart.module()(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "pooled", "window"), [((5, 7), (2, 3), 3), ((6, 4), (3, 2), 5), ((1, 3), (1, 1), 3)])
def test_attention_is_the_definition(
    size: tuple[int, int], pooled: tuple[int, int], window: int, dtype: torch.dtype
) -> None:
    g = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    B, M, D, K = 2, 3, 4, window**2
    rows, cols = (axis_index(n, p) for n, p in zip(size, pooled, strict=True))
    maps = [rand(B, *size, M, D) for _ in range(3)] + [rand(B, *pooled, M, D) for _ in range(2)]
    parameters = [rand(M, 1, D), rand(M, 1, 1), rand(M, K), rand(M, D, K), rand(M, 1, K)]
    parameters.append(rand(M, len(rows.offsets), len(cols.offsets)))
    found = exported.aggregated_attention(*maps, *parameters, rows, cols)
    expected = reference.aggregated_attention(*maps, *parameters, rows, cols)
    assert found.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    with exporting():
        again = aggregated_attention(*maps, *parameters, rows, cols)
    assert torch.equal(again, found)


def test_shared_is_built_once_within_exporting_alone() -> None:
    built: list[int] = []

    def build() -> int:
        built.append(len(built))
        return built[-1]

    assert [shared(("a", 1), build), shared(("a", 1), build)] == [0, 1]
    assert not is_exporting()
    with exporting():
        assert is_exporting()
        assert [shared(("a", 1), build), shared(("a", 1), build), shared(("a", 2), build)] == [2, 2, 3]
    assert shared(("a", 1), build) == 4
    assert not is_exporting()


def test_the_kernels_by_name_are_refused(network: TransNeXt) -> None:
    model = copy.deepcopy(network)
    model.backend = "fused"
    with exporting(), torch.no_grad(), pytest.raises(ValueError, match='"fused", but a graph for other runtimes'):
        model(torch.randn(1, 3, 32, 32))
