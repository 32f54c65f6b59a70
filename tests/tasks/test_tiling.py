"""Grids of windows cover a picture, and what they have to say sums to one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transnext.tasks.tiling import Grid, even_starts, stride_starts

SIDES = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDES, SIDES), st.integers(1, 70), st.floats(0, 0.9))
def test_shares_of_tiles_sum_to_one_everywhere(size: tuple[int, int], tile: int, overlap: float) -> None:
    grid = Grid.tiled(size, tile, overlap)
    _sums_to_one(grid)
    shared = round(tile * overlap)
    for length, starts in zip(size, (grid.rows, grid.columns), strict=True):
        steps = np.diff(starts)
        assert (steps <= max(1, tile - shared)).all()
        assert len(steps) < 2 or steps.max() - steps.min() <= 1
        assert (len(starts) == 1) == (length <= tile)


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDES, SIDES), st.integers(1, 70), st.data())
def test_sliding_windows_are_the_released_ones(size: tuple[int, int], window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    grid = Grid.sliding(size, window, stride)
    _sums_to_one(grid)
    for length, starts in zip(size, (grid.rows, grid.columns), strict=True):
        # The released counts and places: past the end a window is moved back.
        count = max(length - window + stride - 1, 0) // stride + 1
        ends = [min(i * stride + window, length) for i in range(count)]
        assert list(starts) == [max(end - window, 0) for end in ends]


def _sums_to_one(grid: Grid) -> None:
    total = np.zeros(grid.size)
    heights, widths = grid.shares()
    for top, share in zip(grid.rows, heights.astype(np.float64), strict=True):
        for left, part in zip(grid.columns, widths.astype(np.float64), strict=True):
            total[top : top + grid.window[0], left : left + grid.window[1]] += share[:, None] * part
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_windows_that_slide_count_alike_and_tiles_fade() -> None:
    heights, widths = Grid.sliding((9, 5), 5, 4).shares()
    assert heights.tolist() == [[1, 1, 1, 1, 0.5], [0.5, 1, 1, 1, 1]]
    assert widths.tolist() == [[1] * 5]
    (first, second), _ = Grid.tiled((96, 5), 64, 0.5).shares()
    assert (first[:32] == 1).all()
    assert (np.diff(first[32:]) < 0).all()
    np.testing.assert_allclose(second, first[::-1])
    assert first[-1] < 0.002


def test_released_example() -> None:
    assert stride_starts(1024, 512, 341) == [0, 341, 512]
    assert stride_starts(683, 512, 341) == [0, 171]
    assert even_starts(1000, 512, 128) == [0, 244, 488]


@pytest.mark.parametrize(
    ("rows", "columns"), [([0, 20], [0]), ([0, 33, 30], [0]), ([1], [0]), ([], [0]), ([0, 40], [0]), ([0, 0, 32], [0])]
)
def test_grids_with_gaps_are_refused(rows: list[int], columns: list[int]) -> None:
    with pytest.raises(ValueError, match="do not cover a side of 64"):
        Grid((64, 32), (32, 32), rows, columns)


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (32, 0), (32, 33), (float("nan"), 4)])
def test_sliding_windows_that_cannot_be(window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Grid.sliding((64, 64), window, stride)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0.5), (32, -0.1), (32, 0.95), (32, float("nan"))])
def test_tiles_that_cannot_be(tile: int, overlap: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        Grid.tiled((64, 64), tile, overlap)
