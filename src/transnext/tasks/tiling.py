"""Grids of overlapping windows in which a large picture is looked at, and how much each has to say at a place."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from transnext.limits import check_number


def even_starts(length: int, tile: int, shared: int) -> list[int]:
    """Starts of tiles along a side: evenly, from one end to the other.

    Args:
        length: Of the side, pixels.
        tile: Side of a tile; a shorter side is one tile.
        shared: Pixels that a tile has in common with the next, at least.
    """
    if length <= tile:
        return [0]
    steps = -(-(length - tile) // max(1, tile - shared))
    return [(length - tile) * step // steps for step in range(steps + 1)]


def stride_starts(length: int, window: int, stride: int) -> list[int]:
    """Starts of windows along a side, `stride` after one another; the last is moved back to the end of the side.

    Args:
        length: Of the side, pixels.
        window: Side of a window; a shorter side is one window.
        stride: From one start to the next.
    """
    if length <= window:
        return [0]
    return [min(start, length - window) for start in range(0, length - window + stride, stride)]


@dataclass(frozen=True)
class Grid:
    """Windows over a picture: each of `rows` with each of `columns`, row by row.

    Attributes:
        size: `(H, W)` of the picture, pixels.
        window: `(h, w)` of all windows, within the picture.
        rows: First rows, rising; together the windows cover the picture.
        columns: First columns, rising.
        fading: Windows have the less to say the nearer a place is to their edge; else all have the same.

    Raises:
        ValueError: The windows do not lie in the picture, or do not cover it.
    """

    size: tuple[int, int]
    window: tuple[int, int]
    rows: Sequence[int]
    columns: Sequence[int]
    fading: bool = False

    def __post_init__(self) -> None:
        """Refuses grids with gaps."""
        for length, window, starts in zip(self.size, self.window, (self.rows, self.columns), strict=True):
            steps = [after - before for before, after in pairwise(starts)]
            whole = len(starts) > 0 and starts[0] == 0 and starts[-1] + window == length
            if not whole or not all(0 < step <= window for step in steps):
                raise ValueError(
                    f"windows of {window} pixels that start at {list(starts)} do not cover a side of {length}"
                )

    @classmethod
    def sliding(cls, size: tuple[int, int], window: int, stride: int) -> "Grid":
        """Windows that slide over a picture, all alike; see `stride_starts`.

        Raises:
            ValueError: Windows leave gaps, or a number is out of range.
        """
        check_number("window", window, 1)
        check_number("stride", stride, 1, window)
        height, width = size
        rows, columns = (stride_starts(side, window, stride) for side in size)
        return cls(size, (min(window, height), min(window, width)), rows, columns)

    @classmethod
    def tiled(cls, size: tuple[int, int], tile: int, overlap: float) -> "Grid":
        """Tiles that fade towards their edges; see `even_starts`.

        Args:
            size: `(H, W)` of the picture.
            tile: Side of a tile, pixels.
            overlap: Share of a tile that it has in common with the next, at least, 0..0.9.

        Raises:
            ValueError: A number is out of range.
        """
        check_number("tile", tile, 1)
        check_number("overlap", overlap, 0, 0.9)
        height, width = size
        rows, columns = (even_starts(side, tile, round(tile * overlap)) for side in size)
        return cls(size, (min(tile, height), min(tile, width)), rows, columns, fading=True)

    def shares(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """What each window has to say, of what all say: `[rows, h]` and `[columns, w]`.

        At a pixel of a window its share is the product of the two; those of all windows at a pixel sum to one.
        """
        heights, widths = (
            _shares(length, window, starts, self.fading)
            for length, window, starts in zip(self.size, self.window, (self.rows, self.columns), strict=True)
        )
        return heights, widths


def _shares(length: int, window: int, starts: Sequence[int], fading: bool) -> npt.NDArray[np.float32]:
    # Hann's window through the centres of pixels: smooth, and nowhere 0, as one window may be alone at its edge.
    one = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2 if fading else np.ones(window)
    total = np.zeros(length)
    for start in starts:
        total[start : start + window] += one
    return np.stack([one / total[start : start + window] for start in starts]).astype(np.float32)
