"""From weights of one query to a map over the pixels of its feature map, and from there to the pixels of the image.

Shape legend: `H W` image, `h w` feature map of a stage, `K` window positions, `P_h P_w` pooled grid.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def query_map(local: Tensor, pooled: Tensor, row: int, col: int, grid: tuple[int, int]) -> Tensor:
    """Weights of one query where its keys are.

    The weight of a neighbour lies on its pixel; the weight of a pooled key is spread evenly over the pixels that it was
    pooled from, so that the sum stays.

    Args:
        local: Weights of the window around the query, `[..., K]`, row-major from the top left, 0 outside the map; `K`
            may be 0.
        pooled: Weights of the pooled grid, `[..., P_h, P_w]`.
        row: Of the query in the feature map.
        col: Of the query in the feature map.
        grid: `(h, w)`.

    Returns:
        `[..., h, w]`.
    """
    rows, cols = (spread_matrix(size, bins, pooled) for size, bins in zip(grid, pooled.shape[-2:], strict=True))
    spread = rows @ pooled @ cols.T
    if local.shape[-1] == 0:
        return spread
    window = math.isqrt(local.shape[-1])
    r = window // 2
    # The window, padded to the size of the map with a margin for what lies outside it.
    padded = F.pad(spread, (r, r, r, r))
    padded[..., row : row + window, col : col + window] += local.unflatten(-1, (window, window))
    return padded[..., r : r + grid[0], r : r + grid[1]].contiguous()


def spread_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """`[size, bins]`: the share of each bin of adaptive average pooling that each pixel has; columns sum to 1."""
    return F.adaptive_avg_pool1d(torch.eye(size, dtype=like.dtype, device=like.device), bins)


def on_image(maps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Maps of a stage at the size of the image.

    They are resized bilinearly, each of their pixels standing where the receptive field of its patch is centred: pixel
    `i` of a feature map at image pixel `i * stride`, since the convolutions of the patch embeddings are padded evenly.

    Args:
        maps: `[..., h, w]`, floating point.
        stride: Image pixels between the pixels of the feature map.
        size: `(H, W)`.

    Returns:
        `[..., H, W]`.
    """
    rows, cols = (_resize_matrix(maps.shape[i - 2], size[i], stride, maps) for i in (0, 1))
    return rows @ maps @ cols.T


def nearest(
    position: tuple[float, float], stride: int, size: tuple[int, int], grid: tuple[int, int]
) -> tuple[int, int]:
    """Row and column of the feature-map pixel nearest to a place of the image.

    Args:
        position: Row and column as fractions of the image, 0..1.
        stride: Image pixels between the pixels of the feature map.
        size: `(H, W)`.
        grid: `(h, w)`.

    Raises:
        ValueError: The place lies outside the image.
    """
    if not all(0 <= p <= 1 for p in position):
        raise ValueError(f"position is {position}: expected row and column as fractions of the image, 0..1")
    pixels = [p * length - 0.5 for p, length in zip(position, size, strict=True)]
    row, col = (min(max(math.floor(p / stride + 0.5), 0), n - 1) for p, n in zip(pixels, grid, strict=True))
    return row, col


def _resize_matrix(size: int, image_size: int, stride: int, like: Tensor) -> Tensor:
    """`[image_size, size]`: linear interpolation along one axis, feature-map pixel `i` at image pixel `i * stride`."""
    pixels = torch.arange(image_size, dtype=like.dtype, device=like.device)
    place = (pixels / stride).clamp(max=size - 1)
    return (1 - (place[:, None] - torch.arange(size, device=like.device)).abs()).clamp(min=0)
