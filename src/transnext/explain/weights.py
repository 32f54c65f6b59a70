"""Attention weights of the queries of a block, computed from what the block was given.

Shape legend: `B` images, `h w` feature map, `M` heads, `D` channels of a head, `N` queries asked for, `K` window
positions, `P_h P_w` pooled grid, `P = P_h * P_w`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.explain.maps import query_map
from transnext.models.attention import AggregatedAttention, GlobalCosineAttention
from transnext.models.position_bias import PositionBias
from transnext.ops import AxisIndex, expand_bias_table
from transnext.ops.reference import NORM_EPS
from transnext.ops.tracing import at_least_float32, no_autocast

Part = Literal["all", "local", "pooled", "bonus", "bias"]
"""Of the attention of a query: the whole softmax, its window, its pooled keys, the query-learnable values, or what the
position bias alone would give."""
PARTS: tuple[Part, ...] = get_args(Part)
MAX_ENTRIES = 1 << 26
"""Weights of a block that are held at once: 256 MB. At 224x224 no model has more than 2 million."""


@dataclass(frozen=True, kw_only=True)
class BlockPlace:
    """Place of a block in a network, and the sizes of its attention.

    Attributes:
        stage: From 0.
        block: Within the stage, from 0.
        stride: Image pixels between the pixels of the feature map.
        heads: `M`.
        window: Side of the window; 0 where attention is global.
        grid: `(h, w)` of the feature map.
        pool: `(P_h, P_w)` of the pooled grid; None where attention is global, and every pixel is a key.
    """

    stage: int
    block: int
    stride: int
    heads: int
    window: int
    grid: tuple[int, int]
    pool: tuple[int, int] | None

    @property
    def keys(self) -> tuple[int, int]:
        """Grid of the keys beside the window: the pooled one, or where attention is global that of the map."""
        return self.pool or self.grid

    def check(self, part: Part, head: int | None) -> None:
        """Refuses what no map can be made of.

        Args:
            part: Of the attention.
            head: Which; None for the mean over all.

        Raises:
            ValueError: There is no such part or head.
        """
        if part not in PARTS:
            raise ValueError(f"part is {part!r}: expected one of {', '.join(PARTS)}")
        if head is not None and not 0 <= head < self.heads:
            raise ValueError(f"head is {head}: expected 0 to {self.heads - 1}")


class Softmax(NamedTuple):
    """Weights of queries: both parts together sum to 1 over the keys.

    Attributes:
        local: Of the window, `[..., N, K]`, row-major from the top left; 0 outside the map. `K` is 0 where attention
            is global.
        pooled: Of the keys beside it, `[..., N, P]`, row-major.
    """

    local: Tensor
    pooled: Tensor


class Attention:
    """Attention of queries of one block of one image: of a rectangle of pixels of its feature map.

    Queries are numbered row by row within the rectangle, which for `Looked.block` is the whole map. Numbers are
    float32, or float64 of a float64 model. The mean over heads is that of these arrays over their first axis.

    Attributes:
        place: Which block.
        rows: Rows of the feature map that the queries are in.
        cols: Columns of the feature map that the queries are in.
        local: Softmax weights of the window, `[M, N, K]`, row-major from the top left; 0 outside the map. `K` is 0
            where attention is global.
        pooled: Softmax weights of the pooled keys, `[M, N, P]`, row-major. Together with `local` they sum to 1.
    """

    def __init__(self, kept: "Kept", image: int, rows: range, cols: range) -> None:
        self.place = kept.place
        self.rows, self.cols = rows, cols
        self._kept, self._image = kept, slice(image, image + 1)
        self.local, self.pooled = (part[0] for part in kept.softmax(rows, cols, self._image))

    @property
    def fovea(self) -> Tensor:
        """Share of the window in the softmax, `[M, N]`, 0..1; 0 where attention is global."""
        return self.local.sum(-1)

    @cached_property
    def bonus(self) -> Tensor:
        """What the query-learnable values add to the weights of the window after the softmax, `[M, N, K]`.

        Of any sign; 0 outside the map, where the value is 0 too.
        """
        return self._kept.bonus(self.rows, self.cols, self._image)[0]

    @cached_property
    def bias_only(self) -> Softmax:
        """The softmax of the position bias alone, without queries and keys: the same for all images of a size."""
        return self._kept.bias_only(self.rows, self.cols)

    def map(self, row: int, col: int, part: Part = "all", head: int | None = None) -> Tensor:
        """Attention of one query where its keys are.

        Args:
            row: Of the query in the feature map.
            col: Of the query in the feature map.
            part: "all" sums to 1, "local" and "pooled" to their shares of it; "bonus" has any sign; "bias" sums to 1.
            head: Which; the mean over all if None.

        Returns:
            `[h, w]`.

        Raises:
            ValueError: The query is not among these, or there is no such part or head.
        """
        if row not in self.rows or col not in self.cols:
            raise ValueError(
                f"the query is ({row}, {col}): expected rows {self.rows.start} to {self.rows.stop - 1} and columns "
                f"{self.cols.start} to {self.cols.stop - 1}"
            )
        self.place.check(part, head)
        query = (row - self.rows.start) * len(self.cols) + col - self.cols.start
        local, pooled = ((t[:, query].mean(0) if head is None else t[head, query]) for t in self._part(part))
        return query_map(local, pooled.unflatten(-1, self.place.keys), row, col, self.place.grid)

    def _part(self, part: Part) -> Softmax:
        if part == "bias":
            return self.bias_only
        if part == "bonus":
            return Softmax(self.bonus, torch.zeros_like(self.pooled))
        local = torch.zeros_like(self.local) if part == "pooled" else self.local
        return Softmax(local, torch.zeros_like(self.pooled) if part == "local" else self.pooled)


class Kept:
    """What a block was given, from which the attention of any of its queries follows, while its weights stay.

    Args:
        place: Which block.
        mixer: Its token mixer.
        norm: The norm before it.
        x: The map that the block was called with, `[B, h, w, C]`.
    """

    def __init__(
        self, place: BlockPlace, mixer: AggregatedAttention | GlobalCosineAttention, norm: nn.Module, x: Tensor
    ) -> None:
        self.place, self.mixer, self.norm, self.x = place, mixer, norm, x
        self._taken: Tensor | None = None

    def take_keys(self, keys: Tensor) -> None:
        """Keeps the keys beside the window that the block computes, `[B, h, w, M, D]`: to make them again takes the
        whole map.
        """
        self._taken = keys.detach().clone()  # they may be part of something larger, which the block writes over

    @torch.no_grad()
    def softmax(self, rows: range, cols: range, images: slice = slice(None)) -> Softmax:
        """Softmax weights of some queries, `[B, M, N, K]` and `[B, M, N, P]`.

        Args:
            rows: Rows that the queries are in.
            cols: Columns that the queries are in.
            images: Which of the batch.

        Raises:
            ValueError: There are too many.
        """
        place, mixer, window = self.place, self.mixer, self.place.window
        keys = math.prod(place.keys) + place.window**2
        if len(rows) * len(cols) * keys * place.heads > MAX_ENTRIES:
            raise ValueError(
                f"the queries of block {place.block} of stage {place.stage} have {len(rows) * len(cols)} x {keys} "
                f"weights in {place.heads} heads, too many to hold at once: ask for one query, or for fewer"
            )
        q = self._queries(rows, cols, images)
        dtype = q.dtype
        with no_autocast(q.device.type):
            num_keys = self._inside(rows, cols).sum(-1, dtype=dtype) + math.prod(place.keys)
            scale = F.softplus(mixer.temperature.to(dtype)[:, 0]) * num_keys.log().view(len(rows), len(cols), 1, 1)
            q = (q + mixer.query_embedding.to(dtype)[:, 0]) * scale
            logits = self._bias_logits(rows, cols).expand(len(q), -1, -1, -1).contiguous()  # [B, M, N, K + P]
            logits[..., window**2 :] += _by_head(q) @ self._keys[images]
            if window:
                local = [(q * neighbour).sum(-1) for neighbour in self._neighbours(mixer, rows, cols, images)]
                logits[..., : window**2] += torch.stack(local, -1).flatten(1, 2).transpose(1, 2)
            return Softmax(*logits.softmax(-1).split((window**2, math.prod(place.keys)), -1))

    @torch.no_grad()
    def bonus(self, rows: range, cols: range, images: slice = slice(None)) -> Tensor:
        """What the query-learnable values add to the window of some queries, `[B, M, N, K]`; see `Attention.bonus`."""
        mixer, q = self.mixer, self._queries(rows, cols, images)
        if isinstance(mixer, GlobalCosineAttention):
            return q.new_zeros((len(q), self.place.heads, len(rows) * len(cols), 0))
        with no_autocast(q.device.type):
            added = _by_head(q) @ mixer.learnable_tokens.to(q.dtype) + mixer.learnable_bias.to(q.dtype)
        return added.masked_fill(~self._inside(rows, cols), 0)

    @torch.no_grad()
    def bias_only(self, rows: range, cols: range) -> Softmax:
        """Softmax of the position bias of some queries, `[M, N, K]` and `[M, N, P]`."""
        sizes = (self.place.window**2, math.prod(self.place.keys))
        return Softmax(*self._bias_logits(rows, cols).softmax(-1).split(sizes, -1))

    def _queries(self, rows: range, cols: range, images: slice) -> Tensor:
        """Unit vectors `[B, rows, cols, M, D]`, float32 or float64."""
        mixer, x = self.mixer, self._normed(rows, cols, images)
        if isinstance(mixer, GlobalCosineAttention):
            return _unit(mixer.qkv(x).unflatten(-1, (3, mixer.num_heads, -1))[..., 0, :, :])
        return _unit(mixer.q(x).unflatten(-1, (mixer.num_heads, -1)))

    def _neighbours(self, mixer: Any, rows: range, cols: range, images: slice) -> Iterator[Tensor]:
        """Keys that stand at each window position of queries, `[B, rows, cols, M, D]`; 0 outside the map."""
        window, (h, w) = self.place.window, self.place.grid
        r = window // 2
        # No more than the part of the map that windows cover: memory stays small for large images.
        around = [range(max(q.start - r, 0), min(q.stop + r, n)) for q, n in zip((rows, cols), (h, w), strict=True)]
        keys = _unit(mixer.local_keys_of(self._normed(around[0], around[1], images))[0])
        margins = [(a.start - q.start + r, q.stop + r - a.stop) for q, a in zip((rows, cols), around, strict=True)]
        keys = F.pad(keys, (0, 0, 0, 0, *margins[1], *margins[0]))
        for dy in range(window):
            for dx in range(window):
                yield keys[:, dy : dy + len(rows), dx : dx + len(cols)]

    @cached_property
    def _keys(self) -> Tensor:
        """Unit vectors of the keys beside the window, `[B, M, D, P]`."""
        if self._taken is not None:
            keys, self._taken = self._taken, None
            return _by_head(_unit(keys)).mT
        # The block was run by something else than its mixer: the whole map goes into them.
        whole = self._normed(range(self.place.grid[0]), range(self.place.grid[1]), slice(None))
        if isinstance(self.mixer, GlobalCosineAttention):
            keys = self.mixer.qkv(whole).unflatten(-1, (3, self.mixer.num_heads, -1))[..., 1, :, :]
        else:
            keys = self.mixer.pooled_keys_of(whole)[0]
        return _by_head(_unit(keys)).mT

    @cached_property
    def _bias(self) -> PositionBias:
        return self.mixer.bias_of(self.x)  # which a network in training mode does not remember

    def _bias_logits(self, rows: range, cols: range) -> Tensor:
        """Position bias of queries, `[M, N, K + P]`, -inf where a window reaches beyond the map."""
        mixer, bias = self.mixer, self._bias
        table = bias.table.to(at_least_float32(self.x.dtype))
        beside = expand_bias_table(table, _part_of(bias.rows, rows), _part_of(bias.cols, cols))  # [M, h, w, P_h, P_w]
        if isinstance(mixer, GlobalCosineAttention):
            return beside.flatten(3).flatten(1, 2)
        inside = self._inside(rows, cols)
        K = inside.shape[1]
        logits = beside.new_empty((len(beside), len(inside), K + math.prod(self.place.keys)))
        logits[..., :K] = mixer.relative_pos_bias_local[:, None].where(inside, -math.inf)
        of_pooled = logits.unflatten(1, beside.shape[1:3])[..., K:].unflatten(-1, self.place.keys)
        of_pooled.copy_(beside)  # copied once: it may be large
        return logits

    def _normed(self, rows: range, cols: range, images: slice) -> Tensor:
        normed: Tensor = self.norm(self.x[images, rows.start : rows.stop, cols.start : cols.stop])
        return normed

    def _inside(self, rows: range, cols: range) -> Tensor:
        """True for window positions of queries that lie on the map, `[N, K]`."""
        inside = []
        for queries, size in zip((rows, cols), self.place.grid, strict=True):
            shift = torch.arange(self.place.window, device=self.x.device) - self.place.window // 2
            at = torch.arange(queries.start, queries.stop, device=self.x.device)[:, None] + shift
            inside.append((at >= 0) & (at < size))
        return (inside[0][:, None, :, None] & inside[1][None, :, None, :]).flatten(2).flatten(0, 1)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.to(at_least_float32(x.dtype)), dim=-1, eps=NORM_EPS)


def _by_head(x: Tensor) -> Tensor:
    """`[B, rows, cols, M, D]` to `[B, M, N, D]`."""
    return x.flatten(1, 2).transpose(1, 2)


def _part_of(axis: AxisIndex, queries: range) -> AxisIndex:
    """The index of some of the queries of an axis."""
    part = slice(queries.start, queries.stop)
    return AxisIndex(axis.offsets, axis.taps[part], None if axis.weight is None else axis.weight[part])
