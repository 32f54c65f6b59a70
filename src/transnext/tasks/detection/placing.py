"""From what a network finds in its input to objects of the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transnext.data import Frame
from transnext.data.mask_parts import Part, run_lengths
from transnext.tasks.detection.net import Found
from transnext.tasks.detection.paste import cut_out, pasted


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
    scores = found.scores.detach().float().cpu()
    whole = scores.isfinite() & found.boxes.detach().isfinite().all(1).cpu()
    order = scores.masked_fill(~whole, -torch.inf).argsort(descending=True, stable=True)[: int(whole.sum())]
    ordered = found.take(order)
    boxes = placed_boxes(ordered, frame)
    segmentations = None
    if with_masks and found.masks is not None:
        segmentations = tuple(run_lengths(outlines(ordered, frame, size, canvas), original))
    limits = torch.tensor([original[1], original[0]] * 2, dtype=torch.float32)
    return Placed(
        size=original,
        boxes=boxes.clamp(min=torch.zeros(()), max=limits).numpy(),
        scores=scores[order].numpy(),
        labels=found.labels.detach().cpu()[order].to(torch.int32).numpy(),
        segmentations=segmentations,
        broken=len(scores) - len(order),
    )


def placed_boxes(found: Found, frame: Frame | None) -> Tensor:
    """Boxes in pixels of the picture, float32 `[N, 4]`; they may reach beyond it.

    Args:
        found: Objects of an input.
        frame: As in `place`.

    Raises:
        ValueError: As in `place`.
    """
    scale, shift = _scale_and_shift(frame)
    return (found.boxes.detach().double().cpu().reshape(-1, 4) * scale.repeat(2) + shift.repeat(2)).float()


@torch.inference_mode()
def outlines(found: Found, frame: Frame | None, size: tuple[int, int], canvas: tuple[int, int]) -> Iterator[Part]:
    """Masks in pixels of the picture, one after the other; none where there are none.

    Args:
        found: As in `place`, and so are the others.
        frame: How the input relates to the picture.
        size: `(H, W)` of the input.
        canvas: `(H, W)` that it was padded to.

    Raises:
        ValueError: As in `place`.
    """
    if found.masks is None:
        return
    original = size if frame is None else frame.original
    scale, shift = _scale_and_shift(frame)
    # Cut at the edge of the picture, a box would squeeze the mask that lies over it.
    for mask, box in zip(found.masks.detach(), placed_boxes(found, frame), strict=True):
        if found.masks_of == "box":
            yield pasted(mask.cpu(), box, original)
        else:
            yield cut_out(mask.cpu(), scale, shift, size, canvas, original)


def _scale_and_shift(frame: Frame | None) -> tuple[Tensor, Tensor]:
    """Of x and y, float64 `[2]` each."""
    if frame is None:
        return torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    matrix = frame.to_original.double().cpu()
    scale = matrix.diagonal()
    if bool(matrix[0, 1] != 0) or bool(matrix[1, 0] != 0) or bool((scale <= 0).any()):
        raise ValueError(
            f"objects cannot be brought back from an input that was turned or mirrored: {matrix.tolist()}; "
            "use inputs that are scaled and cut alone"
        )
    return scale, matrix[:, 2]
