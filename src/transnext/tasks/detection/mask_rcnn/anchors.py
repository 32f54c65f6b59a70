"""Anchors: the boxes that every place of a pyramid of maps starts from."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors of a place, in this order."""


def anchor_boxes(size: tuple[int, int], stride: int, scale: float, device: torch.device) -> Tensor:
    """The anchors of a map, row by row, those of a place side by side.

    The first place lies at the corner of the image; corners are not rounded, and anchors reach over the border.

    Args:
        size: Rows and columns of the map.
        stride: Of the map, pixels.
        scale: Side of the square one, strides.
        device: Where to make them.

    Returns:
        float32 `[rows * columns * 3, 4]`, pixels.
    """
    heights = stride * scale * torch.tensor(RATIOS, device=device).sqrt()
    widths = stride * scale / torch.tensor(RATIOS, device=device).sqrt()
    shapes = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    rows, columns = (torch.arange(n, device=device, dtype=torch.float32) * stride for n in size)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    places = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (places + shapes).reshape(-1, 4)


def on_own_canvas(
    map_size: tuple[int, int], stride: int, image_size: Sequence[int], multiple: int, device: torch.device
) -> Tensor:
    """Tells which anchors of a map lie on the canvas that the image would have alone, not in padding for larger ones.

    Args:
        map_size: Rows and columns of the map.
        stride: Of the map, pixels.
        image_size: Rows and columns of the image, pixels.
        multiple: To which the image alone would be padded, pixels.
        device: Where to tell.

    Returns:
        bool `[rows * columns * 3]`, in the order of `anchor_boxes`.
    """
    used = [math.ceil(math.ceil(side / multiple) * multiple / stride) for side in image_size]
    rows, columns = (torch.arange(n, device=device) < limit for n, limit in zip(map_size, used, strict=True))
    return (rows[:, None] & columns).flatten().repeat_interleave(len(RATIOS))
