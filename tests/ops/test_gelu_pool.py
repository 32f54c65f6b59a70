"""GELU and pooling as one kernel for GPUs, interpreted, against the definition in float64."""

import pytest
import torch
from torch import Tensor

from tests.helpers.error_budget import check_budget
from tests.helpers.pass_cases import gelu_pool_results as results
from tests.helpers.pass_cases import random
from transnext.ops import reference
from transnext.ops.gelu_pool import gelu_average_pool

pytest.importorskip("triton")

from transnext.ops.triton import gelu_pool
from transnext.ops.triton.launch import noted_launches

pytestmark = pytest.mark.usefixtures("one_thread", "poisoned_memory", "interpreted_kernels")

SIZES = {
    "one pixel": ((1, 1, 1, 40), (1, 1)),
    "even bins": ((2, 6, 8, 24), (3, 2)),
    "bins of two widths, units of one channel": ((2, 7, 11, 13), (3, 4)),
    "more bins than pixels": ((1, 3, 2, 8), (7, 5)),
    "bins that many lanes share": ((1, 13, 17, 12), (1, 2)),
    "a bin for each pixel, several tiles": ((3, 5, 9, 40), (5, 9)),
}


def definition(x: Tensor, size: tuple[int, int]) -> Tensor:
    return reference.gelu_average_pool(x, *size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", SIZES)
def test_values_and_gradients(case: str, dtype: torch.dtype) -> None:
    shape, size = SIZES[case]
    x = random(*shape).to(dtype)
    exact, plain = results(definition, x.double(), size), results(definition, x, size)
    # The interpreter cuts off to bfloat16 instead of rounding.
    check_budget(results(gelu_average_pool, x, size), plain, exact, [], times=4 if dtype == torch.bfloat16 else 2)


def test_definition_is_what_the_plain_block_computes() -> None:
    x = random(2, 7, 11, 13)
    gelu = torch.nn.functional.gelu(x).permute(0, 3, 1, 2)
    expected = torch.nn.functional.adaptive_avg_pool2d(gelu, (3, 4)).permute(0, 2, 3, 1)
    torch.testing.assert_close(definition(x, (3, 4)), expected, rtol=0, atol=0)


def test_gradient_of_the_gradient() -> None:
    x = random(1, 3, 4, 2).float().requires_grad_()
    found = []
    for function in (gelu_average_pool, definition):
        (first,) = torch.autograd.grad(function(x, (2, 3)).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides(dtype: torch.dtype) -> None:
    """As the network hands a quarter of its projections over, and others."""
    x = random(2, 5, 7, 16).to(dtype)
    expected, gradient = gelu_pool.forward(x, 2, 3), gelu_pool.backward(x[:, :2, :3], x, 2, 3)
    joined = torch.stack((x, x.flip(-1), -x, x), 3)[:, :, :, 3]
    shifted = torch.cat((x[..., :1], x), -1)[..., 1:]
    for other in (joined, shifted, x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), x.flip(1).flip(1)):
        assert torch.equal(gelu_pool.forward(other, 2, 3), expected)
        assert torch.equal(gelu_pool.backward(x[:, :2, :3], other, 2, 3), gradient)


def test_maps_beyond_32_bits() -> None:
    """Rows lie so far apart that offsets do not fit into 32 bits; little of the memory is touched."""
    x = random(1, 3, 2, 4).half()
    expected, gradient = gelu_pool.forward(x, 2, 1), gelu_pool.backward(x[:, :2, :1], x, 2, 1)
    stride = 2**30 + 24
    far = torch.empty(0, dtype=torch.float16)
    far = far.set_(torch.UntypedStorage(2 * (2 * stride + 8)), 0, (1, 3, 2, 4), (0, stride, 4, 1))
    far.copy_(x)
    assert torch.equal(gelu_pool.forward(far, 2, 1), expected)
    assert torch.equal(gelu_pool.backward(x[:, :2, :1], far, 2, 1), gradient)


@pytest.mark.parametrize(("images", "bins"), [(63, 1), (64, 1), (1, 63), (1, 64)])
def test_which_maps_are_beyond_32_bits(images: int, bins: int) -> None:
    x = torch.empty(images, 256, 256, 512, device="meta", dtype=torch.bfloat16)  # 2 ** 25 numbers an image
    with noted_launches() as noted:
        gelu_pool.backward(gelu_pool.forward(x, bins * 256, 256), x, bins * 256, 256)
    assert [launch.kwargs["WIDE"] for launch in noted] == [images * bins >= 64] * 2


def test_every_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    x, size = random(2, 7, 11, 24).float(), (3, 4)
    expected = results(definition, x, size)
    for kernel in (gelu_pool.FORWARD, gelu_pool.BACKWARD):
        for config in list(kernel.configs):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kernel, "configs", [config])
                torch.testing.assert_close(results(gelu_average_pool, x, size), expected)


def test_empty_and_too_long() -> None:
    assert gelu_average_pool(torch.empty(0, 4, 5, 3), (2, 2)).shape == (0, 2, 2, 3)
    with pytest.raises(ValueError, match="40000x1"):
        gelu_pool.forward(torch.empty(1, 40000, 1, 1), 2, 1)
