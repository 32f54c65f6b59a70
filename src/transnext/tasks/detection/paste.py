"""Masks of objects that a network tells as masks of their picture."""

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.data.mask_parts import NOTHING, Part

THRESHOLD = 0.5
"""Probability from which on a pixel belongs to an object."""
_SMALLEST_SIDE = 1e-6


def pasted(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Part:
    """The mask of a picture from one over a box, sampled bilinearly at the centres of pixels.

    Beyond the box a mask is 0, so that it reaches no further. A box without an area has no pixel.

    Args:
        mask: `[m, m]`, probabilities.
        box: `[4]`, pixels of the picture: x0, y0, x1, y1; may reach over its border.
        size: Rows and columns of the picture.
    """
    height, width = size
    box = box.float()
    x0, y0, x1, y1 = box.tolist()
    left, right = _span(x0, x1, width)
    top, bottom = _span(y0, y1, height)
    if left >= right or top >= bottom:
        return NOTHING
    x = _places(left, right, box[0], box[2])
    y = _places(top, bottom, box[1], box[3])
    return Part(_sampled(mask.float(), x, y, "zeros"), left, top)


def cut_out(
    mask: Tensor,
    scale: Tensor,
    shift: Tensor,
    size: tuple[int, int],
    canvas: tuple[int, int],
    original: tuple[int, int],
) -> Part:
    """The mask of a picture from one over the canvas of an input: brought to its pixels, cut to the input, resized.

    What lies beyond the input is in no mask.

    Args:
        mask: `[h, w]`, probabilities, at any resolution.
        scale: float64 `[2]`: pixels of the picture for one of the input, along x and y.
        shift: float64 `[2]`: x and y of the input's corner in the picture.
        size: Rows and columns of the input.
        canvas: Rows and columns that it was padded to.
        original: Rows and columns of the picture.
    """
    values = mask.float()
    if values.shape != canvas:
        values = F.interpolate(values[None, None], size=canvas, mode="bilinear", align_corners=False)[0, 0]
    values = values[: size[0], : size[1]]
    likely = values >= THRESHOLD
    starts, places = [], []
    for axis in (1, 0):  # rows, columns
        touched = likely.any(axis).nonzero()
        if not len(touched):
            return NOTHING
        # No sample is likely that is farther than a pixel of the input from a likely one.
        first = (int(touched[0]) - 1) * float(scale[axis]) + float(shift[axis])
        last = (int(touched[-1]) + 2) * float(scale[axis]) + float(shift[axis])
        start, end = max(0, math.floor(first)), min(original[1 - axis], math.ceil(last))
        centres = (torch.arange(start, end, dtype=torch.float64) + 0.5 - shift[axis]) / scale[axis]
        inside = (centres >= 0) & (centres <= size[1 - axis])
        if not inside.any():
            return NOTHING
        starts.append(start + int(inside.nonzero()[0]))
        places.append((centres[inside] / size[1 - axis] * 2 - 1).float())
    return Part(_sampled(values, places[1], places[0], "border"), starts[1], starts[0])


def _sampled(mask: Tensor, x: Tensor, y: Tensor, beyond: str) -> npt.NDArray[np.bool_]:
    """The likely places of a mask `[h, w]` whose ends are -1 and 1: bool `[len(y), len(x)]`."""
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    sampled = F.grid_sample(mask[None, None], grid[None], padding_mode=beyond, align_corners=False)
    likely: npt.NDArray[np.bool_] = (sampled[0, 0] >= THRESHOLD).numpy()
    return likely


def _span(start: float, end: float, limit: int) -> tuple[int, int]:
    """First pixel and the one after the last that a box may touch."""
    if not end > start:
        return 0, 0
    return max(math.floor(start) - 1, 0), min(math.ceil(end) + 1, limit)


def _places(first: int, last: int, start: Tensor, end: Tensor) -> Tensor:
    """Centres of pixels in a box whose ends are -1 and 1."""
    centres = torch.arange(first, last, dtype=torch.float32) + 0.5
    return (centres - start) / (end - start).clamp(min=_SMALLEST_SIDE) * 2 - 1
