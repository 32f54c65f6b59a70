"""The plain PyTorch ops against their definition, written out pixel by pixel in NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.attention_cases import TENSORS, Inputs, attention_inputs, cast, gate_inputs
from transnext.ops import (
    AxisIndex,
    aggregated_attention,
    aggregated_attention_weights,
    axis_index,
    depthwise_conv_gelu_gate,
    expand_bias_table,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def bin_mean(p: int, positions: int, bins: int) -> float:
    """Mean position of a bin of adaptive average pooling."""
    start, end = math.floor(p * positions / bins), math.ceil((p + 1) * positions / bins)
    return sum(range(start, end)) / (end - start)


def place(offsets: Tensor, offset: float) -> int:
    """Where an offset stands among those of an axis; it must be there exactly."""
    return offsets.tolist().index(offset)


def unit(x: np.ndarray) -> np.ndarray:
    return x / max(math.sqrt(float((x * x).sum())), 1e-12)


def attention_by_hand(i: Inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output, local weights and pooled weights of aggregated attention, one query at a time."""
    a = {key: i[key].numpy() for key in TENSORS}
    B, H, W, M, D = a["q"].shape
    P_h, P_w = a["k_pool"].shape[1:3]
    K = a["relative_pos_bias_local"].shape[1]
    r = math.isqrt(K) // 2
    out = np.zeros((B, H, W, M, D))
    local_weights = np.zeros((B, H, W, M, K))
    pool_weights = np.zeros((B, H, W, M, P_h, P_w))
    for b, y, x, m in np.ndindex(B, H, W, M):
        neighbours = {
            (dy + r) * (2 * r + 1) + dx + r: (y + dy, x + dx)
            for dy in range(-r, r + 1)
            for dx in range(-r, r + 1)
            if 0 <= y + dy < H and 0 <= x + dx < W
        }
        qn = unit(a["q"][b, y, x, m])
        softplus = math.log1p(math.exp(a["temperature"][m, 0, 0]))
        qs = (qn + a["query_embedding"][m, 0]) * softplus * math.log(len(neighbours) + P_h * P_w)
        logits = {}
        for n, (ny, nx) in neighbours.items():
            logits["local", n] = qs @ unit(a["k"][b, ny, nx, m]) + a["relative_pos_bias_local"][m, n]
        for py, px in np.ndindex(P_h, P_w):
            u = place(i["rows"].offsets, y - bin_mean(py, H, P_h))
            v = place(i["cols"].offsets, x - bin_mean(px, W, P_w))
            logits["pool", py, px] = qs @ unit(a["k_pool"][b, py, px, m]) + a["bias_table"][m, u, v]
        top = max(logits.values())
        total = sum(math.exp(z - top) for z in logits.values())
        for key, logit in logits.items():
            weight = math.exp(logit - top) / total
            if key[0] == "pool":
                pool_weights[b, y, x, m, key[1], key[2]] = weight
                out[b, y, x, m] += weight * a["v_pool"][b, key[1], key[2], m]
            else:
                n = key[1]
                local_weights[b, y, x, m, n] = weight
                weight += qn @ a["learnable_tokens"][m, :, n] + a["learnable_bias"][m, 0, n]
                out[b, y, x, m] += weight * a["v"][(b, *neighbours[n], m)]
    return out, local_weights, pool_weights


def check_attention(inputs: Inputs) -> None:
    out, local, pool = attention_by_hand(inputs)
    found = aggregated_attention(**inputs)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), out, rtol=1e-10, atol=1e-11)
    values = {"v", "v_pool", "learnable_tokens", "learnable_bias"}
    weights = aggregated_attention_weights(**{k: t for k, t in inputs.items() if k not in values})
    np.testing.assert_allclose(weights.local.numpy(), local, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(weights.pool.numpy(), pool, rtol=1e-10, atol=1e-14)
    total = weights.local.sum(-1) + weights.pool.sum((-1, -2))
    np.testing.assert_allclose(total.numpy(), 1.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("size", "pool", "options"),
    [
        ((8, 8), (2, 2), {}),
        ((5, 7), (2, 3), {"B": 2}),  # uneven bins
        ((1, 1), (1, 1), {}),
        ((6, 1), (3, 1), {}),
        ((1, 6), (1, 2), {}),
        ((4, 4), (1, 1), {"M": 1, "D": 1}),
        ((2, 3), (1, 1), {"window": 5}),  # windows larger than the map
        ((3, 2), (2, 2), {"window": 7}),
        ((2, 2), (3, 3), {}),  # more bins than pixels, as a fixed pool has on a small map
        ((4, 4), (2, 2), {"window": 1}),
        ((5, 4), (5, 4), {"D": 24, "M": 3}),  # a key for every pixel
    ],
)
def test_attention(size: tuple[int, int], pool: tuple[int, int], options: dict[str, int]) -> None:
    check_attention(attention_inputs(*size, *pool, **options))


@settings(deadline=None, max_examples=25)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    pool=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    M=st.integers(1, 3),
    D=st.integers(1, 6),
    window=st.sampled_from([3, 5, 7]),
    seed=st.integers(0, 1000),
)
def test_attention_of_any_shape(
    size: tuple[int, int], pool: tuple[int, int], M: int, D: int, window: int, seed: int
) -> None:
    check_attention(attention_inputs(*size, *pool, M=M, D=D, window=window, seed=seed))


def gate_by_hand(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    B, H, W, channels = x.shape
    F = channels // 2
    k = weight.shape[-1]
    out = np.zeros((B, H, W, F))
    for b, y, col, f in np.ndindex(B, H, W, F):
        z = 0.0 if bias is None else bias[f]
        for dy, dx in np.ndindex(k, k):
            ny, nx = y + dy - k // 2, col + dx - k // 2
            if 0 <= ny < H and 0 <= nx < W:
                z += weight[f, 0, dy, dx] * x[b, ny, nx, f]
        out[b, y, col, f] = z * 0.5 * (1 + math.erf(z / math.sqrt(2))) * x[b, y, col, F + f]
    return out


@settings(deadline=None, max_examples=25)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    B=st.integers(1, 2),
    F=st.integers(1, 5),
    k=st.sampled_from([1, 3, 5]),
    with_bias=st.booleans(),
)
def test_gate_of_any_shape(size: tuple[int, int], B: int, F: int, k: int, with_bias: bool) -> None:
    x, weight, bias = gate_inputs(B, *size, F, k)
    found = depthwise_conv_gelu_gate(x, weight, bias if with_bias else None)
    assert found.dtype == torch.float64
    expected = gate_by_hand(x.numpy(), weight.numpy(), bias.numpy() if with_bias else None)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("size", "pool", "window"), [((4, 5), (2, 2), 3), ((1, 1), (1, 1), 3), ((2, 3), (1, 2), 5)])
def test_attention_gradients(size: tuple[int, int], pool: tuple[int, int], window: int) -> None:
    inputs = attention_inputs(*size, *pool, D=2, window=window)
    inputs["query_embedding"].requires_grad_()
    leaves = [inputs[name].requires_grad_() for name in TENSORS]

    def op(*tensors: Tensor) -> Tensor:
        return aggregated_attention(*tensors, inputs["rows"], inputs["cols"])

    assert torch.autograd.gradcheck(op, leaves)


def test_attention_gradients_through_resized_bias() -> None:
    inputs = attention_inputs(4, 6, 2, 3, D=2)
    rows = axis_index(4, 2, trained_queries=6, trained_keys=3)
    cols = axis_index(6, 3, trained_queries=5, trained_keys=2)
    table = torch.randn(2, len(rows.offsets), len(cols.offsets), dtype=torch.float64, requires_grad=True)
    inputs |= {"rows": rows, "cols": cols}
    assert torch.autograd.gradcheck(lambda t: aggregated_attention(**{**inputs, "bias_table": t}), table)


def test_gate_gradients() -> None:
    x, weight, bias = (t.requires_grad_() for t in gate_inputs(2, 3, 4, 3))
    assert torch.autograd.gradcheck(depthwise_conv_gelu_gate, (x, weight, bias))
    assert torch.autograd.gradcheck(lambda a, b: depthwise_conv_gelu_gate(a, b, None), (x, weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_rounds_once(dtype: torch.dtype) -> None:
    """16-bit inputs are computed in float32 and rounded at the end: within one unit of the exact result."""
    inputs = cast(attention_inputs(9, 7, 3, 2, B=2, M=3, D=8), dtype)
    found = aggregated_attention(**inputs)
    exact = aggregated_attention(**cast(inputs, torch.float64))
    assert found.dtype == dtype
    assert_rounded(found, exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gate_rounds_once(dtype: torch.dtype) -> None:
    x, weight, bias = (t.to(dtype) for t in gate_inputs(2, 9, 7, 8))
    found = depthwise_conv_gelu_gate(x, weight, bias)
    exact = depthwise_conv_gelu_gate(x.double(), weight.double(), bias.double())
    assert found.dtype == dtype
    assert_rounded(found, exact)


def assert_rounded(found: Tensor, exact: Tensor) -> None:
    """Half a unit in the last place for the rounding, and a little for float32 inside."""
    eps = torch.finfo(found.dtype).eps
    allowed = 0.51 * eps * exact.abs() + 1e-5 * exact.abs().max()
    assert ((found.double() - exact).abs() <= allowed).all()


def test_float32_weights_of_16_bit_inputs() -> None:
    inputs = cast(attention_inputs(3, 4, 1, 2), torch.bfloat16)
    values = {"v", "v_pool", "learnable_tokens", "learnable_bias"}
    weights = aggregated_attention_weights(**{k: t for k, t in inputs.items() if k not in values})
    assert weights.local.dtype == weights.pool.dtype == torch.float32
    assert weights.local.shape == (1, 3, 4, 2, 9)
    assert weights.pool.shape == (1, 3, 4, 2, 1, 2)


def test_mixed_dtypes_take_that_of_the_queries() -> None:
    """Under autocast activations are bfloat16 and parameters float32."""
    inputs = attention_inputs(5, 4, 2, 2)
    mixed = cast(inputs, torch.float32)
    for name in ("q", "k", "v", "k_pool", "v_pool"):
        mixed[name] = mixed[name].bfloat16()
    found = aggregated_attention(**mixed)
    assert found.dtype == torch.bfloat16
    assert_rounded(found, aggregated_attention(**cast(mixed, torch.float64)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_zero_queries_and_keys_are_finite(dtype: torch.dtype) -> None:
    inputs = cast(attention_inputs(4, 3, 2, 1), dtype)
    for name in ("q", "k", "k_pool"):
        inputs[name] = torch.zeros_like(inputs[name])
    out = aggregated_attention(**inputs)
    assert out.isfinite().all()
    # With all lengths 0 only the biases choose.
    assert_rounded(out, aggregated_attention(**cast(inputs, torch.float64)))


def test_tiny_queries_are_normalised_in_half_precision() -> None:
    """The squares of 1e-4 underflow in float16; a normalisation in that precision would give 0 or NaN."""
    inputs = cast(attention_inputs(4, 3, 2, 1), torch.float16)
    inputs["q"] = inputs["q"] * 1e-4
    assert_rounded(aggregated_attention(**inputs), aggregated_attention(**cast(inputs, torch.float64)))


def test_large_logits_do_not_overflow() -> None:
    inputs = attention_inputs(4, 3, 2, 1)
    inputs["temperature"] = torch.full_like(inputs["temperature"], 500.0)
    for dtype in (torch.float16, torch.float32):
        assert aggregated_attention(**cast(inputs, dtype)).isfinite().all()


def test_autocast_does_not_reach_inside() -> None:
    inputs = cast(attention_inputs(6, 5, 2, 2, D=8), torch.float32)
    x, weight, bias = (t.float() for t in gate_inputs(1, 5, 6, 4))
    plain = aggregated_attention(**inputs), depthwise_conv_gelu_gate(x, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert (inputs["learnable_tokens"][0] @ inputs["learnable_tokens"][0].T).dtype == torch.bfloat16
        under = aggregated_attention(**inputs), depthwise_conv_gelu_gate(x, weight, bias)
    for a, b in zip(plain, under, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)


def test_strides_do_not_matter() -> None:
    inputs = attention_inputs(6, 5, 3, 2, B=2)
    expected = aggregated_attention(**inputs)
    strided = dict(inputs)
    kv = torch.stack((inputs["k"], inputs["v"]), dim=3)  # the layout a joint Linear leaves
    strided["k"], strided["v"] = kv.unbind(3)
    for name in ("q", "k_pool", "v_pool"):
        strided[name] = inputs[name].transpose(1, 2).contiguous().transpose(1, 2)
    strided["bias_table"] = inputs["bias_table"].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    strided["learnable_tokens"] = inputs["learnable_tokens"].repeat(1, 1, 2)[..., :9]
    assert not any(strided[name].is_contiguous() for name in ("q", "k", "v", "k_pool", "bias_table"))
    torch.testing.assert_close(aggregated_attention(**strided), expected, rtol=1e-12, atol=1e-12)

    x, weight, bias = gate_inputs(2, 6, 5, 4)
    expected = depthwise_conv_gelu_gate(x, weight, bias)
    for other in (x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), torch.cat((x, x), -1)[..., :8]):
        assert not other.is_contiguous()
        torch.testing.assert_close(depthwise_conv_gelu_gate(other, weight, bias), expected, rtol=1e-12, atol=1e-12)


def test_empty_batch() -> None:
    inputs = attention_inputs(3, 4, 1, 2, B=0)
    inputs["learnable_tokens"].requires_grad_()
    out = aggregated_attention(**inputs)
    assert out.shape == (0, 3, 4, 2, 3)
    out.sum().backward()
    assert (inputs["learnable_tokens"].grad == 0).all()
    x, weight, bias = gate_inputs(0, 3, 4, 2)
    assert depthwise_conv_gelu_gate(x, weight, bias).shape == (0, 3, 4, 2)


def test_dropout() -> None:
    """Dropped weights are those of the softmax alone, and what stays is scaled up."""
    inputs = attention_inputs(6, 6, 2, 2, B=2)
    assert torch.equal(aggregated_attention(**inputs, dropout_p=0.0), aggregated_attention(**inputs))
    only_learnable = aggregated_attention(**inputs, dropout_p=1.0)
    qn = torch.nn.functional.normalize(inputs["q"], dim=-1)
    weights = torch.einsum("bhwmd,mdk->bhwmk", qn, inputs["learnable_tokens"]) + inputs["learnable_bias"][:, 0]
    padded = torch.nn.functional.pad(inputs["v"], (0, 0, 0, 0, 1, 1, 1, 1))
    expected = sum(weights[..., n, None] * padded[:, n // 3 : n // 3 + 6, n % 3 : n % 3 + 6] for n in range(9))
    torch.testing.assert_close(only_learnable, expected, rtol=1e-10, atol=1e-10)

    mean = sum(aggregated_attention(**inputs, dropout_p=0.3) for _ in range(400)) / 400
    exact = aggregated_attention(**inputs)
    assert (mean - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_batch_images_are_independent() -> None:
    inputs = attention_inputs(5, 6, 2, 3, B=3)
    together = aggregated_attention(**inputs)
    for b in range(3):
        one = {k: t[b : b + 1] if k in ("q", "k", "v", "k_pool", "v_pool") else t for k, t in inputs.items()}
        torch.testing.assert_close(aggregated_attention(**one), together[b : b + 1], rtol=1e-12, atol=1e-12)


def test_inputs_are_left_alone() -> None:
    inputs = attention_inputs(4, 4, 2, 2)
    before = {k: t.clone() for k, t in inputs.items() if isinstance(t, Tensor)}
    aggregated_attention(**inputs)
    assert all(torch.equal(inputs[k], t) for k, t in before.items())


def test_bias_of_each_pair() -> None:
    """`expand_bias_table` reads the entry that the index of each axis names."""
    rows, cols = axis_index(5, 2), axis_index(6, 3)
    table = torch.randn(2, len(rows.offsets), len(cols.offsets))
    bias = expand_bias_table(table, rows, cols)
    assert bias.shape == (2, 5, 6, 2, 3)
    for m, y, x, p, s in np.ndindex(2, 5, 6, 2, 3):
        assert bias[m, y, x, p, s] == table[m, rows.taps[y, p, 0], cols.taps[x, s, 0]]


def test_weighted_taps_of_each_pair() -> None:
    generator = torch.Generator().manual_seed(3)
    rows, cols = (
        AxisIndex(
            torch.arange(7.0, dtype=torch.float64),
            torch.randint(7, (n, p, 4), generator=generator),
            torch.rand(n, p, 4, generator=generator, dtype=torch.float64),
        )
        for n, p in ((3, 2), (2, 4))
    )
    table = torch.randn(1, 7, 7, generator=generator, dtype=torch.float64)
    bias = expand_bias_table(table, rows, cols)
    for y, x, p, s in np.ndindex(3, 2, 2, 4):
        expected = sum(
            rows.weight[y, p, t] * cols.weight[x, s, u] * table[0, rows.taps[y, p, t], cols.taps[x, s, u]]
            for t in range(4)
            for u in range(4)
        )
        assert bias[0, y, x, p, s] == pytest.approx(float(expected), rel=1e-12)
