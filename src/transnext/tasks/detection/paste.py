"""Masks of boxes as masks of pictures."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST_SIDE = 1e-6


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Masks of a picture from masks over boxes, sampled bilinearly at the centres of pixels.

    Beyond the box a mask is 0, so that none reaches further than its box. A box without an area has no pixel.

    Args:
        masks: `[N, m, m]`, probabilities.
        boxes: `[N, 4]`, pixels of the picture: x0, y0, x1, y1; may reach over its border.
        size: Rows and columns of the picture.
        threshold: Of the probability from which on a pixel belongs to the object.

    Returns:
        bool `[N, rows, columns]`.
    """
    height, width = size
    pasted = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    # One object at a time and only about its box: memory and time are those of the boxes, not of N pictures in float32.
    for canvas, mask, box, (x0, y0, x1, y1) in zip(pasted, masks, boxes.float(), boxes.tolist(), strict=True):
        left, right = _span(x0, x1, width)
        top, bottom = _span(y0, y1, height)
        if left >= right or top >= bottom:
            continue
        x = _places(left, right, box[0], box[2])
        y = _places(top, bottom, box[1], box[3])
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
        sampled = F.grid_sample(mask[None, None].float(), grid[None], align_corners=False)
        canvas[top:bottom, left:right] = sampled[0, 0] >= threshold
    return pasted


def _span(start: float, end: float, limit: int) -> tuple[int, int]:
    """First pixel and the one after the last that a box may touch."""
    if not end > start:
        return 0, 0
    return max(math.floor(start) - 1, 0), min(math.ceil(end) + 1, limit)


def _places(first: int, last: int, start: Tensor, end: Tensor) -> Tensor:
    """Centres of pixels in a box whose ends are -1 and 1."""
    centres = torch.arange(first, last, device=start.device, dtype=torch.float32) + 0.5
    return (centres - start) / (end - start).clamp(min=_SMALLEST_SIDE) * 2 - 1
