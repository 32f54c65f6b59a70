"""The compiled kernels of global attention, values and gradients, against the reference in float64.

The error budget is that of the design: at most twice the error of the plain PyTorch path in the same dtype.
"""

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.attention_cases import GLOBAL_TENSORS, Results, cast, global_inputs, global_results, threads
from tests.helpers.error_budget import check_budget, norm
from transnext.ops import axis_index, global_attention, reference

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned_memory", "instruction_set")

MAPS = GLOBAL_TENSORS[:3]


def check(*size: int, num_threads: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> None:
    rounded = [cast(global_inputs(*size, **options, seed=seed + n), dtype) for n in range(3)]
    grad = torch.randn(rounded[0]["q"].shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    exact, *others = (global_results(cast(inputs, torch.float64), "reference", grad) for inputs in rounded)
    plain = cast(global_results(cast(rounded[0], torch.float32), "reference", grad), dtype)  # 16 bits are rounded once
    with threads(num_threads):
        found = global_results(rounded[0], "fused", grad)
    if rounded[0]["q"].shape[-1] == 1:
        # A single channel is normalised to 1 or -1, whatever its length: all gradients but these are what is left of
        # numbers that cancel.
        for name in found.keys() - {"out", "v", "bias_table"}:
            assert found[name].dtype == dtype
            assert (found[name] - exact[name]).abs().max() < (1e-4 if dtype == torch.float32 else 1e-2)
            for results in (found, plain, exact, *others):
                del results[name]
    check_budget(found, plain, exact, others)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)) | st.tuples(st.integers(1, 3), st.integers(1, 70)),
    B=st.integers(1, 3),
    M=st.integers(1, 3),
    D=st.integers(1, 26) | st.sampled_from([32, 48, 80]),
    trained=st.none() | st.tuples(st.integers(1, 9), st.integers(2, 9)),
    num_threads=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_any_shape(
    size: tuple[int, int],
    B: int,
    M: int,
    D: int,
    trained: tuple[int, int] | None,
    num_threads: int,
    seed: int,
) -> None:
    check(*size, B=B, M=M, D=D, trained=trained, num_threads=num_threads, seed=seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((1, 1), {"M": 1, "D": 1}),
        ((1, 1), {"D": 24}),
        ((7, 7), {"D": 24, "M": 3, "B": 3}),
        ((8, 32), {"D": 24}),  # whole vectors, several blocks of keys
        ((25, 38), {"D": 24, "M": 1}),
        ((1, 97), {"D": 8}),  # one key more than a block
        ((97, 1), {"D": 8}),  # every query in a row of its own
        ((11, 13), {"D": 24, "trained": (5, 7)}),
        ((6, 5), {"D": 6, "trained": (6, 8)}),  # resized on one axis
        ((6, 5), {"D": 6, "trained": (9, 5)}),
        ((6, 5), {"D": 6, "trained": (1, 3)}),
    ],
)
def test_shapes(size: tuple[int, int], options: dict[str, Any], dtype: torch.dtype) -> None:
    check(*size, **options, dtype=dtype)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_same_from_run_to_run(num_threads: int) -> None:
    inputs = cast(global_inputs(9, 12, B=2, M=2, D=8), torch.float32)
    with threads(num_threads):
        first = global_results(inputs, "fused")
        for _ in range(10):
            assert_same(global_results(inputs, "fused"), first)


def test_maps_do_not_depend_on_threads() -> None:
    """Neither on how queries are shared out forward, nor on how images are shared out backward."""
    inputs = cast(global_inputs(7, 9, B=3, M=2, D=24), torch.float32)
    alone = global_results(inputs, "fused")
    for n in (2, 3, 5):
        with threads(n):
            found = global_results(inputs, "fused")
        assert_same({name: found[name] for name in ("out", *MAPS)}, {name: alone[name] for name in ("out", *MAPS)})


def assert_same(found: Results, expected: Results) -> None:
    for name, t in expected.items():
        same = torch.equal(found[name], t)
        assert same, name


def test_nothing_is_left_from_earlier_calls() -> None:
    """Threads keep their working memory from call to call; what was NaN there must not come back."""
    for trained in (None, (5, 4)):
        clean = cast(global_inputs(6, 5, D=4, trained=trained), torch.float32)
        expected = global_results(clean, "fused")
        for D in (1, 3, 8, 20):
            poison = cast(global_inputs(6, 40, D=D, trained=trained), torch.float32)
            for name in GLOBAL_TENSORS:
                poison[name] = torch.full_like(poison[name], math.nan)
            global_results(poison, "fused")
            assert_same(global_results(clean, "fused"), expected)


def test_nothing_is_left_from_earlier_calls_in_lanes_without_a_query() -> None:
    """The last tile of an image is seldom full: what lies in its other lanes must not reach the parameters' sums."""
    clean = cast(global_inputs(3, 6, D=4), torch.float32)
    expected = global_results(clean, "fused")
    poison = cast(global_inputs(3, 12, D=4), torch.float32)
    poison["bias_table"] = torch.full_like(poison["bias_table"], math.nan)
    global_results(poison, "fused")
    assert_same(global_results(clean, "fused"), expected)


@pytest.mark.parametrize("name", GLOBAL_TENSORS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(name: str, value: float) -> None:
    inputs = cast(global_inputs(7, 15, D=4, B=2), torch.float32)
    inputs[name].view(-1)[inputs[name].numel() // 2] = value
    found, expected = global_results(inputs, "fused"), global_results(inputs, "reference")
    assert torch.equal(found["out"].isfinite(), expected["out"].isfinite())
    for key in expected.keys() - {"out"}:  # nothing may get lost in gradients, but more may be hit
        assert not found[key][~expected[key].isfinite()].isfinite().any(), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zero_queries_and_keys(dtype: torch.dtype) -> None:
    inputs = cast(global_inputs(4, 3), dtype)
    for name in ("q", "k"):
        inputs[name] = torch.zeros_like(inputs[name])
    out = global_attention(**inputs, backend="fused")
    torch.testing.assert_close(out, global_attention(**inputs, backend="reference"))


@pytest.mark.parametrize("temperature", [500.0, -200.0])
def test_extreme_temperatures(temperature: float) -> None:
    """Logits of thousands, of which one takes all the weight; and a scale that vanishes."""
    inputs = cast(global_inputs(10, 12, D=8), torch.float32)
    inputs["temperature"] = torch.full_like(inputs["temperature"], temperature)
    found = global_results(inputs, "fused")
    assert all(t.isfinite().all() for t in found.values())
    expected = global_results(cast(inputs, torch.float64), "reference")
    assert norm(found["out"] - expected["out"]) <= 1e-3 * norm(expected["out"])


def test_strides_do_not_matter() -> None:
    dense = cast(global_inputs(6, 5, B=2, D=7), torch.float32)
    strided = dict(dense)
    strided["k"], strided["v"] = torch.stack((dense["k"], dense["v"]), dim=3).unbind(3)  # as a joint Linear leaves them
    strided["q"] = dense["q"].permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)  # channels first
    columns_first = dense["v"].transpose(1, 2).contiguous().transpose(1, 2)
    strided["bias_table"] = dense["bias_table"].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    strided["temperature"] = dense["temperature"].repeat(1, 1, 2)[..., :1]
    assert not any(strided[name].is_contiguous() for name in ("q", "k", "v", "bias_table"))
    expected = global_results(dense, "fused")
    assert_same(global_results(strided, "fused"), expected)
    assert_same(global_results({**strided, "v": columns_first}, "fused"), expected)
    for grad in (
        torch.randn(dense["q"].movedim(-1, 1).shape).movedim(1, -1),
        torch.ones(()).expand(dense["q"].shape),  # as a sum's
    ):
        found = global_results(dense, "fused", grad)
        assert_same(found, global_results(dense, "fused", grad.contiguous()))


def test_expanded_maps() -> None:
    """A batch that is one image several times over has stride 0."""
    inputs = cast(global_inputs(6, 5, D=7), torch.float32)
    several = {name: t.expand(3, *t.shape[1:]) if name in MAPS else t for name, t in inputs.items()}
    found = global_attention(**several, backend="fused")
    assert torch.equal(found, global_attention(**inputs, backend="fused").expand(3, -1, -1, -1, -1))


def test_empty_batch() -> None:
    results = global_results(cast(global_inputs(3, 4, B=0), torch.float32), "fused")
    assert results["out"].shape == (0, 3, 4, 2, 3)
    assert all(results[name].numel() == 0 for name in MAPS)
    assert all((results[name] == 0).all() for name in GLOBAL_TENSORS[3:])


def test_inputs_are_left_alone() -> None:
    inputs = cast(global_inputs(4, 4), torch.float32)
    before = {k: t.clone() for k, t in inputs.items() if isinstance(t, Tensor)}
    global_results(inputs, "fused")
    assert all(torch.equal(inputs[k], t) for k, t in before.items())


def test_autocast_does_not_reach_inside() -> None:
    inputs = cast(global_inputs(6, 5, D=8), torch.float32)
    plain = global_results(inputs, "fused")
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(global_results(inputs, "fused"), plain)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("of_table", [True, False])
def test_second_derivatives(backend: str, of_table: bool) -> None:
    """Those of the whole graph, also with respect to what only the gradient depends on."""
    inputs = cast(global_inputs(3, 4, D=4, trained=(4, 2)), torch.float32)
    names = GLOBAL_TENSORS if of_table else GLOBAL_TENSORS[:5]

    def second(arguments: dict[str, Any], backend: str) -> list[Tensor]:
        leaves = {n: arguments[n].clone().requires_grad_() for n in names}
        out = global_attention(**{**arguments, **leaves}, backend=backend)
        first = torch.autograd.grad(out.square().sum(), list(leaves.values()), create_graph=True)
        return list(torch.autograd.grad(sum(g.sin().sum() for g in first), list(leaves.values())))

    if backend == "reference":
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            found = second(inputs, backend)
    else:
        found = second(inputs, backend)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        exact = second(cast(inputs, torch.float64), "reference")
    for a, b in zip(found, exact, strict=True):
        assert norm(a - b) <= 1e-4 * norm(b)


def test_gradients_of_the_definition() -> None:
    inputs = global_inputs(2, 3, M=2, D=2, trained=(3, 2))
    leaves = [inputs[name].requires_grad_() for name in GLOBAL_TENSORS]
    assert torch.autograd.gradcheck(
        lambda *tensors: reference.global_attention(*tensors, inputs["rows"], inputs["cols"]), leaves
    )


# Choice of implementation


def test_dropout_is_the_reference_s() -> None:
    inputs = cast(global_inputs(3, 4), torch.float32)
    assert global_attention(**inputs, dropout_p=0.5).shape == (1, 3, 4, 2, 3)
    with pytest.raises(ValueError, match="dropout of attention weights"):
        global_attention(**inputs, dropout_p=0.5, backend="fused")


def test_float64_goes_to_the_reference() -> None:
    inputs = global_inputs(3, 4)
    found = global_attention(**inputs)
    assert torch.equal(found, global_attention(**inputs, backend="reference"))
    with pytest.raises(ValueError, match="float64 goes to the reference"):
        global_attention(**inputs, backend="fused")


def test_16_bit_maps_go_where_they_are_multiplied_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = cast(global_inputs(7, 7, D=24), torch.bfloat16)
    kernels, plain = (global_attention(**inputs, backend=backend) for backend in ("fused", "reference"))
    assert not torch.equal(kernels, plain)
    for native, expected in ((True, plain), (False, kernels)):
        monkeypatch.setattr("transnext.ops.attention_global.has_16_bit_products", lambda _, native=native: native)
        assert torch.equal(global_attention(**inputs), expected)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("q", lambda t: t[0], "q has shape (3, 4, 2, 3): expected [B, H, W, M, D]"),
        ("q", lambda t: t.long(), "q has dtype torch.int64: expected a floating-point one"),
        ("k", lambda t: t[:, :2], "k has shape (1, 2, 4, 2, 3): expected (1, 3, 4, 2, 3)"),
        ("temperature", lambda t: t[:1], "temperature has shape (1, 1, 1): expected (2, 1, 1)"),
        ("bias_table", lambda t: t[..., 1:], "bias_table has shape (2, 5, 6): expected (2, 5, 7)"),
        ("bias_table", lambda t: t.int(), "bias_table has dtype torch.int32: expected a floating-point one"),
        ("rows", lambda _: axis_index(5, 1), "rows is an index of (5, 1) queries and keys: expected (3, 3)"),
        ("v", lambda t: t.to("meta"), "v is on meta, but q is on cpu"),
    ],
)
def test_bad_arguments(name: str, change: Any, message: str) -> None:
    inputs = cast(global_inputs(3, 4), torch.float32)
    inputs[name] = change(inputs[name])
    with pytest.raises(ValueError, match=re.escape(message)):
        global_attention(**inputs)


def test_an_index_of_pooled_keys_is_refused() -> None:
    inputs = cast(global_inputs(4, 4), torch.float32)
    inputs["rows"] = axis_index(4, 2)
    inputs["bias_table"] = torch.zeros(2, len(inputs["rows"].offsets), 7)
    with pytest.raises(ValueError, match=re.escape("rows is an index of (4, 2) queries and keys: expected (4, 4)")):
        global_attention(**inputs)


def test_compiled() -> None:
    """In a graph the op stays one, forward and backward, and sizes may be symbols."""
    inputs = cast(global_inputs(4, 5, D=8), torch.float32)

    def step(q: Tensor, k: Tensor, v: Tensor, *parameters: Tensor) -> Tensor:
        H, W = q.shape[1:3]
        return global_attention(q, k, v, *parameters, axis_index(H, H), axis_index(W, W)).square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in ((4, 5), (6, 3), (7, 7)):
        inputs = cast(global_inputs(*size, D=8), torch.float32)
        gradients = []
        for function in (step, compiled):
            leaves = [inputs[name].clone().requires_grad_() for name in GLOBAL_TENSORS]
            function(*leaves).backward()
            gradients.append([leaf.grad for leaf in leaves])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)
