"""Attention of a region: the mean over all queries of a block that lie in a box or in a mask.

Shape legend: `H W` image, `h w` feature map, `M` heads, `N` queries, `K` window positions, `P` pooled keys.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from transnext.explain.maps import nearest, query_map
from transnext.explain.weights import BlockPlace, Kept, Part

AT_ONCE = 1 << 22
"""Weights that are held at once, 16 MB."""


class RegionAttention:
    """Attention of the queries of one block of one image that lie in a region, averaged; `Looked.region` makes it.

    Each map is the mean over the queries of their `Attention.map`. Numbers are float32, or float64 of a float64 model;
    the mean over heads is that of the maps over their first axis.

    Attributes:
        place: Which block.
        inside: The queries, bool `[h, w]`; at least one.
        local: Softmax weights of the windows on the pixels, `[M, h, w]`; 0 where attention is global.
        pooled: Softmax weights of the pooled keys on the pixels, `[M, h, w]`. Together with `local` they sum to 1.
    """

    def __init__(self, kept: Kept, image: int, inside: Tensor) -> None:
        self.place: BlockPlace = kept.place
        self.inside = inside
        self._kept, self._image = kept, slice(image, image + 1)

        def softmax(rows: range, cols: range) -> tuple[Tensor, Tensor]:
            found = kept.softmax(rows, cols, self._image)
            return found.local[0], found.pooled[0]

        self.local, self.pooled = self._mean(softmax)

    @property
    def fovea(self) -> Tensor:
        """Share of the windows in the softmax, `[M]`, 0..1; 0 where attention is global."""
        return self.local.sum((1, 2))

    @cached_property
    def bonus(self) -> Tensor:
        """What the query-learnable values add to the weights of the windows, `[M, h, w]`, of any sign."""
        return self._mean(lambda rows, cols: (self._kept.bonus(rows, cols, self._image)[0], None))[0]

    @cached_property
    def bias_only(self) -> Tensor:
        """The softmax of the position bias alone, `[M, h, w]`: the same for all images of a size."""
        local, pooled = self._mean(self._kept.bias_only)
        return local + pooled

    def map(self, part: Part = "all", head: int | None = None) -> Tensor:
        """Attention of the region where its keys are.

        Args:
            part: "all" sums to 1, "local" and "pooled" to their shares of it; "bonus" has any sign; "bias" sums to 1.
            head: Which; the mean over all if None.

        Returns:
            `[h, w]`.

        Raises:
            ValueError: There is no such part or head.
        """
        self.place.check(part, head)
        maps: Tensor
        if part == "all":
            maps = self.local + self.pooled
        elif part == "bias":
            maps = self.bias_only
        else:
            maps = getattr(self, part)
        return maps.mean(0) if head is None else maps[head]

    def _mean(self, ask: Callable[[range, range], tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor]:
        """Mean over the queries of what they have in their windows and on the pooled keys, both `[M, h, w]`.

        Args:
            ask: From rows and columns of queries to `[M, N, K]` and `[M, N, P]`, or None for nothing.
        """
        place, r = self.place, self.place.window // 2
        (top, bottom), (left, right) = (_extent(self.inside.any(axis)) for axis in (1, 0))
        cols = range(left, right)
        keys = place.window**2 + math.prod(place.keys)
        step = max(1, AT_ONCE // (len(cols) * keys * place.heads))
        windows: Tensor | None = None  # [M, h, w] with a margin for what lies outside the map
        pooled_sum: Tensor | None = None
        for start in range(top, bottom, step):
            rows = range(start, min(start + step, bottom))
            local, pooled = ask(rows, cols)
            counted = self.inside[rows.start : rows.stop, left:right].to(local.dtype)
            if windows is None:
                windows = local.new_zeros((place.heads, place.grid[0] + 2 * r, place.grid[1] + 2 * r))
            parts = (local.unflatten(1, counted.shape) * counted[..., None]).unbind(-1)
            for position, part in enumerate(parts):
                dy, dx = divmod(position, place.window)
                windows[:, rows.start + dy : rows.stop + dy, left + dx : right + dx] += part
            if pooled is not None:
                found = counted.flatten() @ pooled
                pooled_sum = found if pooled_sum is None else pooled_sum + found
        assert windows is not None
        count = int(self.inside.sum())
        local_mean = windows[:, r : r + place.grid[0], r : r + place.grid[1]] / count
        if pooled_sum is None:
            return local_mean, torch.zeros_like(local_mean)
        spread = query_map(
            pooled_sum.new_empty((place.heads, 0)), (pooled_sum / count).unflatten(-1, place.keys), 0, 0, place.grid
        )
        return local_mean, spread


def queries_in_box(box: Sequence[float], stride: int, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Feature pixels whose place in the image lies in a box; the one nearest to its middle where none does.

    Args:
        box: x0, y0, x1, y1, pixels of the image, whose left upper corner is (0, 0); what reaches beyond the image is
            left out.
        stride: Image pixels between the pixels of the feature map, of which pixel `i` stands in the middle of image
            pixel `i * stride`.
        size: `(H, W)`.
        grid: `(h, w)`.

    Returns:
        bool `[h, w]`.

    Raises:
        ValueError: The box has no place in the image.
    """
    values = [float(value) for value in box]
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise ValueError(f"box is {values}: expected x0, y0, x1, y1, pixels of the image")
    x0, y0, x1, y1 = (min(max(v, 0.0), float(n)) for v, n in zip(values, (*size[::-1], *size[::-1]), strict=True))
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"box is {values}: expected x0 < x1 and y0 < y1 within {size[1]} x {size[0]} pixels")
    rows, cols = (
        (low <= (place := torch.arange(n) * stride + 0.5)) & (place < high)
        for low, high, n in ((y0, y1, grid[0]), (x0, x1, grid[1]))
    )
    inside = rows[:, None] & cols
    if not inside.any():
        inside[nearest(((y0 + y1) / 2 / size[0], (x0 + x1) / 2 / size[1]), stride, size, grid)] = True
    return inside


def queries_in_mask(mask: Tensor, stride: int, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Feature pixels whose place in the image lies in a mask; where none does, the one nearest to the pixel of the mask
    that is nearest to its centre.

    Args:
        mask: bool `[H, W]`.
        stride: As in `queries_in_box`.
        size: `(H, W)`.
        grid: `(h, w)`.

    Returns:
        bool `[h, w]`.

    Raises:
        ValueError: The mask is empty, or no mask of the image.
    """
    if mask.dtype != torch.bool or tuple(mask.shape) != size:
        raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)}: expected torch.bool {size}, as the image")
    inside = mask[::stride, ::stride].clone()
    if not inside.any():
        pixels = mask.nonzero()
        if not len(pixels):
            raise ValueError("mask is empty: there is no pixel to ask about")
        middle = pixels[(pixels - pixels.double().mean(0)).square().sum(1).argmin()]
        row, col = ((int(at) + 0.5) / n for at, n in zip(middle, size, strict=True))
        inside[nearest((row, col), stride, size, grid)] = True
    return inside


def _extent(there: Tensor) -> tuple[int, int]:
    """First place that is True, and the one after the last."""
    places = there.nonzero()
    return int(places[0]), int(places[-1]) + 1
