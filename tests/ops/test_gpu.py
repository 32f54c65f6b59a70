"""The ops on a GPU, through the dispatcher: values, gradients, memory, torch.compile. For whoever has one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.helpers.attention_cases import (
    MAPS,
    Inputs,
    Results,
    attention_inputs,
    attention_results,
    cast,
    gate_inputs,
    gate_results,
)
from tests.helpers.error_budget import check_budget
from transnext import TransNeXt
from transnext.ops import aggregated_attention, depthwise_conv_gelu_gate
from transnext.ops.backend import why_not_fused

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch can use"),
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _ieee_products_and_no_tuning(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRANSNEXT_TUNE", "0")  # minutes; benchmarks/gpu_check.py tries every configuration
    with products("ieee"):
        yield


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Products of float32 as PyTorch is asked for them. `monkeypatch` cannot set what is no attribute of its own."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def on_gpu(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    def moved(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to("cuda", dtype)
        return value._replace(
            **{name: None if t is None else t.cuda() for name, t in zip(value._fields[:3], value[:3], strict=True)}
        )

    return {name: moved(value) for name, value in inputs.items()}


def on_cpu(results: Results) -> Results:
    return {name: t.cpu() for name, t in results.items()}


SIZES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1, 1), {"D": 24}),
    ((2, 3, 3, 2), {"window": 5}),
    ((56, 56, 7, 7), {"D": 24, "B": 3}),
    ((47, 33, 5, 4), {"D": 20, "B": 2}),
    ((14, 14, 14, 14), {"D": 64, "M": 4}),
    ((100, 152, 25, 38), {"D": 24}),
    ((21, 30, 5, 7), {"D": 24, "trained_rows": (14, 7), "trained_cols": (14, 7)}),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "options"), SIZES)
def test_attention(sizes: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype) -> None:
    inputs, *others = (on_gpu(attention_inputs(*sizes, **options, seed=seed), dtype) for seed in range(3))
    assert why_not_fused([inputs[name] for name in MAPS]) is None
    exact, *usual = (on_cpu(attention_results(cast(i, torch.float64), "reference")) for i in (inputs, *others))
    plain, found = (on_cpu(attention_results(inputs, backend)) for backend in ("reference", "fused"))
    check_budget(found, plain, exact, usual)
    again = on_cpu(attention_results(inputs, "fused"))
    for name in found if not options.get("trained_rows") else found.keys() - {"bias_table"}:
        assert torch.equal(found[name], again[name]), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "H", "W", "F"), [(1, 1, 1, 1), (3, 47, 33, 130), (1, 9, 11, 3)])
def test_gate(B: int, H: int, W: int, F: int, dtype: torch.dtype) -> None:
    x, weight, bias = (t.to("cuda", dtype) for t in gate_inputs(B, H, W, F))
    exact = gate_results(x.double(), weight.double(), bias.double(), "reference")
    plain, found = (gate_results(x, weight, bias, backend) for backend in ("reference", "fused"))
    check_budget(on_cpu(found), on_cpu(plain), on_cpu(exact), [])


def test_tf32_where_pytorch_allows_it() -> None:
    inputs = on_gpu(attention_inputs(28, 28, 7, 7, D=24), torch.float32)
    exact = aggregated_attention(**inputs, backend="fused")
    with products("tf32"):
        torch.testing.assert_close(aggregated_attention(**inputs, backend="fused"), exact, rtol=0, atol=2e-2)
    with products("none"):  # three products, whose error is that of float32
        torch.testing.assert_close(aggregated_attention(**inputs, backend="fused"), exact)


def test_memory_of_attention() -> None:
    """Nothing of size queries x keys: at 800x1216 that would be 231 MB for each image, layer and head."""
    inputs = on_gpu(attention_inputs(200, 304, 25, 38, D=24, B=2), torch.bfloat16)
    leaves = {k: v.detach().requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    aggregated_attention(**leaves, backend="fused").sum().backward()  # tuning takes memory of its own
    for leaf in leaves.values():
        if isinstance(leaf, torch.Tensor):
            leaf.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    aggregated_attention(**leaves, backend="fused").sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 231e6


@pytest.mark.parametrize("training", [False, True])
def test_network(training: bool) -> None:
    """The whole network in float32, eager and compiled, against the reference path."""
    torch.manual_seed(0)
    model = TransNeXt(embed_dims=(24, 48), num_heads=(1, 2), depths=(2, 1), mlp_ratios=(4, 4), sr_ratios=(4, 1))
    model = model.cuda().train(training)
    x = torch.randn(2, 3, 96, 64, device="cuda")
    outputs = {}
    for name, backend in (("reference", "reference"), ("fused", "fused"), ("compiled", "fused")):
        model.backend = backend
        call = torch.compile(model, fullgraph=True) if name == "compiled" else model
        model.zero_grad()
        out = call(x)
        if training:
            out.square().mean().backward()
        outputs[name] = [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    for name in ("fused", "compiled"):
        for found, expected in zip(outputs[name], outputs["reference"], strict=True):
            assert (found - expected).norm() <= 1e-3 * expected.norm() + 1e-5, name


def test_gate_in_a_graph() -> None:
    x, weight, bias = (t.to("cuda", torch.float32) for t in gate_inputs(1, 8, 8, 8))
    compiled = torch.compile(depthwise_conv_gelu_gate, fullgraph=True)
    torch.testing.assert_close(compiled(x, weight, bias), depthwise_conv_gelu_gate(x, weight, bias))
