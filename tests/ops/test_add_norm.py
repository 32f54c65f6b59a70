"""Residual sum and LayerNorm as one kernel for GPUs, interpreted, against the definition in float64."""

import pytest
import torch

from tests.helpers.error_budget import check_budget
from tests.helpers.pass_cases import add_norm_inputs as arguments
from tests.helpers.pass_cases import add_norm_results as results
from tests.helpers.pass_cases import random
from transnext.ops import reference
from transnext.ops.add_norm import add_layer_norm

pytest.importorskip("triton")

from transnext.ops.triton import add_norm

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned_memory", "interpreted_kernels")

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16

CASES = {
    "one number": ((1, 1), {}),
    "one row": ((1, 24), {}),
    "rows of an odd length": ((3, 5, 7), {"bias": False}),
    "stage 1": ((2, 5, 7, 72), {}),
    "rows longer than a tile": ((3, 2100), {"bias": False}),
    "a mean far larger than the deviation": ((5, 40), {"offset": 1000.0}),
}
DTYPES = {"fp32": (F32, F32, F32), "bf16": (BF16, BF16, BF16), "fp16": (F16, F16, F16), "autocast": (F32, BF16, BF16)}


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, kind: str) -> None:
    shape, options = CASES[case]
    of_x, of_branch, of_norm = DTYPES[kind]
    tensors = arguments(*shape, **options)
    parameters = of_x if kind != "autocast" else F32
    dtypes = {"x": of_x, "branch": of_branch, "weight": parameters, "bias": parameters}
    tensors = {name: t.to(dtypes[name]) for name, t in tensors.items()}
    plain = results(reference.add_layer_norm, tensors, of_norm)
    exact = results(reference.add_layer_norm, {name: t.double() for name, t in tensors.items()}, torch.float64)
    # The interpreter cuts off to bfloat16 instead of rounding; the sum, rounded once more or less, decides the norm.
    check_budget(results(add_layer_norm, tensors, of_norm), plain, exact, [], times=5 if BF16 in DTYPES[kind] else 2)


def test_many_tiles_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(add_norm, "MAX_PROGRAMS", 2)
    tensors = {name: t.float() for name, t in arguments(150, 72).items()}
    plain, exact = (results(reference.add_layer_norm, t, t["x"].dtype) for t in (tensors, arguments(150, 72)))
    check_budget(results(add_layer_norm, tensors, F32), plain, exact, [])


def test_the_norm_is_that_of_the_sum_as_it_was_rounded() -> None:
    tensors = {name: t.bfloat16() for name, t in arguments(4, 24).items()}
    total, normed = add_layer_norm(*tensors.values(), 1e-6, BF16)
    wide = reference.layer_norm(total.double(), tensors["weight"], tensors["bias"], 1e-6, torch.float64)
    assert (normed.double() - wide).abs().max() <= 2**-7 * wide.abs().max()
    assert total.dtype == normed.dtype == BF16


def test_gradient_by_its_formula() -> None:
    """The one that is differentiated, against autograd's of the definition."""
    x, branch, weight, bias = (t.requires_grad_() for t in arguments(3, 4, 5).values())
    total, normed = reference.add_layer_norm(x, branch, weight, bias, 1e-6, torch.float64)
    grads = random(3, 4, 5, seed=6), random(3, 4, 5, seed=7)
    expected = torch.autograd.grad((total, normed), (x, weight, bias), grads)
    found = reference.add_layer_norm_gradient(*grads, total, weight, bias, 1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_gradient_of_the_gradient() -> None:
    found = []
    for function in (add_layer_norm, reference.add_layer_norm):
        leaves = [t.float().requires_grad_() for t in arguments(3, 5).values()]
        total, normed = function(*leaves, 1e-6, F32)
        first = torch.autograd.grad((total.sin() * normed).square().sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_only_what_is_wanted() -> None:
    """The sum, or the norm, may be used alone, and parameters may be frozen."""
    for used in ((1.0, 0.0), (0.0, 1.0)):
        for frozen in ((), ("weight",), ("bias", "x"), *([("x", "branch")] if used[1] else [])):
            found = []
            for function in (add_layer_norm, reference.add_layer_norm):
                leaves = {name: t.float().requires_grad_(name not in frozen) for name, t in arguments(3, 5).items()}
                total, normed = function(*leaves.values(), 1e-6, F32)
                out = used[0] * total.sin() if used[0] else normed.sin()
                wanted = [t for name, t in leaves.items() if name not in frozen]
                found.append(torch.autograd.grad(out.sum(), wanted, allow_unused=True))
            for f, expected in zip(*found, strict=True):
                torch.testing.assert_close(torch.zeros(5) if f is None else f, f if expected is None else expected)


def test_strides_and_every_configuration() -> None:
    tensors = {name: t.float() for name, t in arguments(2, 3, 24).items()}
    expected = results(add_layer_norm, tensors, F32)
    strided = {name: torch.stack((t, -t), -1)[..., 0] for name, t in tensors.items()}
    assert all(map(torch.equal, results(add_layer_norm, strided, F32).values(), expected.values()))
    for config in list(add_norm.FORWARD.configs):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(add_norm.FORWARD, "configs", [config])
            torch.testing.assert_close(results(add_layer_norm, tensors, F32), expected)


def test_empty_and_unlike() -> None:
    total, normed = add_layer_norm(torch.empty(0, 4), torch.empty(0, 4), torch.ones(4), None, 1e-6, F32)
    assert total.shape == normed.shape == (0, 4)
    gradients = add_norm.backward(total, normed, total, torch.ones(4), torch.ones(4), 1e-6)
    assert all(not g.any() for g in gradients)
    with pytest.raises(ValueError, match=r"\(2, 4\) and branch \(1, 4\)"):
        add_norm.forward(torch.ones(2, 4), torch.ones(1, 4), torch.ones(4), None, 1e-6, F32)
