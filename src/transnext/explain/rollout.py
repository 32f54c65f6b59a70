"""Attention rollout through all stages: the share of every image pixel in what the network reads at its end.

Each block and each patch embedding is taken for an average over places (Abnar & Zuidema, "Quantifying Attention Flow in
Transformers", 2020). As matrices these are row-stochastic, and so is their product, from the pixels of the image to
those of a stage. No matrix is ever made: a row vector goes from the end to the image, tile of queries by tile.

- A block is `residual * identity + (1 - residual) * attention`, attention being the mean softmax over heads, the weight
  of a pooled key spread evenly over the pixels that it was pooled from.
- A patch embedding gives each pixel under its kernel the norm of the kernel's weights there, divided by their sum over
  the pixels that lie in the map.
- The convolutional GLU, whose 3x3 kernel looks at neighbours only, and the query-learnable values are left out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.explain.attention import Looked
from transnext.explain.maps import spread_matrix
from transnext.explain.weights import Kept
from transnext.limits import check_number
from transnext.ops.tracing import at_least_float32

TILE_ENTRIES = 1 << 20
"""Weights that are held at once, 4 MB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """Shares of places in what a network reads. Each map is non-negative and sums to 1.

    Attributes:
        image: Of the pixels of the image, `[H, W]`.
        stages: Of the pixels of the feature map that each stage begins with, `[h, w]`, the first stage first.
    """

    image: Tensor
    stages: list[Tensor]


@torch.no_grad()
def roll_out(
    looked: Looked,
    position: tuple[float, float] | None = None,
    *,
    stage: int = -1,
    image: int = 0,
    residual: float = 0.5,
) -> Rollout:
    """Follows attention from the end of a stage back to the image.

    Args:
        looked: A network after a forward pass.
        position: Row and column of where to start, as fractions of the image, 0..1; the mean of all places, which the
            classifier reads, if None.
        stage: Where to start, at its end.
        image: Of the batch.
        residual: Share of the identity in each block, 0..1; a half in the paper.

    Raises:
        ValueError: There is no such stage or image, or a number is out of range.
    """
    check_number("residual", residual, 0, 1)
    start = looked.kept(stage, 0)
    grid = start.place.grid
    shares = start.x.new_zeros(grid, dtype=at_least_float32(start.x.dtype))
    if position is None:
        shares += 1 / math.prod(grid)
    else:
        shares[looked.nearest(stage, position)] = 1
    stages: list[Tensor] = []
    for index in range(start.place.stage, -1, -1):
        depth = sum(place.stage == index for place in looked.blocks)
        for block in range(depth - 1, -1, -1):
            attended = through_attention(looked.kept(index, block), shares, image)
            shares = residual * shares + (1 - residual) * attended
        stages.insert(0, shares)
        size = looked.image_size if index == 0 else looked.kept(index - 1, 0).place.grid
        embedding: Any = looked.net.stages[index].patch_embed
        shares = through_embedding(embedding.proj, shares, size)
    return Rollout(image=shares, stages=stages)


def through_attention(kept: Kept, shares: Tensor, image: int = 0) -> Tensor:
    """Shares of queries to shares of the pixels that they look at, by the attention of a block.

    Args:
        kept: The block.
        shares: Of the queries, `[h, w]`.
        image: Of the batch.

    Returns:
        `[h, w]`, of the same sum.
    """
    place = kept.place
    r = place.window // 2
    # With a margin for what lies outside the map, where there is no weight.
    seen = shares.new_zeros(place.grid[0] + 2 * r, place.grid[1] + 2 * r)
    pooled = shares.new_zeros(math.prod(place.keys))
    for rows, cols in _tiles(kept):
        part = shares[rows.start : rows.stop, cols.start : cols.stop]
        weights = kept.softmax(rows, cols, slice(image, image + 1))
        pooled += part.flatten() @ weights.pooled[0].mean(0).to(shares.dtype)
        local = weights.local[0].mean(0).to(shares.dtype).unflatten(0, part.shape) * part[..., None]
        for key in range(local.shape[-1]):
            dy, dx = divmod(key, place.window)
            seen[rows.start + dy : rows.stop + dy, cols.start + dx : cols.stop + dx] += local[..., key]
    down, across = (spread_matrix(n, bins, shares) for n, bins in zip(place.grid, place.keys, strict=True))
    return seen[r : r + place.grid[0], r : r + place.grid[1]] + down @ pooled.view(place.keys) @ across.T


def through_embedding(conv: nn.Conv2d, shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Shares of patches to shares of the pixels that they are made of.

    Args:
        conv: Of the patch embedding; square, padded by half its kernel.
        shares: Of the patches, `[h, w]`.
        size: `(H, W)` of the map below.

    Returns:
        `[H, W]`, of the same sum.
    """
    norms = conv.weight.to(shares.dtype).pow(2).sum((0, 1)).sqrt()[None, None]
    stride, padding = conv.stride[0], norms.shape[-1] // 2
    total = F.conv2d(shares.new_ones(1, 1, *size), norms, stride=stride, padding=padding)[0, 0]
    # What the convolution leaves of the last rows and columns of the map.
    rest = [n - (m - 1) * stride + 2 * padding - norms.shape[-1] for n, m in zip(size, shares.shape, strict=True)]
    ratio = (shares / total)[None, None]
    return F.conv_transpose2d(ratio, norms, stride=stride, padding=padding, output_padding=rest)[0, 0]


def _tiles(kept: Kept) -> Iterator[tuple[range, range]]:
    """Rectangles of queries that cover a map, small enough for their weights to take little memory."""
    place = kept.place
    side = max(1, math.isqrt(TILE_ENTRIES // (place.heads * (math.prod(place.keys) + place.window**2))))
    for top in range(0, place.grid[0], side):
        for left in range(0, place.grid[1], side):
            yield range(top, min(top + side, place.grid[0])), range(left, min(left + side, place.grid[1]))
