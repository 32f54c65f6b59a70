"""Position bias from a table and an index per axis, against all query-key pairs one by one."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transnext.ops import AxisIndex, axis_index, expand_bias_table, log_spaced, position_bias

pytestmark = pytest.mark.usefixtures("one_thread")

AXES = [
    (1, 1),
    (2, 1),
    (3, 1),
    (4, 2),
    (7, 7),
    (56, 7),
    (28, 7),
    (14, 7),
    (7, 3),
    (13, 3),
    (26, 3),
    (34, 4),
    (9, 4),
    (17, 16),
    (10, 9),
    (2, 3),  # a fixed pool on a small map
    (1, 7),
    (5, 7),
    (200, 25),
    (203, 25),
]
"""Positions and pooled positions: even, uneven, prime, more bins than positions."""


def pooled_positions(size: int, bins: int) -> Tensor:
    return F.adaptive_avg_pool1d(torch.arange(size, dtype=torch.float64)[None, None], bins)[0, 0]


def all_offsets(size: int, bins: int) -> Tensor:
    """Query minus key for every pair, `[H, P]`."""
    return torch.arange(size, dtype=torch.float64)[:, None] - pooled_positions(size, bins)


def smooth(rows: Tensor, cols: Tensor) -> Tensor:
    """A stand-in for the MLP: some smooth function of two coordinates, `[2, *shape]`."""
    return torch.stack((torch.sin(rows + 0.3 * cols), rows * torch.cos(cols)))


@pytest.mark.parametrize(("size", "bins"), AXES)
def test_offsets_are_those_of_pooled_coordinates(size: int, bins: int) -> None:
    offsets, taps, weight, table_size = axis_index(size, bins)
    assert table_size == (size, bins)
    assert weight is None
    assert offsets.dtype == torch.float64
    assert taps.dtype == torch.int64
    assert taps.shape == (size, bins, 1)
    torch.testing.assert_close(offsets[taps[..., 0]], all_offsets(size, bins), rtol=0, atol=1e-12)


def assert_well_formed(axis: AxisIndex, most: int) -> None:
    assert (axis.offsets.diff() > 0).all(), "sorted and distinct"
    assert 1 <= len(axis.offsets) <= most
    assert axis.taps.min() >= 0
    assert axis.taps.max() < len(axis.offsets)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 70), bins=st.integers(1, 20))
def test_any_axis(size: int, bins: int) -> None:
    axis = axis_index(size, bins)
    most = 2 * size - size // bins if size % bins == 0 else 4 * size - 3
    assert_well_formed(axis, most)
    assert torch.equal(axis.offsets[axis.taps[..., 0]], all_offsets(size, bins).mul(2).round() / 2)
    torch.testing.assert_close(axis.offsets[axis.taps[..., 0]], all_offsets(size, bins), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 40), bins=st.integers(1, 12), trained_size=st.integers(1, 40), trained_bins=st.integers(1, 12)
)
def test_any_resized_axis(size: int, bins: int, trained_size: int, trained_bins: int) -> None:
    axis = axis_index(size, bins, trained_queries=trained_size, trained_keys=trained_bins)
    assert_well_formed(axis, 4 * trained_size - 3)
    taps = 1 if axis.weight is None else 4
    assert axis.taps.shape == (size, bins, taps)
    assert (axis.weight is None) == ((size, bins) == (trained_size, trained_bins))
    if axis.weight is not None:
        assert axis.weight.shape == axis.taps.shape
        assert (axis.weight >= 0).all()
        torch.testing.assert_close(axis.weight.sum(-1), torch.ones(size, bins, dtype=torch.float64))

    # Linear resizing over the keys, then over the queries, of any function of the offset.
    values = torch.sin(all_offsets(trained_size, trained_bins))
    expected = F.interpolate(values[None], size=bins, mode="linear", align_corners=False)
    expected = F.interpolate(expected.mT, size=size, mode="linear", align_corners=False).mT[0]
    found = torch.sin(axis.offsets)[axis.taps]
    found = found[..., 0] if axis.weight is None else (found * axis.weight).sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "pool"),
    [((6, 9), (3, 3)), ((7, 9), (3, 4)), ((26, 34), (3, 4)), ((1, 5), (1, 2)), ((4, 4), (4, 4)), ((2, 3), (3, 2))],
)
def test_bias_of_all_pairs(size: tuple[int, int], pool: tuple[int, int]) -> None:
    """The table, read through both axes, is the function of the N x P coordinates."""
    (H, W), (P_h, P_w) = size, pool
    rows, cols = axis_index(H, P_h), axis_index(W, P_w)
    scale_h, scale_w = 13.0, 6.5
    table = smooth(*torch.meshgrid(log_spaced(rows.offsets, scale_h), log_spaced(cols.offsets, scale_w), indexing="ij"))
    grid = torch.stack(
        torch.meshgrid(torch.arange(H, dtype=torch.float64), torch.arange(W, dtype=torch.float64), indexing="ij")
    )
    keys = F.adaptive_avg_pool2d(grid[None], pool)[0]  # [2, P_h, P_w]
    pairs = grid[:, :, :, None, None] - keys[:, None, None]  # [2, H, W, P_h, P_w]
    expected = smooth(log_spaced(pairs[0], scale_h), log_spaced(pairs[1], scale_w))
    torch.testing.assert_close(expand_bias_table(table, rows, cols), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "pool", "trained_size", "trained_pool"),
    [
        ((24, 40), (3, 5), (24, 24), (3, 3)),
        ((13, 17), (3, 4), (12, 12), (3, 3)),
        ((6, 5), (6, 5), (4, 7), (4, 7)),
        ((5, 6), (1, 2), (9, 4), (2, 1)),
        ((12, 7), (3, 2), (12, 12), (3, 3)),  # one axis at its trained size
    ],
)
def test_resized_bias_of_all_pairs(
    size: tuple[int, int], pool: tuple[int, int], trained_size: tuple[int, int], trained_pool: tuple[int, int]
) -> None:
    trained = [axis_index(n, p) for n, p in zip(trained_size, trained_pool, strict=True)]
    resized = [
        axis_index(n, p, trained_queries=t, trained_keys=tp)
        for n, p, t, tp in zip(size, pool, trained_size, trained_pool, strict=True)
    ]
    table = smooth(*torch.meshgrid(trained[0].offsets, trained[1].offsets, indexing="ij"))
    bias = expand_bias_table(table, *trained)  # [M, H', W', P_h', P_w']
    M = bias.shape[0]
    over_keys = F.interpolate(bias.flatten(1, 2), size=pool, mode="bilinear", align_corners=False)
    over_keys = over_keys.unflatten(1, trained_size).permute(0, 3, 4, 1, 2).flatten(1, 2)
    expected = F.interpolate(over_keys, size=size, mode="bilinear", align_corners=False)
    expected = expected.view(M, *pool, *size).permute(0, 3, 4, 1, 2)
    torch.testing.assert_close(expand_bias_table(table, *resized), expected, rtol=1e-10, atol=1e-10)


def test_log_spacing() -> None:
    offsets = torch.tensor([-13.0, -1.0, 0.0, 0.5, 13.0], dtype=torch.float64)
    expected = []
    for offset in offsets.tolist():
        r = 8 * offset / 13
        expected.append(math.copysign(math.log(1 + abs(r)) / math.log(8), r) if r else 0.0)
    torch.testing.assert_close(log_spaced(offsets, 13.0), torch.tensor(expected, dtype=torch.float64))
    assert log_spaced(offsets.float(), 13.0).dtype == torch.float32


def test_device_of_the_index() -> None:
    for axis in (axis_index(6, 3, device="meta"), axis_index(6, 3, trained_queries=4, trained_keys=2, device="meta")):
        assert all(t.device.type == "meta" for t in (axis.offsets, axis.taps, axis.weight) if t is not None)


def test_devices_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of an MPS device, made on the CPU: the same numbers."""
    expected = axis_index(9, 4, trained_queries=7, trained_keys=3)
    assert expected.weight is not None
    assert position_bias._widest_float("mps") == position_bias._widest_float(torch.device("xpu")) == torch.float32
    monkeypatch.setattr(position_bias, "_widest_float", lambda device: torch.float32)
    found = axis_index(9, 4, trained_queries=7, trained_keys=3)
    assert torch.equal(found.offsets.double(), expected.offsets)
    assert found.offsets.dtype == torch.float32
    assert torch.equal(found.taps, expected.taps)
    torch.testing.assert_close(found.weight, expected.weight.float())
