"""From what a network finds in its input to objects of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.data import Frame
from transnext.tasks.detection.net import Found
from transnext.tasks.detection.paste import paste_masks

PIXELS_AT_ONCE = 2**24
"""Of masks over the canvas that are brought to the size of the picture together."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Objects found in a picture, likeliest first, in pixels of the upright picture. Cheap to pickle.

    Attributes:
        size: `(H, W)` of the picture.
        boxes: float32 `[N, 4]`: x0, y0, x1, y1, within the picture.
        scores: float32 `[N]`, 0..1.
        labels: int32 `[N]`: places in the list of classes.
        segmentations: Compressed run lengths `{"size": [H, W], "counts": bytes}` of pycocotools, of each object; None
            if the network tells no outlines.
        broken: Objects that were left out because a number of theirs was not finite.
    """

    size: tuple[int, int]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    segmentations: tuple[dict[str, Any], ...] | None = None
    broken: int = 0

    def __len__(self) -> int:
        return len(self.boxes)


@torch.inference_mode()
def place(
    found: Found, frame: Frame | None, size: tuple[int, int], canvas: tuple[int, int], with_masks: bool = True
) -> Placed:
    """Brings objects to the picture that an input was made of.

    Args:
        found: Objects of the input.
        frame: How the input relates to the picture; None if they are the same.
        size: `(H, W)` of the input.
        canvas: `(H, W)` that the input was padded to.
        with_masks: Bring outlines, too, if there are any.

    Raises:
        ValueError: The input was turned, mirrored or sheared, so that boxes are none in the picture.
    """
    original = size if frame is None else frame.original
    scale, shift = _scale_and_shift(frame)
    boxes = found.boxes.detach().double().cpu().reshape(-1, 4)
    scores = found.scores.detach().float().cpu()
    whole = scores.isfinite() & boxes.isfinite().all(1)
    order = scores.masked_fill(~whole, -torch.inf).argsort(descending=True, stable=True)[: int(whole.sum())]
    placed = (boxes[order] * scale.repeat(2) + shift.repeat(2)).float()
    segmentations = None
    if with_masks and found.masks is not None:
        masks = found.masks.detach()[order.to(found.masks.device)].float().cpu()
        if found.masks_of == "box":
            # Cut at the edge of the picture, a box would squeeze the mask that lies over it.
            segmentations = _outlines_over_boxes(masks, placed, original)
        else:
            segmentations = _outlines_over_canvas(masks, (scale, shift), size, canvas, original)
    limits = torch.tensor([original[1], original[0]] * 2, dtype=torch.float32)
    return Placed(
        size=original,
        boxes=placed.clamp(min=torch.zeros(()), max=limits).numpy(),
        scores=scores[order].numpy(),
        labels=found.labels.detach().cpu()[order].to(torch.int32).numpy(),
        segmentations=segmentations,
        broken=len(scores) - len(order),
    )


def _scale_and_shift(frame: Frame | None) -> tuple[Tensor, Tensor]:
    """Of x and y, float64 `[2]` each."""
    if frame is None:
        return torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    matrix = frame.to_original.double().cpu()
    scale = matrix.diagonal()
    if bool(matrix[0, 1] != 0) or bool(matrix[1, 0] != 0) or bool((scale <= 0).any()):
        raise ValueError(
            f"objects cannot be brought back from an input that was turned or mirrored: {matrix.tolist()}; "
            "evaluate with inputs that are scaled and cut alone"
        )
    return scale, matrix[:, 2]


def _outlines_over_boxes(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[dict[str, Any], ...]:
    """Run lengths of masks `[N, m, m]` over boxes `[N, 4]`; each is pasted into the part of the picture around it."""
    height, width = size
    low = (boxes[:, :2].floor() - 1).clamp(min=0)
    high = boxes[:, 2:].ceil() + 1
    encoded = []
    for mask, box, (x0, y0), (x1, y1) in zip(masks, boxes, low.int().tolist(), high.int().tolist(), strict=True):
        picture = np.zeros((height, width), np.uint8, order="F")
        part = picture[y0:y1, x0:x1] if x1 > 0 and y1 > 0 else picture[:0]
        if part.size:
            # Whole pixels are subtracted: coordinates lose nothing.
            corner = torch.tensor([x0, y0, x0, y0], dtype=torch.float32)
            part[:] = paste_masks(mask[None], (box - corner)[None], part.shape)[0].numpy()
        encoded.append(_encoded(picture[:, :, None])[0])
    return tuple(encoded)


def _outlines_over_canvas(
    masks: Tensor,
    to_original: tuple[Tensor, Tensor],
    size: tuple[int, int],
    canvas: tuple[int, int],
    original: tuple[int, int],
) -> tuple[dict[str, Any], ...]:
    """Run lengths of masks `[N, h, w]` over the canvas: brought to its pixels, cut to the input, then to the picture.

    What lies beyond the input is in no mask.
    """
    scale, shift = to_original
    places = []
    inside = []
    for axis in (1, 0):  # rows, columns
        pixels = (torch.arange(original[1 - axis], dtype=torch.float64) + 0.5 - shift[axis]) / scale[axis]
        inside.append((pixels >= 0) & (pixels <= size[1 - axis]))
        places.append((pixels / size[1 - axis] * 2 - 1).float())
    seen = inside[0][:, None] & inside[1][None, :]
    step = max(1, PIXELS_AT_ONCE // max(original[0] * original[1], canvas[0] * canvas[1]))
    encoded: list[dict[str, Any]] = []
    for part in masks.split(step):
        if not len(part):
            break
        on_canvas = F.interpolate(part[:, None], size=canvas, mode="bilinear", align_corners=False)
        on_input = on_canvas[:, :, : size[0], : size[1]]
        grid = torch.stack([places[1][None, :].expand(original), places[0][:, None].expand(original)], dim=-1)
        grid = grid.expand(len(part), *grid.shape)
        sampled = F.grid_sample(on_input, grid, padding_mode="border", align_corners=False)[:, 0]
        filled = ((sampled >= 0.5) & seen).numpy().view(np.uint8)
        encoded += _encoded(np.asfortranarray(filled.transpose(1, 2, 0)))
    return tuple(encoded)


def _encoded(pixels: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Run lengths of masks `[H, W, N]`, in Fortran's order."""
    from pycocotools import mask as run_lengths

    encoded: list[dict[str, Any]] = run_lengths.encode(pixels)
    return encoded
