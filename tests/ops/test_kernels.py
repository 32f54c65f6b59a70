"""The compiled kernels of attention and gate, values and gradients, against the reference in float64.

The error budget is that of the design: at most twice the error of the plain PyTorch path in the same dtype.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.attention_cases import (
    MAPS,
    TENSORS,
    Inputs,
    Results,
    attention_inputs,
    attention_results,
    cast,
    gate_inputs,
    gate_results,
    threads,
)
from tests.helpers.error_budget import check_budget, norm
from transnext.ops import aggregated_attention, depthwise_conv_gelu_gate

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned_memory", "instruction_set")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_attention(dtype: torch.dtype, *sizes: int, num_threads: int = 1, seed: int = 0, **options: Any) -> None:
    rounded = [cast(attention_inputs(*sizes, **options, seed=seed + n), dtype) for n in range(3)]
    exact, *others = (attention_results(cast(inputs, torch.float64), "reference") for inputs in rounded)
    plain = attention_results(rounded[0], "reference")
    with threads(num_threads):
        found = attention_results(rounded[0], "fused")
    if rounded[0]["q"].shape[-1] == 1:
        # A single channel is normalised to 1 or -1, whatever its length: nothing to be learned from it.
        for name in ("q", "k", "k_pool"):
            assert (found[name] * rounded[0][name]).abs().max() < 1e-4
            for results in (found, plain, exact, *others):
                del results[name]
    check_budget(found, plain, exact, others)


def trained_axis() -> st.SearchStrategy[tuple[int, int] | None]:
    return st.none() | st.tuples(st.integers(1, 9), st.integers(1, 4))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 7)) | st.tuples(st.integers(1, 4), st.integers(1, 40)),
    pool=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    B=st.integers(1, 2),
    M=st.integers(1, 3),
    D=st.integers(1, 26) | st.sampled_from([32, 48, 80]),
    window=st.sampled_from([1, 3, 3, 5, 7]),
    trained_rows=trained_axis(),
    trained_cols=trained_axis(),
    dtype=st.sampled_from(DTYPES),
    num_threads=st.integers(1, 2),
    seed=st.integers(0, 10**6),
)
def test_attention_of_any_shape(
    size: tuple[int, int],
    pool: tuple[int, int],
    B: int,
    M: int,
    D: int,
    window: int,
    trained_rows: tuple[int, int] | None,
    trained_cols: tuple[int, int] | None,
    dtype: torch.dtype,
    num_threads: int,
    seed: int,
) -> None:
    check_attention(
        dtype,
        *size,
        *pool,
        B=B,
        M=M,
        D=D,
        window=window,
        seed=seed,
        trained_rows=trained_rows,
        trained_cols=trained_cols,
        num_threads=num_threads,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((1, 1, 1, 1), {"M": 1, "D": 1}),
        ((1, 1, 1, 1), {"D": 24, "window": 7}),
        ((6, 1, 3, 1), {"D": 80}),
        ((1, 33, 1, 2), {"D": 8}),
        ((2, 3, 1, 1), {"window": 5}),  # windows larger than the map
        ((3, 2, 2, 2), {"window": 7}),
        ((2, 2, 3, 3), {}),  # more bins than pixels
        ((5, 4, 5, 4), {"D": 24, "M": 3}),  # a key for every pixel
        ((8, 32, 2, 4), {"D": 16}),  # whole vectors, even bins
        ((7, 31, 3, 4), {"D": 24}),  # uneven bins on both axes
        ((9, 17, 3, 4), {"D": 6, "trained_rows": (6, 2)}),  # a table resized on one axis, whose other one is uneven
        ((9, 17, 3, 4), {"D": 6, "trained_cols": (8, 2)}),
        ((9, 17, 3, 4), {"D": 6, "trained_rows": (7, 7), "trained_cols": (7, 3)}),
    ],
)
def test_attention(dtype: torch.dtype, sizes: tuple[int, ...], options: dict[str, int]) -> None:
    check_attention(dtype, *sizes, **options)


@pytest.mark.parametrize(("window", "H"), [(1, 9), (3, 8), (3, 50), (5, 33), (7, 40)])
def test_few_images_are_cut_into_strips(window: int, H: int) -> None:
    """One image and head for two threads: its rows are shared, and keys at the seams hear from both sides."""
    check_attention(torch.float32, H, 5, 2, 2, M=1, D=6, window=window, num_threads=2)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_same_from_run_to_run(num_threads: int) -> None:
    inputs = cast(attention_inputs(24, 18, 3, 2, B=1, M=3, D=8), torch.float32)
    x, weight, bias = (t.float() for t in gate_inputs(2, 12, 9, 20))
    with threads(num_threads):
        first, first_gate = attention_results(inputs, "fused"), gate_results(x, weight, bias, "fused")
        for _ in range(20):
            assert_same(attention_results(inputs, "fused"), first)
            assert_same(gate_results(x, weight, bias, "fused"), first_gate)


def assert_same(found: Results, expected: Results) -> None:
    for name, t in expected.items():
        same = torch.equal(found[name], t)
        assert same, name


def test_nothing_is_left_from_earlier_calls() -> None:
    """Threads keep their working memory from call to call; what was NaN there must not come back."""
    clean = cast(attention_inputs(6, 5, 2, 5, D=4, trained_rows=(5, 3)), torch.float32)
    expected = attention_results(clean, "fused")
    for D in (1, 3, 8, 20):
        poison = cast(attention_inputs(6, 40, 2, 5, D=D), torch.float32)
        poison["q"] = torch.full_like(poison["q"], math.nan)
        attention_results(poison, "fused")
        assert_same(attention_results(clean, "fused"), expected)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_attention(name: str, value: float) -> None:
    inputs = cast(attention_inputs(7, 6, 2, 3, D=4, B=2), torch.float32)
    inputs[name].view(-1)[inputs[name].numel() // 2] = value
    found, expected = attention_results(inputs, "fused"), attention_results(inputs, "reference")
    alike = ("out", *MAPS) if name in MAPS else ("out",)
    for key in alike:
        assert_not_finite_alike(found[key], expected[key])
    # Gradients that are sums over queries, or made by a broken parameter: nothing may get lost, but more may be hit.
    for key in expected.keys() - set(alike):
        assert not found[key][~expected[key].isfinite()].isfinite().any(), key


def assert_not_finite_alike(found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_queries_and_keys(dtype: torch.dtype) -> None:
    inputs = cast(attention_inputs(4, 3, 2, 1), dtype)
    for name in ("q", "k", "k_pool"):
        inputs[name] = torch.zeros_like(inputs[name])
    out = aggregated_attention(**inputs, backend="fused")
    torch.testing.assert_close(out, aggregated_attention(**inputs, backend="reference"))


def test_large_logits_do_not_overflow() -> None:
    inputs = cast(attention_inputs(4, 3, 2, 1), torch.float32)
    inputs["temperature"] = torch.full_like(inputs["temperature"], 500.0)
    assert all(t.isfinite().all() for t in attention_results(inputs, "fused").values())


def strided_inputs(dtype: torch.dtype) -> tuple[Inputs, Inputs]:
    """The same values, contiguous and not."""
    dense = cast(attention_inputs(6, 5, 3, 2, B=2, D=7), dtype)
    strided = dict(dense)
    strided["k"], strided["v"] = torch.stack((dense["k"], dense["v"]), dim=3).unbind(3)  # as a joint Linear leaves them
    strided["q"] = dense["q"].permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)  # channels first
    for name in ("k_pool", "v_pool"):
        strided[name] = dense[name].transpose(1, 2).contiguous().transpose(1, 2)
    strided["bias_table"] = dense["bias_table"].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    strided["learnable_tokens"] = dense["learnable_tokens"].repeat(1, 1, 2)[..., :9]
    strided["temperature"] = dense["temperature"].repeat(1, 1, 2)[..., :1]
    return dense, strided


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    dense, strided = strided_inputs(dtype)
    assert not any(strided[name].is_contiguous() for name in ("q", "k", "v", "k_pool", "v_pool", "bias_table"))
    assert_same(attention_results(strided, "fused"), attention_results(dense, "fused"))

    x, weight, bias = (t.to(dtype) for t in gate_inputs(2, 6, 5, 4))
    expected = gate_results(x, weight, bias, "fused")
    weight = weight.repeat(1, 1, 1, 2)[..., :3]
    for other in (x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), torch.cat((x, x), -1)[..., :8]):
        assert not other.is_contiguous()
        assert_same(gate_results(other, weight, bias, "fused"), expected)


def test_strides_of_the_incoming_gradient_do_not_matter() -> None:
    inputs = cast(attention_inputs(6, 5, 3, 2, B=2, D=7), torch.float32)
    x, weight, bias = (t.float() for t in gate_inputs(2, 6, 5, 4))
    for of in (inputs["q"], x[..., :4]):
        dense = torch.randn(of.shape)
        first = dense.movedim(-1, 1).contiguous().movedim(1, -1)
        one = torch.ones(()).expand(of.shape)  # as a sum's
        for grad in (first, one):
            if of is inputs["q"]:
                found = attention_results(inputs, "fused", grad)
                assert_same(found, attention_results(inputs, "fused", grad.contiguous()))
            else:
                found = gate_results(x, weight, bias, "fused", grad)
                assert_same(found, gate_results(x, weight, bias, "fused", grad.contiguous()))


def test_expanded_maps() -> None:
    """A batch that is one image several times over has stride 0."""
    inputs = cast(attention_inputs(6, 5, 3, 2, D=7), torch.float32)
    several = {name: t.expand(3, *t.shape[1:]) if name in MAPS else t for name, t in inputs.items()}
    found = aggregated_attention(**several, backend="fused")
    assert torch.equal(found, aggregated_attention(**inputs, backend="fused").expand(3, -1, -1, -1, -1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_maps_with_float32_parameters(dtype: torch.dtype) -> None:
    """As under autocast. Every gradient has the dtype of what it belongs to."""
    inputs = cast(attention_inputs(5, 9, 2, 2, D=8), torch.float32)
    inputs |= {name: inputs[name].to(dtype) for name in MAPS}
    found, plain = attention_results(inputs, "fused"), attention_results(inputs, "reference")
    check_budget(found, plain, attention_results(cast(inputs, torch.float64), "reference"), [])

    x, weight, bias = (t.float() for t in gate_inputs(2, 6, 5, 4))
    results = [gate_results(x.to(dtype), weight, bias, backend) for backend in ("fused", "reference")]
    check_budget(*results, gate_results(x.to(dtype).double(), weight.double(), bias.double(), "reference"), [])


def test_autocast_does_not_reach_inside() -> None:
    inputs = cast(attention_inputs(6, 5, 2, 2, D=8), torch.float32)
    plain = attention_results(inputs, "fused")
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(attention_results(inputs, "fused"), plain)


def test_empty_batch() -> None:
    results = attention_results(cast(attention_inputs(3, 4, 1, 2, B=0), torch.float32), "fused")
    assert results["out"].shape == (0, 3, 4, 2, 3)
    for name in MAPS:
        assert results[name].numel() == 0
    for name in TENSORS[len(MAPS) :]:
        assert (results[name] == 0).all()
    x, weight, bias = (t.float() for t in gate_inputs(0, 3, 4, 2))
    gate = gate_results(x, weight, bias, "fused")
    assert gate["out"].shape == (0, 3, 4, 2)
    assert (gate["weight"] == 0).all()
    assert (gate["bias"] == 0).all()


def test_inputs_are_left_alone() -> None:
    inputs = cast(attention_inputs(4, 4, 2, 2), torch.float32)
    before = {k: t.clone() for k, t in inputs.items() if isinstance(t, Tensor)}
    attention_results(inputs, "fused")
    assert all(torch.equal(inputs[k], t) for k, t in before.items())


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 9)),
    B=st.integers(1, 3),
    F=st.integers(1, 40),
    with_bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    num_threads=st.integers(1, 2),
)
def test_gate_of_any_shape(
    size: tuple[int, int], B: int, F: int, with_bias: bool, dtype: torch.dtype, num_threads: int
) -> None:
    rounded = [None if t is None else t.to(dtype) for t in (*gate_inputs(B, *size, F)[: 2 + with_bias], None)][:3]
    exact = gate_results(*(None if t is None else t.double() for t in rounded), "reference")
    plain = gate_results(*rounded, "reference")
    with threads(num_threads):
        found = gate_results(*rounded, "fused")
    check_budget(found, plain, exact, [])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "H", "W", "F"), [(1, 1, 1, 1), (2, 1, 1, 16), (1, 30, 1, 33), (1, 2, 40, 7)])
def test_gate(dtype: torch.dtype, B: int, H: int, W: int, F: int) -> None:
    x, weight, bias = (t.to(dtype) for t in gate_inputs(B, H, W, F))
    exact = gate_results(x.double(), weight.double(), bias.double(), "reference")
    plain = gate_results(x, weight, bias, "reference")
    with threads(2):
        found = gate_results(x, weight, bias, "fused")
    check_budget(found, plain, exact, [])


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_gate(name: str, value: float) -> None:
    arguments = dict(zip(("x", "weight", "bias"), (t.float() for t in gate_inputs(2, 5, 6, 9)), strict=True))
    for element in (0, arguments[name].numel() // 2, arguments[name].numel() - 1):
        broken = {key: t.clone() for key, t in arguments.items()}
        broken[name].view(-1)[element] = value
        found, expected = (gate_results(**broken, backend=backend) for backend in ("fused", "reference"))
        for key in expected:
            assert_not_finite_alike(found[key], expected[key])


def test_gelu_of_every_size() -> None:
    """A kernel that is 1 at its centre and a gate of 1: the function itself, far into both tails."""
    tails = torch.logspace(-30, 3, 300)
    a = torch.cat((torch.linspace(-12, 12, 4001), tails, -tails))
    x = torch.stack((a, torch.ones_like(a)), -1)[None, None]
    exact = torch.nn.functional.gelu(a.double())
    centre = torch.zeros(1, 1, 3, 3)
    centre[..., 1, 1] = 1
    found = depthwise_conv_gelu_gate(x, centre, None, backend="fused")[0, 0, :, 0]
    check_budget({"out": found}, {"out": torch.nn.functional.gelu(a)}, {"out": exact}, [])
    # Below -2 the function is a difference of numbers near 1/2, in PyTorch's GELU too.
    torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=1.5e-6)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_second_derivatives(backend: str) -> None:
    """Those of the whole graph, also with respect to what only the gradient depends on."""
    inputs = cast(attention_inputs(3, 4, 2, 2, D=4, trained_rows=(4, 2)), torch.float32)
    gate = dict(zip(("x", "weight", "bias"), (t.float() for t in gate_inputs(1, 3, 4, 2)), strict=True))

    def second(op: Callable[..., Tensor], arguments: Inputs, backend: str) -> list[Tensor]:
        leaves = {n: t.clone().requires_grad_() for n, t in arguments.items() if isinstance(t, Tensor)}
        out = op(**{**arguments, **leaves}, backend=backend)
        first = torch.autograd.grad(out.square().sum(), list(leaves.values()), create_graph=True)
        return list(torch.autograd.grad(sum(g.sin().sum() for g in first), list(leaves.values())))

    for op, arguments in ((aggregated_attention, inputs), (depthwise_conv_gelu_gate, gate)):
        exact = second(op, cast(arguments, torch.float64), "reference")
        for found, expected in zip(second(op, arguments, backend), exact, strict=True):
            assert norm(found - expected) <= 1e-4 * norm(expected)
