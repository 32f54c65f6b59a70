"""The kernels for GPUs, values and gradients, against the reference in float64; without a GPU by Triton's interpreter.

The error budget is that of the compiled kernels. The interpreter takes about a second for a kernel: cases are few, and
each has several peculiarities at once.
"""

import math
from typing import Any

import pytest
import torch

from tests.helpers.attention_cases import (
    MAPS,
    TENSORS,
    Inputs,
    Results,
    attention_inputs,
    attention_results,
    cast,
    gate_inputs,
)
from tests.helpers.error_budget import check_budget

pytest.importorskip("triton")

import triton
import triton.language as tl

from transnext.ops import aggregated_attention, expand_bias_table
from transnext.ops.triton import attention, gate, resized_bias
from transnext.ops.triton.kernels.position_bias import bias_like, load_key_places, store_key_places
from transnext.ops.triton.launch import config, noted_launches

pytestmark = [
    pytest.mark.usefixtures("one_thread", "poisoned_memory", "interpreted_kernels"),
]


def results_in_triton(inputs: Inputs) -> Results:
    return attention_results(inputs, "fused")


def check_attention(inputs: Inputs, others: list[Inputs]) -> None:
    exact, *usual = (attention_results(cast(i, torch.float64), "reference") for i in (inputs, *others))
    plain, found = attention_results(inputs, "reference"), results_in_triton(inputs)
    if inputs["q"].shape[-1] == 1:
        # A single channel is normalised to 1 or -1, whatever its length: nothing to be learned from it.
        for name in ("q", "k", "k_pool"):
            assert (found[name] * inputs[name]).abs().max() < 1e-4
            for results in (found, plain, exact, *usual):
                del results[name]
    check_budget(found, plain, exact, usual)


CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "one pixel": ((1, 1, 1, 1), {"M": 1, "D": 1}),
    "more bins than pixels, window larger than the map": ((2, 3, 3, 2), {"window": 5, "M": 1}),
    "head of the paper, even bins": ((4, 6, 2, 3), {"D": 24}),
    "uneven bins on both axes, images": ((5, 7, 3, 2), {"D": 20, "B": 2, "M": 1}),
    "several tiles of queries and keys": ((7, 10, 5, 7), {"D": 17, "M": 1}),
    "resized bias": ((5, 6, 2, 3), {"D": 8, "trained_rows": (7, 3), "trained_cols": (6, 3)}),
    "resized along one axis": ((6, 4, 2, 2), {"D": 40, "M": 1, "trained_cols": (8, 4)}),
    "resized to more, uneven": ((9, 7, 4, 5), {"D": 8, "M": 1, "trained_rows": (3, 1), "trained_cols": (5, 2)}),
}


DTYPES_OF_CASES = [
    *((case, torch.float32) for case in CASES),
    ("uneven bins on both axes, images", torch.bfloat16),
    ("several tiles of queries and keys", torch.float16),
    ("resized bias", torch.bfloat16),
]


@pytest.mark.parametrize(("case", "dtype"), DTYPES_OF_CASES)
def test_attention(case: str, dtype: torch.dtype) -> None:
    sizes, options = CASES[case]
    inputs, *others = (cast(attention_inputs(*sizes, **options, seed=seed), dtype) for seed in range(3))
    check_attention(inputs, others)


def test_strided_maps_and_parameters_of_another_dtype() -> None:
    """As the network hands them over under autocast."""
    inputs = cast(attention_inputs(5, 4, 2, 2, D=12), torch.float32)
    inputs |= {name: inputs[name].bfloat16() for name in MAPS}
    expected = results_in_triton(inputs)
    inputs["k"], inputs["v"] = torch.stack((inputs["k"], inputs["v"]), dim=3).unbind(3)
    inputs["q"] = inputs["q"].permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    inputs["k_pool"] = inputs["k_pool"].transpose(1, 2).contiguous().transpose(1, 2)
    inputs["learnable_tokens"] = inputs["learnable_tokens"].repeat(1, 1, 2)[..., :9]
    assert not inputs["k"].is_contiguous()
    assert not inputs["q"].is_contiguous()
    found = results_in_triton(inputs)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert found[name].dtype == (inputs[name].dtype if name in inputs else torch.bfloat16)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        ("several tiles of queries and keys", torch.bfloat16),
        ("several tiles of queries and keys", torch.float16),
        ("resized to more, uneven", torch.bfloat16),
    ],
)
def test_float32_gradients_of_16_bit_maps(case: str, dtype: torch.dtype) -> None:
    """Products of 16-bit numbers leave no more error than those of float32, as results that are not rounded show."""
    sizes, options = CASES[case]
    inputs, *others = (cast(attention_inputs(*sizes, **options, seed=seed), torch.float32) for seed in range(3))
    for one in (inputs, *others):
        one |= {name: one[name].to(dtype) for name in MAPS}
    exact, *usual = (attention_results(cast(i, torch.float64), "reference") for i in (inputs, *others))
    plain, found = attention_results(inputs, "reference"), results_in_triton(inputs)
    check_budget(found, plain, exact, usual)
    assert found["query_embedding"].dtype == torch.float32


def test_weights_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `benchmarks/gpu_check.py` times: one product where there are two, with the error of a 16-bit number."""
    inputs = cast(attention_inputs(4, 6, 2, 3, D=24, M=1), torch.float32)
    inputs |= {name: inputs[name].bfloat16() for name in MAPS}
    usual = results_in_triton(inputs)
    monkeypatch.setattr(attention, "product_precision", lambda dtype: "tf32")
    found = results_in_triton(inputs)
    for name in ("query_embedding", "learnable_tokens"):  # float32, through which weights of pooled keys pass or not
        difference = (found[name] - usual[name]).norm() / usual[name].norm()
        assert 1e-5 < difference < 1e-2, name
    assert (found["out"] - usual["out"]).float().norm() < 1e-2 * usual["out"].float().norm()


def test_loss_that_is_scaled() -> None:
    """Gradients of logits that are far beyond the range of float16, whose maps and results are not."""
    inputs = cast(attention_inputs(4, 5, 2, 2, D=8, M=1), torch.float16)
    inputs["v"], inputs["v_pool"] = 400 * inputs["v"], 400 * inputs["v_pool"]
    inputs["q"], inputs["k"], inputs["k_pool"] = (300 * inputs[name] for name in ("q", "k", "k_pool"))
    grad = 2000 * torch.randn(inputs["q"].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    exact = attention_results(cast(inputs, torch.float64), "reference", grad.half().double())
    plain, found = (attention_results(inputs, way, grad.half()) for way in ("reference", "fused"))
    kept = [name for name in exact if plain[name].isfinite().all()]
    assert {"out", "q", "k", "k_pool"} <= set(kept)
    check_budget(*({name: results[name] for name in kept} for results in (found, plain, exact)), [])


def test_bias_gradient_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row and over shares of the batch it is the same sum."""
    for options in ({}, {"trained_rows": (4, 2)}):
        inputs = cast(attention_inputs(3, 2, 2, 1, B=2, M=1, **options), torch.float32)
        whole = results_in_triton(inputs)["bias_table"]
        with monkeypatch.context() as patch:
            patch.setattr(attention, "MAX_DENSE_ENTRIES", 2 * 2 * 2)  # two rows at a time
            torch.testing.assert_close(results_in_triton(inputs)["bias_table"], whole)
            patch.setattr(attention, "PROGRAMS_WANTED", 1)
            torch.testing.assert_close(results_in_triton(inputs)["bias_table"], whole)


@pytest.mark.parametrize(
    ("size", "trained", "inner"), [(5, 7, 1), (7, 5, 3), (1, 4, 2), (9, 1, 1), (6, 6, 5), (61, 9, 2), (3, 80, 1)]
)
def test_gradient_of_resizing(size: int, trained: int, inner: int) -> None:
    """That of PyTorch's linear interpolation, of the sum of two."""
    grad = torch.randn(2, 11, size, inner, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    leaf = torch.zeros(11 * inner, 1, trained, dtype=torch.float64, requires_grad=True)
    out = torch.nn.functional.interpolate(leaf, size=size, mode="linear", align_corners=False)
    summed = grad.sum(0).transpose(1, 2).reshape(out.shape)
    expected = torch.autograd.grad(out, leaf, summed)[0].view(11, inner, trained).transpose(1, 2)
    whole = torch.full((11, trained + 2, inner + 1), math.nan)
    found = resized_bias.resize_gradient(grad.float(), trained, whole[:, 1:-1, 1:])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert whole.isnan().sum() == whole.numel() - expected.numel()


def test_zero_vectors_and_large_logits() -> None:
    inputs = cast(attention_inputs(3, 4, 2, 2, M=1), torch.float32)
    for name in ("q", "k", "k_pool"):
        inputs[name] = torch.zeros_like(inputs[name])
    expected = attention_results(inputs, "reference")
    for name, value in results_in_triton(inputs).items():
        # At a vector of length 0 a gradient is 1e12 times another one.
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max()))
    inputs = cast(attention_inputs(3, 4, 2, 2, M=1), torch.float32)
    inputs["temperature"] = torch.full_like(inputs["temperature"], 500.0)
    assert all(t.isfinite().all() for t in results_in_triton(inputs).values())


def test_not_a_number_is_not_lost() -> None:
    inputs = cast(attention_inputs(4, 5, 2, 2, M=1), torch.float32)
    inputs["v"][0, 1, 1, 0, 0] = math.nan
    expected = attention_results(inputs, "reference")
    found = results_in_triton(inputs)
    assert torch.equal(found["out"].isnan(), expected["out"].isnan())
    for name in TENSORS:
        assert not found[name][expected[name].isnan()].isfinite().any(), name


def test_images_beyond_32_bits() -> None:
    """Rows lie so far apart that an offset within an image does not fit into 32 bits; little of it is touched."""
    inputs = cast(attention_inputs(3, 2, 1, 1, M=1, D=4), torch.float16)
    expected = results_in_triton(inputs)
    far = torch.empty(0, dtype=torch.float16)
    stride = 2**30 + 24
    far = far.set_(torch.UntypedStorage(2 * (2 * stride + 8)), 0, (1, 3, 2, 1, 4), (0, stride, 4, 4, 1))
    far.copy_(inputs["q"])
    assert attention.wants_64_bits(far)
    assert not attention.wants_64_bits(inputs["q"])
    found = results_in_triton({**inputs, "q": far})
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_sides_that_are_too_long() -> None:
    inputs = cast(attention_inputs(1, 2**15, 1, 1, M=1, D=1), torch.float32)
    with pytest.raises(ValueError, match="a map of 1x32768 and a pooled one of 1x1: the kernels go to 32767 a side"):
        aggregated_attention(**inputs, backend="fused")


def test_tables_that_are_too_large() -> None:
    q, k_pool, table = (torch.empty(1, *n, 1, 1, device="meta") for n in ((20000, 20000), (2, 2), (40000, 40000)))
    others = [q.new_empty(shape) for shape in ((1, 1, 1), (1, 1, 1), (1, 9), (1, 1, 9), (1, 1, 9))]
    arguments = [q, q, q, k_pool, k_pool, *others, table[..., 0, 0]]
    with noted_launches() as noted, pytest.raises(ValueError, match="from 40000 rows of 40000 entries: the kernels"):
        attention.forward(*arguments, 20000, 20000, 2, 2)
    assert not noted
    with noted_launches(), pytest.raises(ValueError, match="from 40000 rows of 15000 entries: the kernels go to"):
        attention.forward(*arguments[:-1], table[:, :9, :15000, 0, 0], 5, 7501, 1, 2)


def test_empty_batch() -> None:
    results = results_in_triton(cast(attention_inputs(3, 4, 1, 2, B=0), torch.float32))
    assert results["out"].shape == (0, 3, 4, 2, 3)
    assert all((results[name] == 0).all() for name in TENSORS)
    x, weight, bias = (t.float() for t in gate_inputs(0, 3, 4, 2))
    assert gate.forward(x, weight, bias).shape == (0, 3, 4, 2)
    assert all((t == 0).all() for t in gate.backward(x[..., :2], x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_by_the_log_sum_that_was_kept(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd does on a GPU gives the bits of the op that keeps its inputs alone."""
    inputs = cast(attention_inputs(4, 5, 2, 2, D=8, M=2, B=2), dtype)
    alone = results_in_triton(inputs)
    calls = []
    monkeypatch.setattr("transnext.ops.attention._keeps_log_sum", lambda tensors: calls.append(1) or True)
    kept = results_in_triton(inputs)
    assert calls
    assert all(torch.equal(kept[name], alone[name]) for name in alone)
    empty = results_in_triton(cast(attention_inputs(3, 4, 1, 2, B=0), dtype))
    assert all((empty[name] == 0).all() for name in TENSORS)


def test_two_runs_are_the_same() -> None:
    inputs = cast(attention_inputs(4, 5, 2, 2, D=8, M=1), torch.float32)
    first, second = results_in_triton(inputs), results_in_triton(inputs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@triton.jit
def biases_of_all_pairs(
    table,
    places,
    out,
    H,
    W,
    P_h,
    P_w,
    U_w,
    T_h,
    T_w,
    TP_h,
    TP_w,
    TAPS: tl.constexpr,
    EVEN: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Writes `[H W, P_h P_w]`."""
    shape, table_shape = (1, H, W, P_h, P_w), (1, U_w, T_h, T_w, TP_h, TP_w)
    pixel, p = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    there = (pixel < H * W)[:, None] & (p < P_h * P_w)[None, :]
    y, x, key = tl.minimum(pixel // W, H - 1), pixel % W, tl.minimum(p, P_h * P_w - 1)
    P4 = tl.cdiv(P_h * P_w, 4) * 4
    store_key_places(places, p, key, shape, table_shape, P4, TAPS, EVEN)
    like = tl.zeros([QUERIES, KEYS], tl.float32)
    bias = bias_like(like, table, y, x, load_key_places(places, key, P4, TAPS), shape, table_shape, TAPS)
    tl.store(out + pixel[:, None] * P_h * P_w + p[None, :], bias, mask=there)


@pytest.mark.parametrize("trained", [None, (8, 6, 4, 2), (7, 10, 3, 4), (3, 2, 5, 1)])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (7, 5, 3, 2), (12, 4, 3, 4), (3, 3, 3, 3), (2, 3, 3, 2), (1, 304, 1, 38), (305, 2, 38, 1)]
)
def test_bias_is_that_of_the_index(sizes: tuple[int, ...], trained: tuple[int, ...] | None) -> None:
    H, W, P_h, P_w = sizes
    options = {} if trained is None else {"trained_rows": trained[::2], "trained_cols": trained[1::2]}
    inputs = attention_inputs(*sizes, M=1, **options)
    table, rows, cols = inputs["bias_table"].float(), inputs["rows"], inputs["cols"]
    out = torch.full((H * W, P_h * P_w), math.nan)
    blocks = (triton.next_power_of_2(n) for n in out.shape)
    resized = trained is not None and trained != sizes
    made_for = trained or sizes
    even = made_for[0] % made_for[2] == 0 and made_for[1] % made_for[3] == 0
    places = torch.zeros(3, P_h * P_w + 3, dtype=torch.int32)
    read = table
    if resized:
        read = torch.full((1, H, P_h, table.shape[2], 2), math.nan)
        with pytest.MonkeyPatch.context() as patch:  # of many rows each program takes the interpreter milliseconds
            patch.setattr(resized_bias.RESIZE_ROWS, "configs", [config(4, BLOCK_R=1024, BLOCK_U=128)])
            resized_bias.resize_rows(table, read, (1, *sizes), (*table.shape[1:], *made_for), even)
    biases_of_all_pairs[(1,)](read, places, out, *sizes, table.shape[2], *made_for, 2 if resized else 1, even, *blocks)
    expected = expand_bias_table(table.double(), rows, cols).reshape(out.shape)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5 if resized else 0)
