"""Products of bfloat16 numbers: of inference and of training, against float64, by each kind of instruction.

Processors that lack an instruction run its emulation, with the same tiles, panels and packing around it. The budget is
twice the error of PyTorch under autocast to bfloat16.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.attention_cases import threads
from tests.helpers.error_budget import check_tensor, with_gradients
from transnext.ops import bfloat16, depthwise_conv_gelu_gate, reference
from transnext.ops.bfloat16 import multiplies_bfloat16, panel, use_bfloat16_products
from transnext.ops.products import Norm, conv_glu, conv_glu_training, linear, norm_linear, pack_linear
from transnext.ops.register import CPU_KERNELS

pytestmark = [
    pytest.mark.usefixtures("one_thread", "poisoned_memory"),
    pytest.mark.skipif(CPU_KERNELS is None, reason="the kernels were not built"),
]

Function = Callable[..., Tensor]
MAPS = (torch.bfloat16, torch.float32)


def floor_of(exact: Tensor) -> float:
    """Error, relative to the norm, that is allowed whatever PyTorch's: few numbers may be rounded by luck."""
    return 2**-7 / math.sqrt(max(1, exact.numel()))


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def check_norm_linear(
    rows: int,
    K: int,
    N: int,
    dtype: torch.dtype,
    *,
    with_norm: bool = True,
    with_residual: bool = False,
    gelu_from: int | None = None,
) -> None:
    x, residual = normal(rows, K, seed=rows).to(dtype), normal(rows, N, seed=1).to(dtype)
    weight, bias = normal(N, K, seed=2, scale=K**-0.5), normal(N, seed=3)
    norm = Norm(normal(K, seed=4), normal(K, seed=5), 1e-6) if with_norm else None

    def of_modules(x: Tensor, kind: torch.dtype) -> Tensor:
        parameters = None if norm is None else (norm.weight.to(kind), norm.bias.to(kind), norm.eps)
        shape = weight.to(kind), bias.to(kind), residual.to(kind) if with_residual else None, gelu_from
        return reference.norm_linear(x.to(kind), parameters, *shape)

    packed = pack_linear(weight, bias, in_bfloat16=True)
    found = norm_linear(x, norm, packed, residual if with_residual else None, gelu_from)
    exact = of_modules(x, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        plain = of_modules(x, torch.float32).to(dtype)
    assert found.dtype == dtype
    check_tensor(found, plain, exact, floor_of(exact))


@pytest.mark.usefixtures("bfloat16_products", "instruction_set")
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    rows=st.integers(1, 40),
    K=st.integers(1, 90),
    N=st.integers(1, 90),
    with_norm=st.booleans(),
    last=st.sampled_from(["nothing", "residual", "gelu"]),
    gelu_share=st.floats(0, 1),
    dtype=st.sampled_from(MAPS),
)
def test_norm_linear_of_any_shape(
    rows: int, K: int, N: int, with_norm: bool, last: str, gelu_share: float, dtype: torch.dtype
) -> None:
    gelu_from = round(gelu_share * N) if last == "gelu" else None
    check_norm_linear(
        rows, K, N, dtype, with_norm=with_norm and K > 1, with_residual=last == "residual", gelu_from=gelu_from
    )


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("dtype", MAPS)
@pytest.mark.parametrize(
    ("rows", "K", "N"),
    [
        (33, 1000, 40),  # several blocks of the depth, of which the last is not whole
        (900, 200, 9),  # several strips of rows
        (16, 384, 32),  # whole tiles and panels
        (17, 385, 33),
        (12, 768, 64),
        (13, 769, 65),
        (48, 31, 31),
    ],
)
def test_blocks_strips_and_what_is_left_of_them(rows: int, K: int, N: int, dtype: torch.dtype) -> None:
    check_norm_linear(rows, K, N, dtype, with_residual=True)
    check_norm_linear(rows, K, N, dtype, with_norm=False, gelu_from=N // 2)


@pytest.mark.usefixtures("bfloat16_products")
def test_every_number_of_rows_of_a_tile() -> None:
    for rows in range(1, 68):
        check_norm_linear(rows, 9, 35, torch.bfloat16, gelu_from=34)


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("around", [-1, 0, 1])
def test_gelu_begins_around_the_edge_of_a_panel_or_vector(around: int) -> None:
    for edge in (16, 32, 48, 64):
        check_norm_linear(13, 7, 96, torch.bfloat16, gelu_from=edge + around)


@pytest.mark.usefixtures("bfloat16_products")
def test_packed_weights() -> None:
    """Every weight once, neighbours side by side, and zeros."""
    layout = panel()
    assert layout is not None
    weight, bias = normal(37, 41), normal(37)
    packed = pack_linear(weight, bias, in_bfloat16=True)
    depth = 42 if layout.depth == 2 else 64
    assert layout.width == 32
    assert packed.panels.shape == (2, depth // 2, 32, 2)
    assert packed.panels.dtype == torch.bfloat16
    rows = packed.panels.transpose(1, 2).reshape(64, depth)
    assert torch.equal(rows[:37, :41], weight.bfloat16())
    assert not rows[37:].any()
    assert not rows[:, 41:].any()
    assert packed.bias.tolist() == bias.tolist() + [0.0] * 27
    assert torch.equal(pack_linear(weight.bfloat16(), None, in_bfloat16=True).panels, packed.panels)


def inputs_of_glu(B: int, H: int, W: int, C: int, hidden: int) -> list[Tensor]:
    shapes = ((B, H, W, C), (2 * hidden, C), (2 * hidden,), (hidden, 1, 3, 3), (hidden,), (C, hidden), (C,))
    fan_in = (1, C, 1, 9, 1, hidden, 1)
    return [normal(*shape, seed=i, scale=n**-0.5) for i, (shape, n) in enumerate(zip(shapes, fan_in, strict=True))]


def glu_of_modules(x: Tensor, w1: Tensor, b1: Tensor, w: Tensor, b: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """By PyTorch's Linears, which autocast rounds."""
    hidden = F.linear(x, w1, b1)
    return F.linear(depthwise_conv_gelu_gate(hidden, w, b, "reference"), w2, b2)


@pytest.mark.usefixtures("bfloat16_products", "instruction_set")
@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    B=st.integers(1, 2),
    H=st.integers(1, 12),
    W=st.integers(1, 9),
    C=st.integers(2, 40),
    hidden=st.integers(1, 40),
    dtype=st.sampled_from(MAPS),
    num_threads=st.integers(1, 2),
)
def test_conv_glu_of_any_shape(
    B: int, H: int, W: int, C: int, hidden: int, dtype: torch.dtype, num_threads: int
) -> None:
    check_conv_glu(B, H, W, C, hidden, dtype, num_threads)


def check_conv_glu(B: int, H: int, W: int, C: int, hidden: int, dtype: torch.dtype, num_threads: int = 1) -> None:
    x, w1, b1, w, b, w2, b2 = inputs_of_glu(B, H, W, C, hidden)
    x, norm = x.to(dtype), Norm(normal(C, seed=8), normal(C, seed=9), 1e-6)

    def of_modules(kind: torch.dtype) -> Tensor:
        y = F.layer_norm(x.to(kind), (C,), norm.weight.to(kind), norm.bias.to(kind), norm.eps)
        return x.to(kind) + glu_of_modules(y, *(t.to(kind) for t in (w1, b1, w, b, w2, b2)))

    with threads(num_threads):
        found = conv_glu(x, norm, pack_linear(w1, b1, in_bfloat16=True), w, b, pack_linear(w2, b2, in_bfloat16=True))
    exact = of_modules(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        plain = of_modules(torch.float32).to(dtype)
    assert found.dtype == dtype
    check_tensor(found, plain, exact, floor_of(exact))


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize(("H", "W", "C", "hidden"), [(1, 1, 33, 65), (40, 1, 9, 8), (1, 60, 5, 7), (40, 40, 6, 60)])
def test_conv_glu(H: int, W: int, C: int, hidden: int) -> None:
    check_conv_glu(1, H, W, C, hidden, torch.bfloat16)


# Training


def check_gradients(function: Function, modules: Function, inputs: list[Tensor | None], of_map: torch.dtype) -> None:
    """Holds the result and all gradients to the budget; the first input is a map, which is bfloat16."""
    x, *parameters = inputs
    assert x is not None
    leaves = [
        x.detach().bfloat16().requires_grad_(x.requires_grad),
        *(None if t is None else t.detach().to(of_map).requires_grad_(t.requires_grad) for t in parameters),
    ]
    doubles = [None if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in leaves]
    weight = normal(*modules(*doubles).shape, seed=11).bfloat16()
    exact = with_gradients(modules, doubles, weight)
    with torch.autocast("cpu", torch.bfloat16):
        plain = with_gradients(modules, leaves, weight)
    found = with_gradients(function, leaves, weight)
    for f, p, e in zip(found, plain, exact, strict=True):
        # Inputs are of size 1: a sum of them that happens to be small may be off by what a large one may.
        check_tensor(f, p, e, floor_of(e), usual=float(e.norm()) + e.numel() ** 0.5)


def leaves(*tensors: Tensor) -> list[Tensor | None]:
    return [t.requires_grad_() for t in tensors]


@pytest.mark.usefixtures("bfloat16_products", "instruction_set")
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 9), max_size=3),
    K=st.integers(1, 90),
    N=st.integers(1, 90),
    with_bias=st.booleans(),
    of_parameters=st.sampled_from(MAPS),
    num_threads=st.integers(1, 2),
)
def test_linear_of_any_shape(
    shape: list[int], K: int, N: int, with_bias: bool, of_parameters: torch.dtype, num_threads: int
) -> None:
    x, weight, bias = leaves(normal(*shape, K), normal(N, K, seed=1, scale=K**-0.5), normal(N, seed=2))
    with threads(num_threads):
        check_gradients(linear, F.linear, [x, weight, bias if with_bias else None], of_parameters)


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize(
    ("rows", "K", "N"), [(1000, 72, 100), (700, 400, 40), (257, 16, 16), (255, 17, 33), (3, 800, 5)]
)
def test_long_sums(rows: int, K: int, N: int) -> None:
    inputs = leaves(normal(rows, K), normal(N, K, seed=1, scale=K**-0.5), normal(N, seed=2))
    check_gradients(linear, F.linear, inputs, torch.float32)


@pytest.mark.usefixtures("bfloat16_products", "instruction_set")
@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    B=st.integers(1, 3),
    H=st.integers(1, 9),
    W=st.integers(1, 9),
    C=st.integers(1, 40),
    hidden=st.integers(1, 40),
    with_biases=st.booleans(),
    of_parameters=st.sampled_from(MAPS),
    num_threads=st.integers(1, 3),
)
def test_conv_glu_in_training_of_any_shape(
    B: int, H: int, W: int, C: int, hidden: int, with_biases: bool, of_parameters: torch.dtype, num_threads: int
) -> None:
    x, w1, b1, w, b, w2, b2 = leaves(*inputs_of_glu(B, H, W, C, hidden))
    inputs = [x, w1, b1, w, b, w2, b2] if with_biases else [x, w1, None, w, None, w2, None]
    with threads(num_threads):
        check_gradients(conv_glu_training, glu_of_modules, inputs, of_parameters)


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize(("H", "W"), [(14, 14), (41, 30), (3, 250), (2, 201), (201, 1), (5, 100), (7, 67)])
def test_strips_of_rows_in_training(H: int, W: int) -> None:
    check_gradients(conv_glu_training, glu_of_modules, leaves(*inputs_of_glu(2, H, W, 12, 20)), torch.float32)


@pytest.mark.usefixtures("bfloat16_products")
def test_only_the_gradients_that_are_wanted() -> None:
    for wanted in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)):
        tensors = normal(20, 9), normal(30, 9, seed=1), normal(30, seed=2)
        inputs = [t.requires_grad_(bool(want)) for t, want in zip(tensors, wanted, strict=True)]
        check_gradients(linear, F.linear, list(inputs), torch.float32)


@pytest.mark.usefixtures("bfloat16_products")
def test_strides_do_not_matter() -> None:
    x, weight = normal(7, 12).bfloat16(), normal(9, 12, seed=1)
    grad = normal(7, 9, seed=2).bfloat16()

    def run(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        out = linear(x, weight, None)
        return [out.detach(), *torch.autograd.grad(out, (x, weight), grad)]

    expected = run(x, weight, grad)
    found = run(*(t.t().contiguous().t() for t in (x, weight, grad)))
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
    packed = pack_linear(weight, None, in_bfloat16=True)
    assert torch.equal(norm_linear(torch.cat((x, x), 1)[:, :12], None, packed), norm_linear(x, None, packed))


@pytest.mark.usefixtures("bfloat16_products")
def test_the_same_for_every_number_of_threads() -> None:
    x = normal(600, 40).bfloat16().requires_grad_()
    inputs = [x, *leaves(normal(70, 40, seed=1), normal(70, seed=2))]
    packed = pack_linear(inputs[1], inputs[2], in_bfloat16=True)  # type: ignore[arg-type]
    found = []
    for num_threads in (1, 2, 3):
        with threads(num_threads):
            of_training = with_gradients(linear, inputs, torch.ones(600, 70))
            found.append([*of_training, norm_linear(x.detach(), None, packed)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.usefixtures("bfloat16_products")
def test_second_derivatives() -> None:
    """Those of the definition, in the dtypes of the inputs."""
    inputs = [normal(4, 3).bfloat16().requires_grad_(), *leaves(normal(5, 3, seed=1), normal(5, seed=2))]
    gradients = torch.autograd.grad(linear(*inputs).pow(2).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.float().pow(2).sum() for g in gradients), inputs)
    assert [t.dtype for t in second] == [torch.bfloat16, torch.float32, torch.float32]
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    gradients = torch.autograd.grad(F.linear(*doubles).pow(2).sum(), doubles, create_graph=True)
    for f, e in zip(second, torch.autograd.grad(sum(g.pow(2).sum() for g in gradients), doubles), strict=True):
        assert (f - e).norm() <= 0.03 * e.norm()


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("of_parameters", MAPS)
def test_opcheck(of_parameters: torch.dtype) -> None:
    """Shapes, dtypes and gradients are as PyTorch's own checks want them, with parameters of either dtype."""
    x, *parameters = inputs_of_glu(2, 3, 4, 6, 5)
    x = x.bfloat16().requires_grad_()
    parameters = [t.to(of_parameters).requires_grad_() for t in parameters]
    norm, packed = Norm(torch.ones(6), torch.zeros(6), 1e-6), pack_linear(parameters[0], None, in_bfloat16=True)
    ops = torch.ops.transnext
    for op, *arguments in (
        (ops.linear.default, x, *parameters[:2]),
        (ops.linear_backward.default, torch.randn(2, 3, 4, 10).bfloat16(), x.detach(), parameters[0].detach(), 1, 1, 1),
        (ops.conv_glu_training.default, x, *parameters),
        (ops.norm_linear.default, x.detach(), *norm, packed.panels, packed.bias, 10, 3, None),
    ):
        assert set(torch.library.opcheck(op, tuple(arguments)).values()) == {"SUCCESS"}


# Odd numbers and nothing


@pytest.mark.usefixtures("bfloat16_products")
def test_nothing() -> None:
    fc1, fc2 = (pack_linear(normal(*shape), None, in_bfloat16=True) for shape in ((8, 6), (6, 4)))
    norm = Norm(torch.ones(6), torch.zeros(6), 1e-6)
    x = torch.randn(0, 3, 4, 6).bfloat16()
    assert norm_linear(x, norm, fc1).shape == (0, 3, 4, 8)
    assert conv_glu(x, norm, fc1, torch.randn(4, 1, 3, 3), None, fc2).shape == x.shape
    inputs = [torch.zeros(0, 4).bfloat16().requires_grad_(), *leaves(normal(6, 4), normal(6))]
    linear(*inputs).sum().backward()
    assert all(t.grad is not None and t.grad.shape == t.shape and not t.grad.any() for t in inputs)
    glu = inputs_of_glu(0, 4, 5, 6, 7)
    glu = [glu[0].bfloat16().requires_grad_(), *(t.requires_grad_() for t in glu[1:])]
    conv_glu_training(*glu).sum().backward()
    assert all(t.grad is not None and t.grad.shape == t.shape and not t.grad.any() for t in glu)


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(value: float) -> None:
    """What is not finite spreads as far as in PyTorch, and is what it is there."""
    x, weight, bias = normal(40, 35), normal(37, 35, seed=1), normal(37, seed=2)
    x[17, 33] = value
    inputs = [x.bfloat16().requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    grad = torch.ones(40, 37)
    found, expected = (with_gradients(f, list(inputs), grad) for f in (linear, reference.linear))
    for f, e in zip(found, expected, strict=True):
        assert torch.equal(f.isnan(), e.isnan())
        assert torch.equal(f.isposinf(), e.isposinf())
        assert torch.equal(f.isneginf(), e.isneginf())
    fc1, fc2 = (pack_linear(normal(*shape), None, in_bfloat16=True) for shape in ((8, 6), (6, 4)))
    norm = Norm(torch.ones(6), torch.zeros(6), 1e-6)
    m = normal(1, 5, 6, 6)
    m[0, 1, 4, 2] = value
    hit = torch.zeros(1, 5, 6, dtype=torch.bool)
    hit[0, 1, 4] = True
    assert torch.equal(norm_linear(m, norm, fc1).isnan().all(-1), hit)
    hit[0, 0:3, 3:6] = True
    out = conv_glu(m.bfloat16(), norm, fc1, torch.randn(4, 1, 3, 3), None, fc2)
    assert torch.equal(out.isnan().any(-1), hit)


@pytest.mark.usefixtures("bfloat16_products")
def test_large_sums_become_infinite_where_pytorchs_do() -> None:
    x = torch.full((3, 40), 1e38)
    found = norm_linear(x.bfloat16(), None, pack_linear(torch.ones(33, 40), None, in_bfloat16=True))
    assert found.isposinf().all()


def product_of(x: list[float], weight: list[float], bias: float = 0.0) -> float:
    """The dot product of two vectors and a bias."""
    packed = pack_linear(torch.tensor([weight]), torch.tensor([bias]), in_bfloat16=True)
    return float(norm_linear(torch.tensor([x]), None, packed))


@pytest.mark.usefixtures("bfloat16_products")
def test_numbers_below_the_normal_ones_are_zero() -> None:
    """The instructions take and give none, whatever the processor is set to."""
    assert product_of([1e-39], [1e38]) == 0
    assert product_of([1e-30], [1e-10]) == 0
    assert product_of([2.0**-126], [0.5]) == 0
    assert product_of([2.0**-126], [1.0]) == 2.0**-126


@pytest.mark.usefixtures("bfloat16_products")
def test_maps_are_rounded_to_nearest_even() -> None:
    for x, expected in (
        (1 + 2**-8, 1.0),
        (1 + 2**-8 + 2**-20, 1 + 2**-7),
        (1 + 3 * 2**-8, 1 + 2**-6),
        (-1 - 2**-8, -1.0),
        (3.4e38, math.inf),
        (2.0**-133, 0.0),
    ):
        assert product_of([x], [1.0]) == expected, x


EMULATED_ORDER = {"AVX-512 BF16, emulated": (1.0, 1.0), "AMX, emulated": (1 + 2**-23, 1 + 2**-22)}


def test_order_of_emulated_sums(bfloat16_products: str) -> None:
    """VDPBF16PS rounds after each product, upper half first; TDPBF16PS sums even and odd products apart, from zero."""
    if bfloat16_products not in EMULATED_ORDER:
        pytest.skip("processors may sum in another order than the manual's")
    two, four = EMULATED_ORDER[bfloat16_products]
    tiny = 2.0**-24
    assert product_of([tiny, tiny], [1.0, 1.0], bias=1.0) == two
    assert product_of([tiny] * 4, [1.0] * 4, bias=1.0) == four
    # 2^24 and 1 meet in one sum, which has no place for both, or do not: 2^24 - 2^24 and 1 + 1.
    assert product_of([2.0**24, 1.0, -(2.0**24), 1.0], [1.0] * 4) == (2.0 if "AMX" in bfloat16_products else 0.0)


def test_emulations_give_what_the_processor_gives(bfloat16_products: str) -> None:
    if "emulated" not in bfloat16_products:
        pytest.skip("it is no emulation")
    name = bfloat16_products.removesuffix(", emulated")
    if name not in CPU_KERNELS.bfloat16_instruction_sets():  # type: ignore[union-attr]
        pytest.skip(f"this processor has no {name}")
    x, packed = normal(50, 200), pack_linear(normal(70, 200, seed=1), normal(70, seed=2), in_bfloat16=True)
    emulated = norm_linear(x, None, packed)
    use_bfloat16_products(name)
    found = norm_linear(x, None, packed)
    use_bfloat16_products(bfloat16_products)
    torch.testing.assert_close(found, emulated, rtol=1e-5, atol=1e-4)


# The choice


def test_what_can_be_chosen() -> None:
    assert CPU_KERNELS is not None
    names = CPU_KERNELS.bfloat16_instruction_sets()
    assert names[:2] == ["AVX-512 BF16, emulated", "AMX, emulated"]
    assert set(names[2:]) <= {"AVX-512 BF16", "AMX"}
    x, wide = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)
    try:
        for name in names:
            use_bfloat16_products(name)
            assert bfloat16.bfloat16_products() == name
            assert multiplies_bfloat16(x)
            assert not multiplies_bfloat16(wide)
            assert not multiplies_bfloat16(x.half())
            with torch.autocast("cpu", torch.bfloat16):
                assert multiplies_bfloat16(wide)
                assert multiplies_bfloat16(x)
                assert not multiplies_bfloat16(x.half())
                assert not multiplies_bfloat16(wide.double())
            with torch.autocast("cpu", torch.float16):
                assert not multiplies_bfloat16(x)
        with pytest.raises(
            ValueError, match=r"cannot be multiplied by 'MMX' here: expected one of 'AVX-512 BF16, emul"
        ):
            use_bfloat16_products("MMX")
        assert bfloat16.bfloat16_products() == names[-1]
    finally:
        use_bfloat16_products(None)
    assert bfloat16.bfloat16_products() is None
    assert panel() is None
    assert not multiplies_bfloat16(x)


def test_mistakes_name_the_argument() -> None:
    x, weight = torch.zeros(3, 4).bfloat16(), torch.zeros(5, 4)
    with pytest.raises(ValueError, match=r"x is torch.bfloat16 on cpu: expected torch.float32 on the CPU"):
        linear(x, weight, None)
    use_bfloat16_products("AMX, emulated")
    try:
        with pytest.raises(
            ValueError, match=r"weight is torch.float64 on cpu: expected torch.float32 or torch.bfloat16"
        ):
            linear(x, weight.double(), None)
        with pytest.raises(ValueError, match=r"weight is torch.bfloat16 on cpu: expected torch.float32 on the CPU"):
            linear(x.float(), weight.bfloat16(), None)
        packed = pack_linear(weight, None, in_bfloat16=True)
        with pytest.raises((ValueError, RuntimeError), match="x is float16, the weights are bfloat16"):
            norm_linear(x.half(), None, packed)
        use_bfloat16_products("AVX-512 BF16, emulated")
        with pytest.raises((ValueError, RuntimeError), match="panels"):
            norm_linear(x, None, packed)
    finally:
        use_bfloat16_products(None)
    with pytest.raises((ValueError, RuntimeError), match="panels"):
        norm_linear(x, None, packed)


def chosen_by(value: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != bfloat16.VARIABLE}
    if value is not None:
        environment[bfloat16.VARIABLE] = value
    code = "from transnext.ops.bfloat16 import bfloat16_products as chosen; print(chosen())"
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_environment_variable() -> None:
    assert CPU_KERNELS is not None
    native = [name for name in CPU_KERNELS.bfloat16_instruction_sets() if "emulated" not in name]
    for value, expected in ((None, native[-1] if native else None), ("0", None), ("AMX, emulated", "AMX, emulated")):
        assert chosen_by(value).stdout.strip() == str(expected)
    wrong = chosen_by("fast")
    assert wrong.returncode != 0
    assert "TRANSNEXT_BF16 is 'fast': bfloat16 numbers cannot be multiplied by 'fast' here" in wrong.stderr
    assert wrong.stderr.rstrip().endswith(", or 0 for none")
