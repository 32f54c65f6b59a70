"""The Linear of training and the position bias' MLP: results and gradients against PyTorch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.attention_cases import threads
from tests.helpers.error_budget import check_with_gradients, random_leaves, with_gradients
from transnext.ops.bias_table import position_bias_table
from transnext.ops.products import linear

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned_memory", "instruction_set")


def table_of_modules(rows: Tensor, columns: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
    return F.linear(F.linear(grid, w1, b1).relu(), w2, b2).permute(2, 0, 1)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 9), max_size=3),
    K=st.integers(1, 90),
    N=st.integers(1, 90),
    with_bias=st.booleans(),
    num_threads=st.integers(1, 2),
)
def test_linear_of_any_shape(shape: list[int], K: int, N: int, with_bias: bool, num_threads: int) -> None:
    x, weight, bias = random_leaves((*shape, K), (N, K), (N,))
    with threads(num_threads):
        check_with_gradients(linear, F.linear, [x, weight, bias if with_bias else None])


@pytest.mark.parametrize(
    ("rows", "K", "N"), [(1000, 72, 384), (700, 500, 40), (257, 16, 16), (256, 17, 33), (3, 800, 5)]
)
def test_long_sums(rows: int, K: int, N: int) -> None:
    check_with_gradients(linear, F.linear, list(random_leaves((rows, K), (N, K), (N,))))


@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)])
def test_only_the_gradients_that_are_wanted(wanted: tuple[int, int, int]) -> None:
    inputs = [
        t.requires_grad_(bool(want)) for t, want in zip(random_leaves((20, 9), (30, 9), (30,)), wanted, strict=True)
    ]
    check_with_gradients(linear, F.linear, list(inputs))


def test_strides_do_not_matter() -> None:
    x, weight, grad = torch.randn(12, 7).t(), torch.randn(12, 9).t(), torch.randn(9, 7).t()
    x, weight = x.requires_grad_(), weight.requires_grad_()
    found = torch.autograd.grad(linear(x, weight, None), (x, weight), grad)
    expected = torch.autograd.grad(F.linear(x, weight), (x, weight), grad)
    torch.testing.assert_close(found, expected)


def test_the_same_for_every_number_of_threads() -> None:
    inputs = list(random_leaves((600, 40), (70, 40), (70,)))
    found = []
    for num_threads in (1, 2, 3):
        with threads(num_threads):
            found.append(with_gradients(linear, inputs, torch.ones(600, 70)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_empty_batch() -> None:
    x, weight, bias = random_leaves((0, 4), (6, 4), (6,))
    linear(x, weight, bias).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (0, 4)
    assert weight.grad is not None
    assert not weight.grad.any()
    assert bias.grad is not None
    assert not bias.grad.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value: float) -> None:
    x, weight, bias = random_leaves((5, 4), (6, 4), (6,))
    with torch.no_grad():
        x[2, 1] = value
    for f, e in zip(
        with_gradients(linear, [x, weight, bias], torch.ones(5, 6)),
        with_gradients(F.linear, [x, weight, bias], torch.ones(5, 6)),
        strict=True,
    ):
        torch.testing.assert_close(f, e, equal_nan=True)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        ((3, 4), (5, 6), (5,), r"x \(3, 4\) and weight \(5, 6\)"),
        ((3, 4), (5, 4), (4,), r"bias has shape \(4,\)"),
        ((), (5, 4), (5,), r"x \(\)"),
    ],
)
def test_shapes_that_do_not_fit(
    x: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        linear(torch.zeros(x), torch.zeros(weight), torch.zeros(bias))
    with pytest.raises(ValueError, match=r"weight is torch.float64 on cpu"):
        linear(torch.zeros(3, 4), torch.zeros(5, 4, dtype=torch.float64), None)


def test_second_derivatives() -> None:
    inputs = [t.double().detach().float().requires_grad_() for t in random_leaves((4, 3), (5, 3), (5,))]

    def penalty(function) -> list[Tensor]:
        gradients = torch.autograd.grad(function(*inputs).pow(2).sum(), inputs, create_graph=True)
        return list(torch.autograd.grad(sum(g.pow(2).sum() for g in gradients), inputs))

    torch.testing.assert_close(penalty(linear), penalty(F.linear), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    hidden=st.integers(1, 40),
    M=st.integers(1, 9),
    num_threads=st.integers(1, 2),
)
def test_gradients_of_bias_table(rows: int, columns: int, hidden: int, M: int, num_threads: int) -> None:
    u, v, *parameters = random_leaves((rows,), (columns,), (hidden, 2), (hidden,), (M, hidden), (M,))
    with threads(num_threads):
        check_with_gradients(position_bias_table, table_of_modules, [u.detach(), v.detach(), *parameters])


def test_all_derivatives_of_bias_table() -> None:
    inputs = random_leaves((4,), (5,), (6, 2), (6,), (3, 6), (3,))
    weight = torch.randn(3, 4, 5)
    for f, e in zip(
        with_gradients(position_bias_table, [*inputs], weight),
        with_gradients(table_of_modules, [*inputs], weight),
        strict=True,
    ):
        torch.testing.assert_close(f, e)
