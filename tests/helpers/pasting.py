"""Masks over boxes as dense masks of a picture, for comparisons."""

import torch
from torch import Tensor

from transnext.tasks.detection.paste import pasted


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool `[N, rows, columns]`; see `pasted`."""
    dense = torch.zeros(len(masks), *size, dtype=torch.bool)
    for of_picture, mask, box in zip(dense, masks, boxes, strict=True):
        pixels, x, y = pasted(mask, box, size)
        of_picture[y : y + pixels.shape[0], x : x + pixels.shape[1]] = torch.from_numpy(pixels)
    return dense
