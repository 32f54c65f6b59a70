"""Features of boxes, from the maps of a pyramid."""

from collections.abc import Sequence

import torch
from torch import Tensor

from transnext.tasks.detection.mask_rcnn.align import aligned
from transnext.tasks.detection.mask_rcnn.boxes import area

_SIDE_IN_STRIDES = 14
"""A box whose mean side has up to twice as many strides of the finest map is looked up in that map."""


def pool(maps: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], size: int) -> Tensor:
    """Looks boxes up in the map that fits their size, by RoIAlign with half-pixel offset and as many samples as cells.

    Args:
        maps: `[B, C, H / stride, W / stride]` of each level, the finest first.
        strides: Of the maps, pixels; each is twice the one before.
        boxes: float32 `[N, 4]` of each image, pixels.
        size: Rows and columns of what comes out.

    Returns:
        `[all N, C, size, size]`.
    """
    rois = with_image(boxes)
    levels = level_of(rois[:, 1:], strides)
    parts, places = [], []
    for level, (level_map, stride) in enumerate(zip(maps, strides, strict=True)):
        here = (levels == level).nonzero().flatten()
        parts.append(aligned(level_map, rois[here], size, 1 / stride))
        places.append(here)
    return torch.cat(parts)[torch.cat(places).argsort()]


def level_of(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The map in which a box is looked up, int64 `[N]`."""
    # The 1e-6 are the released code's: boxes of exactly a limit belong to the coarser map.
    doublings = torch.log2(area(boxes).sqrt() / (_SIDE_IN_STRIDES * strides[0]) + 1e-6).floor()
    return doublings.clamp(0, len(strides) - 1).to(torch.int64)


def with_image(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes of images `[N, 4]` as one tensor `[all N, 5]` that begins with the number of the image."""
    numbers = [torch.full_like(of_image[:, :1], number) for number, of_image in enumerate(boxes)]
    return torch.cat([torch.cat(numbers), torch.cat(list(boxes))], dim=1)
