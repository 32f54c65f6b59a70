"""Adaptive average pooling as two products, against PyTorch's operator."""

import pytest
import torch
import torch.nn.functional as F

from transnext.ops.pooling import pool_by_products

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("size", "pool"), [((8, 12), (2, 3)), ((7, 9), (3, 4)), ((2, 5), (3, 5)), ((1, 13), (1, 1))])
def test_is_adaptive_average_pooling(size: tuple[int, int], pool: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(2, *size, 5, dtype=dtype)
    expected = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1)
    found = pool_by_products(x, pool)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)


def test_autocast_does_not_reach_inside() -> None:
    x = torch.randn(2, 7, 9, 5)
    expected = pool_by_products(x, (3, 4))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pool_by_products(x, (3, 4)), expected, rtol=0, atol=0)
