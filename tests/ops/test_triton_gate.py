"""The gate's kernels for GPUs, values and gradients, against the reference in float64; by Triton's interpreter.

On a GPU test_gpu.py runs the same kernels through the ops. Cases are few, and each has several peculiarities at once.
"""

import math

import pytest
import torch
from torch import Tensor

from tests.helpers.attention_cases import gate_inputs, gate_results
from tests.helpers.error_budget import check_budget

pytest.importorskip("triton")

import triton
import triton.language as tl

from transnext.ops.triton import gate
from transnext.ops.triton.kernels.gate import normal
from transnext.ops.triton.launch import Kernel, noted_launches

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned_memory", "interpreted_kernels")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
KERNELS = (gate.FORWARD, gate.GATE_GRADIENT, gate.INPUT_GRADIENT)


def check_gate(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    exact = gate_results(x.double(), weight.double(), None if bias is None else bias.double(), "reference")
    plain = gate_results(x, weight, bias, "reference")
    check_budget(gate_results(x, weight, bias, "fused"), plain, exact, [])


CASES = {
    "one row, odd channels": (1, 1, 2, 9, True),
    "images side by side in a tile, odd columns": (2, 5, 7, 35, True),
    "several strips of rows, no bias": (1, 9, 11, 3, False),
    "two rows": (3, 2, 6, 8, True),
    "one column": (2, 6, 1, 16, True),
    "several tiles of groups and of channels": (2, 9, 19, 66, True),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(case: str, dtype: torch.dtype) -> None:
    *sizes, with_bias = CASES[case]
    x, weight, bias = (t.to(dtype) for t in gate_inputs(*sizes))
    check_gate(x, weight, bias if with_bias else None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_parameters_of_16_bit_maps(dtype: torch.dtype) -> None:
    """Their gradients are sums of numbers that were not rounded."""
    x, weight, bias = (t.float() for t in gate_inputs(2, 6, 7, 24))
    x = x.to(dtype)
    check_gate(x, weight, bias)
    grad = torch.randn(2, 6, 7, 24, generator=torch.Generator().manual_seed(5)).to(dtype)
    exact = gate_results(x.double(), weight.double(), bias.double(), "reference", grad.double())
    found = gate_results(x, weight, bias, "fused", grad)
    for name in ("weight", "bias"):
        torch.testing.assert_close(found[name].double(), exact[name], rtol=1e-4, atol=1e-4)


OTHERS = [(kernel, config) for kernel in KERNELS for config in kernel.configs[1:]]


@pytest.mark.parametrize(("kernel", "config"), OTHERS, ids=[f"{k.function.__name__} {c}" for k, c in OTHERS])
def test_other_configurations(kernel: Kernel, config: triton.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "configs", [config])
    check_gate(*(t.to(torch.bfloat16) for t in gate_inputs(2, 5, 7, 40)))


@pytest.mark.parametrize(("programs", "parts"), [(1, 1), (3, 2), (10**6, 6)])
def test_shares_of_programs(programs: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One program that marches over everything, some with several pieces of work, as many as there can be.

    Three images of 5 groups a row make 2 tiles of 8 groups, and 9 rows 1, 2 or 3 strips.
    """
    monkeypatch.setattr(gate, "PROGRAMS_WANTED", programs)
    x, weight, bias = (t.float() for t in gate_inputs(3, 9, 9, 20))
    with noted_launches() as noted:
        gate.backward(x[..., :20], x, weight, bias)
    assert noted[0].kernel is gate.GATE_GRADIENT
    assert noted[0].args[6].shape == (parts, 10, 20)
    check_gate(x, weight, bias)


def test_strides() -> None:
    x, weight, bias = (t.float() for t in gate_inputs(2, 4, 5, 3))
    expected, gradients = gate.forward(x, weight, bias), gate.backward(x[..., :3], x, weight, bias)
    for other in (
        x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        torch.cat((x, x), -1)[..., :6],
        x.transpose(1, 2).contiguous().transpose(1, 2),
    ):
        assert torch.equal(gate.forward(other, weight, bias), expected)
        assert all(map(torch.equal, gate.backward(x[..., :3], other, weight, bias), gradients))
    strided = weight.transpose(0, 3).contiguous().transpose(0, 3)
    assert torch.equal(gate.forward(x, strided, bias.repeat_interleave(2)[::2]), expected)


def test_two_runs_are_the_same() -> None:
    x, weight, bias = (t.float() for t in gate_inputs(2, 9, 13, 40))
    first, second = (gate.backward(x[..., :40], x, weight, bias) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_maps_beyond_32_bits() -> None:
    """Rows lie so far apart that offsets do not fit into 32 bits; little of the memory is touched."""
    x, weight, bias = (t.half() for t in gate_inputs(1, 3, 2, 4))
    expected, gradients = gate.forward(x, weight, bias), gate.backward(x[..., :4], x, weight, bias)
    stride = 2**30 + 24
    far = torch.empty(0, dtype=torch.float16)
    far = far.set_(torch.UntypedStorage(2 * (2 * stride + 16)), 0, (1, 3, 2, 8), (0, stride, 8, 1))
    far.copy_(x)
    with noted_launches() as noted:
        gate.forward(x, weight, bias)
        gate.forward(far, weight, bias)
        gate.backward(x[..., :4], far, weight, bias)
    assert [launch.kwargs["WIDE"] for launch in noted] == [False, True, True, True]
    assert torch.equal(gate.forward(far, weight, bias), expected)
    assert all(map(torch.equal, gate.backward(x[..., :4], far, weight, bias), gradients))


def test_which_maps_are_beyond_32_bits() -> None:
    for B, wide in ((63, False), (64, True)):  # 2 ** 25 numbers an image
        x = torch.empty(B, 256, 256, 512, device="meta", dtype=torch.bfloat16)
        with noted_launches() as noted:
            gate.forward(x, x.new_empty(256, 1, 3, 3), None)
        assert noted[0].kwargs["WIDE"] == wide


@pytest.mark.parametrize(
    ("channels", "dtype", "unit"),
    [(24, torch.bfloat16, 8), (24, torch.float32, 4), (6, torch.float16, 2), (9, torch.bfloat16, 1)],
)
def test_units_of_loads(channels: int, dtype: torch.dtype, unit: int) -> None:
    """Of which all offsets are multiples: 16 bytes where channels allow it."""
    x = torch.empty(1, 2, 2, 2 * channels, device="meta", dtype=dtype)
    with noted_launches() as noted:
        gate.forward(x, x.new_empty(channels, 1, 3, 3), None)
    assert noted[0].kwargs["UNIT"] == unit


def test_loss_that_is_scaled() -> None:
    """The gradient of the convolution is far beyond the range of float16, and those of the arguments are not."""
    x, weight, bias = gate_inputs(2, 6, 7, 24)
    x[..., 24:] *= 50
    x, weight, bias = x.half(), (weight / 4000).float(), bias.float()
    grad = 4000 * torch.randn(2, 6, 7, 24, generator=torch.Generator().manual_seed(5), dtype=torch.float64).half()
    exact = gate_results(x.double(), weight.double(), bias.double(), "reference", grad.double())
    plain, found = (gate_results(x, weight, bias, way, grad) for way in ("reference", "fused"))
    assert exact["bias"].abs().max() > 2 * torch.finfo(torch.half).max
    assert all(result.isfinite().all() for result in found.values())
    check_budget(found, plain, exact, [])


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(name: str, value: float) -> None:
    """Nothing of it is lost, and only the channels of such numbers have it, where PyTorch's convolution in float64 has.

    That one multiplies the padding by the weights; PyTorch's in float32 may leave it out, and have fewer such pixels at
    the border where it is a weight that is not finite.
    """
    F = 9
    arguments = dict(zip(("x", "weight", "bias"), (t.float() for t in gate_inputs(2, 5, 7, F)), strict=True))
    size = arguments[name].numel()
    elements = torch.tensor([0, size // 2, size - 1])
    arguments[name].view(-1)[elements] = value
    found, expected = (gate_results(**arguments, backend=backend) for backend in ("fused", "reference"))
    exact = gate_results(**{key: t.double() for key, t in arguments.items()}, backend="reference")
    whole = torch.ones(F, dtype=torch.bool)
    whole[elements % (2 * F) % F if name == "x" else elements * F // size] = False
    for key in expected:
        assert not found[key][expected[key].isnan()].isfinite().any(), key
        assert torch.equal(found[key].isfinite(), exact[key].isfinite()), key
        if name != "weight" and key in ("out", "x"):
            assert torch.equal(found[key].isfinite(), expected[key].isfinite()), key
        channels = found[key].view(F, -1) if key == "weight" else found[key].reshape(-1, F).t()
        assert channels[whole].isfinite().all(), key


@triton.jit
def normal_of(c, share, power, N: tl.constexpr):
    """Writes both, `[N]`."""
    i = tl.arange(0, N)
    of_one, of_other = normal(tl.load(c + i))
    tl.store(share + i, of_one)
    tl.store(power + i, of_other)


def test_normal_distribution() -> None:
    tails = torch.logspace(-30, 30, 1024)
    c = torch.cat((torch.linspace(-9, 9, 2045), tails, -tails, torch.tensor([math.inf, -math.inf, math.nan])))
    assert len(c) == 4096
    share, power = torch.empty_like(c), torch.empty_like(c)
    normal_of[(1,)](c, share, power, len(c))
    exact = torch.special.ndtr(c.double())
    torch.testing.assert_close(share.double(), exact, rtol=0, atol=3e-7, equal_nan=True)
    torch.testing.assert_close(power.double(), (-c.double().square() / 2).exp(), rtol=1e-5, atol=1e-30, equal_nan=True)
    gelu = (c * share)[:-3].double()
    torch.testing.assert_close(gelu, (c.double() * exact)[:-3], rtol=3e-7, atol=3e-7)
