"""Scores of overlapping windows put together to those of the picture, some of it at a time.

At a place the scores are the mean of those of all windows there, weighed by what each has to say. A block of the
picture is given as soon as no further window reaches into it. So memory is that of one window, and of the rows that a
row of windows has in common with the next, however large the picture.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby, islice, pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.data.joint import seen_size
from transnext.tasks.tiling import Grid

Ask = Callable[[Tensor, Tensor], Tensor]
"""A network, or what asks it: images float32 `[B, C, H, W]`, normalised, and their sizes int64 `[B, 2]`, to scores
`[B, classes, h, w]` at any resolution over the canvas; see `SegmentationNet.scores`."""
Block = tuple[slice, slice, Tensor]
"""Rows and columns of a picture, and their scores, float32 `[classes, rows, columns]`."""
_AT_ONCE = 2**20
"""About how many scores are brought to the size of a window together: as many as stay in the cache."""


def places(grid: Grid) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each window, row by row."""
    height, width = grid.window
    for top in grid.rows:
        for left in grid.columns:
            yield slice(top, top + height), slice(left, left + width)


def asked(ask: Ask, windows: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Scores of windows, several asked about at once; taken from the iterable no earlier than that.

    Args:
        ask: The network.
        windows: float32 `[C, h, w]`, normalised; neighbours of one size go together.
        batch_size: How many at once, at most.

    Yields:
        For each window `[classes, h', w']` over its canvas, whose sides are the next multiples of 32.
    """
    for (height, width), alike in groupby(windows, lambda window: (window.shape[1], window.shape[2])):
        rows, columns = seen_size((height, width))
        while batch := list(islice(alike, batch_size)):
            images = F.pad(torch.stack(batch), (0, columns - width, 0, rows - height))
            scores = ask(images, torch.tensor([[height, width]] * len(batch), device=images.device))
            for _, one in zip(batch, scores, strict=True):
                yield one


def blended(scores: Iterable[Tensor], grid: Grid) -> Iterator[Block]:
    """Scores of a picture, block by block: from left to right, and from top to bottom.

    Args:
        scores: Of each window, row by row, `[classes, h', w']` at any resolution over its canvas; see `asked`.
        grid: The windows.

    Yields:
        Blocks, which together are the picture. The tensor of a block is written to when the next one is asked for.
    """
    scores = iter(scores)
    first = next(scores)
    classes, device = len(first), first.device
    (height, width), (rows, columns) = grid.size, grid.window
    heights, widths = (torch.from_numpy(shares).to(device) for shares in grid.shares())
    # What windows further to the left, and further up, say about the places that the next ones see.
    overlap = [
        max((window - (after - before) for before, after in pairwise(starts)), default=0)
        for window, starts in ((rows, grid.rows), (columns, grid.columns))
    ]
    above = torch.zeros(classes, overlap[0], width, device=device)
    aside = torch.zeros(classes, rows, overlap[1], device=device)
    window = torch.empty(classes, rows, columns, device=device)
    of_windows = chain([first], scores)
    known = 0  # rows of `above`
    for top, below, share in zip(grid.rows, [*grid.rows[1:], height], heights, strict=True):
        done = below - top
        beside = 0  # columns of `aside`
        for left, right, part in zip(grid.columns, [*grid.columns[1:], width], widths, strict=True):
            _resize(next(of_windows), grid.window, share[:, None] * part, out=window)
            window[:, :, :beside] += aside[:, :, :beside]
            over = right - left
            beside = columns - over
            aside[:, :, :beside] = window[:, :, over:]
            block = window[:, :, :over]
            block[:, :known] += above[:, :known, left:right]
            above[:, : rows - done, left:right] = block[:, done:]
            yield slice(top, below), slice(left, right), block[:, :done]
        known = rows - done


def whole(scores: Iterable[Tensor], grid: Grid, size: tuple[int, int]) -> Tensor:
    """Scores of a whole picture at once; see `blended`. It takes less time where there is the memory.

    Args:
        scores: See there.
        grid: See there.
        size: Rows and columns of the result, at least those of the picture; 0 beyond it.

    Returns:
        float32 `[classes, *size]`.
    """
    heights, widths = (torch.from_numpy(shares) for shares in grid.shares())
    total = torch.empty(0)
    # The scores last: zip would else take one of the next picture before it sees that the windows are at their end.
    for (rows, columns), (share, part), one in zip(places(grid), product(heights, widths), scores, strict=False):
        if not total.numel():
            total = one.new_zeros(len(one), *size, dtype=torch.float32)
        _add(one, grid.window, (share[:, None] * part).to(one.device), total[:, rows, columns])
    return total


def _resize(scores: Tensor, size: tuple[int, int], share: Tensor, out: Tensor) -> None:
    """Writes the scores of a window at its own resolution, times its share."""
    for classes, some in _resized(scores, size):
        torch.mul(some, share, out=out[classes])


def _add(scores: Tensor, size: tuple[int, int], share: Tensor, to: Tensor) -> None:
    """Adds the scores of a window at its own resolution, times its share."""
    for classes, some in _resized(scores, size):
        to[classes].addcmul_(some, share)


def _resized(scores: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Scores of a window at its own resolution, some classes at a time."""
    canvas = seen_size(size)
    scores = scores.float().contiguous()
    step = max(1, _AT_ONCE // (canvas[0] * canvas[1]))
    for first in range(0, len(scores), step):
        classes = slice(first, first + step)
        some = scores[None, classes]
        if tuple(some.shape[2:]) != canvas:
            some = F.interpolate(some, size=canvas, mode="bilinear", align_corners=False)
        yield classes, some[0, :, : size[0], : size[1]]
