"""Masks over boxes as masks of a picture."""

import torch
import torch.nn.functional as F
from torch import Tensor


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Puts masks where their boxes are.

    Args:
        masks: Probabilities, 0..1, float32 `[N, m, m]`, over each box.
        boxes: float32 `[N, 4]`: x0, y0, x1, y1, pixels of the picture.
        size: `(H, W)` of the picture.

    Returns:
        bool `[N, H, W]`: pixels whose centre has at least .5, bilinear.
    """
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    columns = (torch.arange(size[1], dtype=torch.float32) + 0.5 - x0) / (x1 - x0) * 2 - 1
    rows = (torch.arange(size[0], dtype=torch.float32) + 0.5 - y0) / (y1 - y0) * 2 - 1
    shape = (len(masks), *size)
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0] >= 0.5
