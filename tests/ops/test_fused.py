"""Inference in one pass against PyTorch's modules in float64.

The budget is that of the design: at most twice the error of the modules in float32, with one rounding at the end where
maps have 16 bits.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers.attention_cases import threads
from tests.helpers.error_budget import Function, check_tensor
from transnext.ops.bias_table import position_bias_table
from transnext.ops.pooling import adaptive_average_pool
from transnext.ops.products import (
    Norm,
    PackedLinear,
    conv_glu,
    norm_linear,
    pack_linear,
    panel_width,
)

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned_memory", "instruction_set")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
dtypes = st.sampled_from(DTYPES)


def check_against_modules(found: Tensor, of_modules: Function, *maps: Tensor) -> None:
    """Holds `found` to the budget; `of_modules` gives the result of maps in their dtype, float32 or float64."""
    exact = of_modules(*(t.double() for t in maps))
    plain = of_modules(*(t.float() for t in maps)).to(found.dtype)
    assert found.dtype == maps[0].dtype
    check_tensor(found, plain, exact)


def randomised(module: nn.Module) -> nn.Module:
    """The module in float64, with random parameters that float32 holds exactly."""
    for p in module.parameters():
        nn.init.normal_(p, std=1.0 if p.ndim < 2 else p[0].numel() ** -0.5)
    return module.double().requires_grad_(False)


def norm_of(module: nn.LayerNorm) -> Norm:
    return Norm(module.weight.float(), module.bias.float(), module.eps)


def in_dtype(module: nn.Module, x: Tensor) -> Tensor:
    """The module's result in the dtype of `x`; its parameters are float64."""
    out: Tensor = torch.func.functional_call(
        module, {name: p.to(x.dtype) for name, p in module.named_parameters()}, (x,)
    )
    return out


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 5), max_size=3),
    K=st.integers(1, 90),
    N=st.integers(1, 90),
    with_norm=st.booleans(),
    with_bias=st.booleans(),
    last=st.sampled_from(["nothing", "residual", "gelu"]),
    gelu_share=st.floats(0, 1),
    dtype=dtypes,
)
def test_norm_linear_of_any_shape(
    shape: list[int], K: int, N: int, with_norm: bool, with_bias: bool, last: str, gelu_share: float, dtype: torch.dtype
) -> None:
    gelu_from = round(gelu_share * N) if last == "gelu" else None
    check_norm_linear((*shape, K), N, with_norm, with_bias, last == "residual", gelu_from, dtype)


def check_norm_linear(
    shape: tuple[int, ...],
    N: int,
    with_norm: bool = True,
    with_bias: bool = True,
    with_residual: bool = False,
    gelu_from: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    torch.manual_seed(0)
    norm, linear = randomised(nn.LayerNorm(shape[-1])), randomised(nn.Linear(shape[-1], N, bias=with_bias))
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(linear, nn.Linear)
    x = torch.randn(shape).to(dtype)
    residual = torch.randn(*shape[:-1], N).to(dtype)

    def of_modules(x: Tensor, residual: Tensor) -> Tensor:
        y = in_dtype(linear, in_dtype(norm, x) if with_norm else x)
        if gelu_from is not None:
            y = torch.cat((y[..., :gelu_from], F.gelu(y[..., gelu_from:])), -1)
        return y + residual if with_residual else y

    packed = pack_linear(linear.weight, linear.bias)
    found = norm_linear(x, norm_of(norm) if with_norm else None, packed, residual if with_residual else None, gelu_from)
    check_against_modules(found, of_modules, x, residual)


@pytest.mark.parametrize("around", [-1, 0, 1])
@pytest.mark.parametrize("panels", [1, 2])
def test_gelu_begins_around_the_edge_of_a_panel(around: int, panels: int) -> None:
    edge = panel_width() * panels
    check_norm_linear((13, 7), edge, gelu_from=edge + around)
    check_norm_linear((13, 7), 3 * panel_width() + 5, gelu_from=edge + around)
    check_norm_linear((13, 7), edge + around, gelu_from=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_deep_products_and_many_rows(dtype: torch.dtype) -> None:
    """Deeper than the block of the product that stays in cache, and more rows than a strip holds."""
    check_norm_linear((5, 1000), 40, gelu_from=17, dtype=dtype)
    check_norm_linear((900, 200), 9, with_norm=False, with_residual=True, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_any_strides(dtype: torch.dtype) -> None:
    linear = pack_linear(torch.randn(20, 12), torch.randn(20))
    x, residual = torch.randn(4, 6, 12).to(dtype), torch.randn(4, 6, 20).to(dtype)
    expected = norm_linear(x, None, linear, residual)
    first = [t.transpose(0, 2).contiguous().transpose(0, 2) for t in (x, residual)]
    assert torch.equal(norm_linear(first[0], None, linear, first[1]), expected)
    assert torch.equal(norm_linear(torch.cat((x, x), -1)[..., :12], None, linear, residual), expected)


def test_norm_of_large_means() -> None:
    """The difference of large means, which squares of the values themselves would lose."""
    norm = Norm(torch.ones(64), torch.zeros(64), 1e-6)
    x = 1000 + torch.randn(8, 64)
    found = norm_linear(x, norm, pack_linear(torch.eye(64), None))
    torch.testing.assert_close(found, F.layer_norm(x.double(), (64,), eps=1e-6).float(), rtol=1e-3, atol=1e-3)


def test_padding_of_packed_weights() -> None:
    width = panel_width()
    weight, bias = torch.randn(width + 3, 5), torch.randn(width + 3)
    packed = pack_linear(weight, bias)
    assert packed.panels.shape == (2, 5, width)
    assert packed.out_features == width + 3
    assert torch.equal(packed.panels.transpose(1, 2).flatten(0, 1)[: width + 3], weight)
    assert torch.equal(packed.bias[: width + 3], bias)
    assert (packed.panels[1, :, 3:] == 0).all()
    assert (packed.bias[width + 3 :] == 0).all()
    assert (pack_linear(weight, None).bias == 0).all()
    half = pack_linear(weight.bfloat16(), bias.bfloat16())
    assert half.panels.dtype == half.bias.dtype == torch.float32
    assert torch.equal(half.panels, pack_linear(weight.bfloat16().float(), None).panels)


def test_panels_of_other_kernels_are_refused() -> None:
    packed = pack_linear(torch.randn(8, 5), None)
    panels = F.pad(packed.panels, (0, 1))
    with pytest.raises((ValueError, RuntimeError), match="panels"):
        norm_linear(torch.randn(2, 5), None, packed._replace(panels=panels))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    B=st.integers(1, 2),
    H=st.integers(1, 12),
    W=st.integers(1, 9),
    C=st.integers(1, 40),
    hidden=st.integers(1, 40),
    with_bias=st.booleans(),
    dtype=dtypes,
    num_threads=st.integers(1, 2),
)
def test_conv_glu_of_any_shape(
    B: int, H: int, W: int, C: int, hidden: int, with_bias: bool, dtype: torch.dtype, num_threads: int
) -> None:
    check_conv_glu(B, H, W, C, hidden, with_bias, dtype, num_threads)


def check_conv_glu(
    B: int, H: int, W: int, C: int, hidden: int, with_bias: bool, dtype: torch.dtype, num_threads: int = 1
) -> None:
    torch.manual_seed(0)
    norm, fc1, fc2 = nn.LayerNorm(C), nn.Linear(C, 2 * hidden), nn.Linear(hidden, C)
    conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=with_bias)
    for module in (norm, fc1, conv, fc2):
        randomised(module)
    x = torch.randn(B, H, W, C).to(dtype)

    def of_modules(x: Tensor) -> Tensor:
        a, g = in_dtype(fc1, in_dtype(norm, x)).chunk(2, -1)
        a = in_dtype(conv, a.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + in_dtype(fc2, F.gelu(a) * g)

    packed = pack_linear(fc1.weight, fc1.bias), pack_linear(fc2.weight, fc2.bias)
    weight, bias = conv.weight.float(), None if conv.bias is None else conv.bias.float()
    with threads(num_threads):
        found = conv_glu(x, norm_of(norm), packed[0], weight, bias, packed[1])
    check_against_modules(found, of_modules, x)


@pytest.mark.parametrize(("B", "H", "W", "C", "panels", "num_threads"), [(1, 5, 7, 12, 2, 2), (1, 14, 14, 9, 5, 2)])
def test_channels_are_shared_out_where_rows_are_few(
    B: int, H: int, W: int, C: int, panels: int, num_threads: int
) -> None:
    """It is the same product of the same numbers, so that the result does not depend on the number of threads."""
    hidden = panels * panel_width()
    check_conv_glu(B, H, W, C, hidden, True, torch.float32, num_threads)
    x, norm, fc1, weight, fc2 = few_rows(B, H, W, C, hidden)
    found = []
    for n in (1, num_threads, 3):
        with threads(n):
            found.append(conv_glu(x, norm, fc1, weight, None, fc2))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("H", "W"), [(1, 1), (3, 4), (7, 7), (9, 11)])
def test_small_images_are_one_product(H: int, W: int, num_threads: int) -> None:
    """A batch of them, whose weights are read once and not for each; an image alone gives the same numbers."""
    x, norm, fc1, weight, fc2 = few_rows(5, H, W, 12, 4 * panel_width())
    with threads(num_threads):
        together = conv_glu(x, norm, fc1, weight, None, fc2)
    for i in range(5):
        assert torch.equal(conv_glu(x[i : i + 1], norm, fc1, weight, None, fc2)[0], together[i])


def test_a_large_batch_of_small_images() -> None:
    """More than a thread can keep of its input: some images at a time, the last ones fewer."""
    x, norm, fc1, weight, fc2 = few_rows(11, 7, 7, 1000, 2 * panel_width())
    together = conv_glu(x, norm, fc1, weight, None, fc2)
    for i in (0, 4, 5, 10):
        assert torch.equal(conv_glu(x[i : i + 1], norm, fc1, weight, None, fc2)[0], together[i])


def few_rows(B: int, H: int, W: int, C: int, hidden: int) -> tuple[Tensor, Norm, PackedLinear, Tensor, PackedLinear]:
    x, fc1, fc2 = torch.randn(B, H, W, C), torch.randn(2 * hidden, C), torch.randn(C, hidden)
    norm = Norm(torch.randn(C), torch.randn(C), 1e-6)
    return x, norm, pack_linear(fc1, None), torch.randn(hidden, 1, 3, 3), pack_linear(fc2, None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("H", "W", "C", "hidden"),
    [(1, 1, 1, 1), (1, 1, 33, 65), (40, 1, 9, 8), (1, 60, 5, 7), (40, 40, 6, 60)],  # the last one in several strips
)
def test_conv_glu(dtype: torch.dtype, H: int, W: int, C: int, hidden: int) -> None:
    check_conv_glu(1, H, W, C, hidden, True, dtype)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    B=st.integers(1, 2),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    pool=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    C=st.integers(1, 40),
    dtype=dtypes,
    strided=st.booleans(),
)
def test_pooling_of_any_shape(
    B: int, size: tuple[int, int], pool: tuple[int, int], C: int, dtype: torch.dtype, strided: bool
) -> None:
    x = torch.randn(B, *size, C + 3).to(dtype)
    x = x[..., 3:] if strided else x[..., 3:].contiguous()

    def of_modules(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1)

    check_against_modules(adaptive_average_pool(x, pool), of_modules, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pooling_of_a_channels_first_map(dtype: torch.dtype) -> None:
    x = torch.randn(2, 7, 6, 5).to(dtype)
    first = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not first.is_contiguous()
    assert torch.equal(adaptive_average_pool(first, (3, 2)), adaptive_average_pool(x, (3, 2)))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 70),
    hidden=st.integers(1, 200),
    M=st.integers(1, 9),
    num_threads=st.integers(1, 2),
)
def test_bias_table_of_any_shape(rows: int, columns: int, hidden: int, M: int, num_threads: int) -> None:
    torch.manual_seed(0)
    fc1, fc2 = nn.Linear(2, hidden), nn.Linear(hidden, M)
    for module in (fc1, fc2):
        randomised(module)
    y, x = torch.randn(rows), torch.randn(columns)

    def of_modules(y: Tensor, x: Tensor) -> Tensor:
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)
        return in_dtype(fc2, F.relu(in_dtype(fc1, grid))).permute(2, 0, 1)

    weights = (fc1.weight.float(), fc1.bias.float(), fc2.weight.float(), fc2.bias.float())
    with threads(num_threads):
        found = position_bias_table(y, x, *weights)
    check_against_modules(found, of_modules, y, x)


def test_bias_table_of_any_strides_and_nothing() -> None:
    y, x, w1, b1, w2, b2 = (
        torch.randn(4),
        torch.randn(7),
        torch.randn(9, 2),
        torch.randn(9),
        torch.randn(3, 9),
        torch.randn(3),
    )
    expected = position_bias_table(y, x, w1, b1, w2, b2)
    strided = [t.repeat_interleave(2, -1)[..., ::2] for t in (y, x, w1, b1, w2, b2)]
    assert torch.equal(position_bias_table(*strided), expected)
    assert position_bias_table(y[:0], x, w1, b1, w2, b2).shape == (3, 0, 7)


def test_empty_batch() -> None:
    fc1, fc2 = pack_linear(torch.randn(8, 6), None), pack_linear(torch.randn(6, 4), None)
    norm = Norm(torch.ones(6), torch.zeros(6), 1e-6)
    x = torch.randn(0, 3, 4, 6)
    assert norm_linear(x, norm, fc1).shape == (0, 3, 4, 8)
    assert conv_glu(x, norm, fc1, torch.randn(4, 1, 3, 3), None, fc2).shape == x.shape
    assert adaptive_average_pool(x, (2, 2)).shape == (0, 2, 2, 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value: float) -> None:
    """What is not finite spreads over its pixel, its neighbours or its bin, and no further."""
    fc1, fc2 = pack_linear(torch.randn(8, 6), None), pack_linear(torch.randn(6, 4), None)
    norm = Norm(torch.ones(6), torch.zeros(6), 1e-6)
    x = torch.randn(1, 5, 6, 6)
    x[0, 1, 4, 2] = value
    hit = torch.zeros(1, 5, 6, dtype=torch.bool)
    hit[0, 1, 4] = True
    assert torch.equal(norm_linear(x, norm, fc1).isnan().all(-1), hit)
    hit[0, 0:3, 3:6] = True
    out = conv_glu(x, norm, fc1, torch.randn(4, 1, 3, 3), None, fc2)
    assert torch.equal(out.isnan().any(-1), hit)
    pooled = adaptive_average_pool(x, (5, 2))
    assert (~pooled.isfinite()).nonzero().tolist() == [[0, 1, 1, 2]]


OPS = torch.ops.transnext


def test_opcheck() -> None:
    x = torch.randn(2, 3, 4, 10)
    norm = Norm(torch.randn(10), torch.randn(10), 1e-5)
    fc, fc1, fc2 = (pack_linear(torch.randn(shape), None) for shape in ((5, 10), (6, 10), (10, 3)))
    residual = torch.randn(2, 3, 4, 5)
    for op, *arguments in (
        (OPS.norm_linear.default, x, *norm, fc.panels, fc.bias, 5, 3, None),
        (OPS.norm_linear.default, x, None, None, 0.0, fc.panels, fc.bias, 5, 5, residual),
        (
            OPS.conv_glu.default,
            x,
            *norm,
            *fc1[:2],
            torch.randn(3, 1, 3, 3),
            torch.randn(3),
            *fc2[:2],
        ),
        (OPS.adaptive_average_pool.default, x, 2, 3),
        (OPS.position_bias_table.default, *(torch.randn(shape) for shape in ((3,), (5,), (8, 2), (8,), (2, 8), (2,)))),
    ):
        assert set(torch.library.opcheck(op, tuple(arguments)).values()) == {"SUCCESS"}
