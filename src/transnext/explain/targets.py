"""What an explanation is asked of: a number that follows from what a network says about one image."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Target: TypeAlias = Callable[[Any], Tensor]
"""From what a network says about one image to a 0-d tensor: of logits `[C]`, or of the entry of a list."""


def class_target(label: int) -> Target:
    """The logit of a class, of a classifier.

    Args:
        label: Place in the list of classes.
    """
    return lambda logits: logits[label]


def object_target(box: Sequence[float], label: int) -> Target:
    """The score of an object, of a detector whose `detect` gives boxes, scores and labels of each image.

    It is the score of the object of that class that overlaps most with the box, whatever happens to the image.

    Args:
        box: x0, y0, x1, y1, pixels of the input of the network.
        label: Place in the list of classes.
    """

    def score(found: Any) -> Tensor:
        alike = found.labels == label
        if not alike.any():
            return found.scores.sum() * 0  # the network names none: nothing to gain, and a gradient of 0
        overlap = _iou(torch.as_tensor(box, dtype=found.boxes.dtype, device=found.boxes.device), found.boxes.detach())
        best = torch.where(alike, overlap, -1).argmax()
        chosen: Tensor = found.scores[best]
        return chosen

    return score


def segment_target(label: int, region: Tensor | None = None) -> Target:
    """The mean score of a class over a segment, of a segmenter (Vinogradova et al., Seg-Grad-CAM, 2020).

    Args:
        label: Place in the list of classes.
        region: bool `[H, W]`, of the input of the network; where the class is the likeliest if None, which changes with
            the image that is asked about.
    """

    def score(scores: Tensor) -> Tensor:
        if region is None:
            inside = (scores.detach().argmax(0) == label).to(scores.dtype)
        else:
            inside = F.interpolate(region[None, None].to(scores), scores.shape[-2:], mode="area")[0, 0]
        return (scores[label] * inside).sum() / inside.sum().clamp(min=1e-6)

    return score


def samples(output: Any) -> Sequence[Any]:
    """What a network says, image by image.

    Args:
        output: A tensor `[B, ...]` or a list of `B` entries.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(output, Tensor) and output.ndim:
        return output.unbind(0)
    if isinstance(output, list):
        return output
    raise ValueError(f"the model gives a {type(output).__name__}: expected a tensor or a list with an entry per image")


def likeliest(output: Any) -> list[Target]:
    """The likeliest class of each image.

    Args:
        output: Logits `[B, C]`.

    Raises:
        ValueError: The model gives something else, of which a target has to be chosen.
    """
    if not (isinstance(output, Tensor) and output.ndim == 2):
        raise ValueError("the model gives no logits of classes: choose a target, such as object_target gives")
    return [class_target(label) for label in output.argmax(1).tolist()]


def _iou(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of a box `[4]` with boxes `[N, 4]`."""
    shared = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return shared / (areas - shared).clamp(min=1e-12)
