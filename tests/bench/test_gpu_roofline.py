"""The arithmetic behind docs/gpu.md agrees with real tensors and with the formulas of the ops."""

from types import ModuleType

import pytest
import torch

from transnext.ops import aggregated_attention, axis_index
from transnext.ops.flops import _attention, _attention_backward, _gate


def test_sizes_are_those_of_the_model(roofline: ModuleType) -> None:
    first, _, third, last = roofline.stages_of("transnext_tiny", 2, 800, 1216)
    assert (first.H, first.W, first.M, first.D, first.F, first.K, first.P) == (200, 304, 3, 24, 384, 9, 950)
    assert first.table == 235_200
    assert (third.depth, third.N, third.M, third.F, third.P) == (15, 50 * 76, 12, 768, 950)
    assert (last.N, last.M, last.F, last.K) == (25 * 38, 24, 1536, 0)


def test_products_are_those_of_the_ops(roofline: ModuleType) -> None:
    # Sizes that fill every tile, so that nothing is padded.
    s = roofline.Stage("1", 1, B=2, H=16, W=16, M=3, D=32, F=64, K=9, P=64, table=1)
    shapes = ([2, 16, 16, 3, 32], *[[2, 16, 16, 3, 32]] * 2, [2, 8, 8, 3, 32], *[[0]] * 3)
    pooled_only = (*shapes, [3, 0])
    (forward,) = roofline.attention_forward(s, 2)
    backward = roofline.attention_backward(s, 2)
    assert forward.products == _attention(*pooled_only)
    # Five products are what a gradient needs at least; ours makes eleven.
    assert sum(kernel.products + kernel.as_is for kernel in backward) == 11 / 5 * _attention_backward([0], *pooled_only)
    (gate,) = roofline.gate_forward(s, 2)
    assert gate.vector == _gate([2, 16, 16, 128], [64, 1, 3, 3])


def test_padding(roofline: ModuleType) -> None:
    s = roofline.Stage("1", 1, B=1, H=7, W=9, M=1, D=24, F=8, K=9, P=33, table=1)
    assert roofline.product(s, (64, 32)) == 2 * 64 * 64 * 32


def test_bytes_are_those_of_real_tensors(roofline: ModuleType) -> None:
    B, H, W, M, D, K, side = 2, 8, 6, 3, 4, 9, 2
    rows, cols = axis_index(H, side), axis_index(W, side)
    q, k, v = (torch.randn(B, H, W, M, D, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    pooled = [torch.randn(B, side, side, M, D, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    parameters = [
        torch.randn(shape, requires_grad=True) for shape in ((M, 1, D), (M, 1, 1), (M, K), (M, D, K), (M, 1, K))
    ]
    table = torch.randn(M, len(rows.offsets), len(cols.offsets), requires_grad=True)
    out = aggregated_attention(q, k, v, *pooled, *parameters, table, rows, cols)
    s = roofline.Stage("1", 1, B, H, W, M, D, F=8, K=K, P=side * side, table=table[0].numel())
    maps = [q, k, v, *pooled]
    inputs = sum(t.nbytes for t in (*maps, table))
    assert roofline.compulsory_attention(s, 2, backward=False) == inputs + out.nbytes
    assert roofline.compulsory_attention(s, 2, backward=True) == 2 * inputs + out.nbytes
    assert roofline.kept_by_ours(s, 2)[0] == sum(t.nbytes for t in maps)


def test_the_slowest_unit_decides(roofline: ModuleType) -> None:
    gpu = roofline.GPUS["H100"]
    copy = roofline.Kernel(name="copy", programs=1, moved=3.35e12, asked=0)
    assert copy.seconds(gpu, "16 bit") == pytest.approx(1)
    product = roofline.Kernel(name="product", programs=1, moved=3.35e11, asked=0, products=494.7e12)
    assert product.seconds(gpu, "tf32") == pytest.approx(1)
    assert product.seconds(gpu, "16 bit") == pytest.approx(3)
    both = roofline.Kernel(name="both", programs=1, moved=0, asked=0, products=66.9e12, vector=66.9e12)
    assert both.seconds(gpu, "ieee") == pytest.approx(2)
    assert roofline.seconds([copy, product], gpu, "tf32") == pytest.approx(2)


def test_what_the_released_path_does_with_a_weight(roofline: ModuleType) -> None:
    s, more = (roofline.Stage("1", 1, B=2, H=16, W=16, M=3, D=24, F=64, K=9, P=P, table=1) for P in (1000, 2000))
    before, after = (roofline.released_attention(stage, autocast=False) for stage in (s, more))
    added = 4 * (more.pooled_logits - s.pooled_logits)
    # Written by the product, read and written by sum, concatenation and softmax, read by the second product: 8. Bias of
    # all pairs, written and read for one image of two, from an index of 8 bytes for all heads. Pooled keys and values.
    forward = 8 + 1 + 8 / (4 * 2 * 3) + 2 * 24 / 256
    assert (roofline.moved(after[0]) - roofline.moved(before[0])) / added == pytest.approx(forward)
    # Softmax weights, pooled keys and values.
    assert (roofline.moved(after[2]) - roofline.moved(before[2])) / added == pytest.approx(1 + 2 * 24 / 256)


def test_prints_all_tables(roofline: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    roofline.main("transnext_pico")
    printed = capsys.readouterr().out
    assert printed.count("\n## ") + printed.startswith("## ") == 3
    assert "nan" not in printed
