"""The convolutional GLU of training: result and gradients against its definition in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.attention_cases import threads
from tests.helpers.error_budget import check_with_gradients, random_leaves, with_gradients
from transnext.ops.products import conv_glu_training
from transnext.ops.reference import conv_glu

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned_memory", "instruction_set")


def inputs_of(B: int, H: int, W: int, C: int, hidden: int) -> list[Tensor]:
    shapes = ((B, H, W, C), (2 * hidden, C), (2 * hidden,), (hidden, 1, 3, 3), (hidden,), (C, hidden), (C,))
    fan_in = (1, C, 1, 9, 1, hidden, 1)
    return [(t.detach() / n**0.5).requires_grad_() for t, n in zip(random_leaves(*shapes), fan_in, strict=True)]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    B=st.integers(1, 3),
    H=st.integers(1, 9),
    W=st.integers(1, 9),
    C=st.integers(1, 40),
    hidden=st.integers(1, 40),
    with_biases=st.booleans(),
    num_threads=st.integers(1, 3),
)
def test_any_shape(B: int, H: int, W: int, C: int, hidden: int, with_biases: bool, num_threads: int) -> None:
    x, w1, b1, w, b, w2, b2 = inputs_of(B, H, W, C, hidden)
    biases = (b1, b, b2) if with_biases else (None, None, None)
    with threads(num_threads):
        check_with_gradients(conv_glu_training, conv_glu, [x, w1, biases[0], w, biases[1], w2, biases[2]])


@pytest.mark.parametrize(
    ("H", "W"), [(14, 14), (41, 30), (3, 250), (2, 201), (201, 1), (5, 100), (7, 67)], ids=lambda n: str(n)
)
def test_strips_of_rows(H: int, W: int) -> None:
    check_with_gradients(conv_glu_training, conv_glu, list(inputs_of(2, H, W, 12, 20)))


def test_only_the_gradients_that_are_wanted() -> None:
    inputs = inputs_of(2, 4, 5, 6, 7)
    for frozen in range(len(inputs)):
        some = [t.detach().requires_grad_(i != frozen) for i, t in enumerate(inputs)]
        check_with_gradients(conv_glu_training, conv_glu, list(some))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_same_from_run_to_run(num_threads: int) -> None:
    inputs, weight = list(inputs_of(5, 20, 13, 24, 40)), torch.randn(5, 20, 13, 24)
    with threads(num_threads):
        first, second = (with_gradients(conv_glu_training, inputs, weight) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_empty_batch() -> None:
    inputs = inputs_of(0, 4, 5, 6, 7)
    conv_glu_training(*inputs).sum().backward()
    assert all(t.grad is not None and t.grad.shape == t.shape and not t.grad.any() for t in inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value: float) -> None:
    inputs = inputs_of(1, 5, 6, 4, 9)
    with torch.no_grad():
        inputs[0][0, 2, 3, 1] = value
    weight = torch.ones(1, 5, 6, 4)
    found, expected = (with_gradients(f, list(inputs), weight) for f in (conv_glu_training, conv_glu))
    for f, e in zip(found, expected, strict=True):
        assert torch.equal(f.isfinite(), e.isfinite())
        torch.testing.assert_close(f.where(f.isfinite(), torch.zeros(())), e.where(e.isfinite(), torch.zeros(())))


def test_mistakes_name_the_argument() -> None:
    inputs = [t.detach() for t in inputs_of(1, 4, 5, 6, 7)]
    with pytest.raises(ValueError, match=r"fc2_weight has shape \(6, 8\): expected \(6, 7\)"):
        conv_glu_training(*inputs[:5], torch.zeros(6, 8), inputs[6])
    with pytest.raises(ValueError, match=r"x is torch.float64 on cpu"):
        conv_glu_training(inputs[0].double(), *inputs[1:])
    with pytest.raises(ValueError, match=r"x has shape \(4, 5, 6\)"):
        conv_glu_training(inputs[0][0], *inputs[1:])


def test_second_derivatives() -> None:
    inputs = inputs_of(1, 3, 3, 4, 5)

    def penalty(function) -> list[Tensor]:
        gradients = torch.autograd.grad(function(*inputs).pow(2).sum(), inputs, create_graph=True)
        return list(torch.autograd.grad(sum(g.pow(2).sum() for g in gradients), inputs))

    torch.testing.assert_close(penalty(conv_glu_training), penalty(conv_glu), rtol=1e-3, atol=1e-3)
