"""Detectors whose answers are plain tensors, as other runtimes have them."""

from abc import ABC, abstractmethod
from importlib import import_module
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from transnext.tasks.detection.net import DetectionNet, Found

_ROOM = "transnext.tasks.detection"
_PLAIN = {
    "mask_rcnn": f"{_ROOM}.mask_rcnn.plain:PlainMaskRCNN",
    "dino": f"{_ROOM}.plain:PlainQueries",
    "d_fine": f"{_ROOM}.plain:PlainQueries",
}


class PlainDetector(nn.Module, ABC):
    """A detector for images of one size, of each of which it is said how much is image.

    Args:
        net: On the CPU, float32, in evaluation mode.

    Attributes:
        batch: How many images there must be; None for any number.
        outputs: Names of the outputs: "boxes", "scores", "labels" and, where outlines are told, "masks".
        score_threshold: What is not likelier is left out, a third input; None if there is no such input.
    """

    batch: ClassVar[int | None]
    score_threshold: float | None = None

    def __init__(self, net: DetectionNet) -> None:
        super().__init__()
        self.net = net
        self.outputs: tuple[str, ...] = ("boxes", "scores", "labels", "masks")[: 4 if net.with_masks else 3]

    @abstractmethod
    def forward(self, images: Tensor, sizes: Tensor, score_threshold: Tensor | None = None) -> tuple[Tensor, ...]:
        """Finds objects.

        Args:
            images: float32 `[B, 3, H, W]`; see `DetectionNet.losses`.
            sizes: int64 `[B, 2]`: rows and columns that are image.
            score_threshold: float32, 0-d, in place of the attribute.

        Returns:
            The outputs as in `Found`: of a file for one image `[N, ...]`, else `[B, K, ...]`, as many of each image.
        """

    def threshold_for(self, images: Tensor, sizes: Tensor, count: int) -> float:
        """A `score_threshold` that so many pairs of box and class of an image exceed; 0 where there is no threshold."""
        return 0.0


class Ranking(Protocol):
    """A network that names as many objects in each image."""

    def ranked(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes `[B, K, 4]`, scores `[B, K]` and labels `[B, K]`."""


class PlainQueries(PlainDetector):
    """D-FINE or DINO: as many boxes of each image, the likeliest first; those beyond the image have no area."""

    batch = None

    def forward(self, images: Tensor, sizes: Tensor, score_threshold: Tensor | None = None) -> tuple[Tensor, ...]:
        """See `PlainDetector.forward`."""
        net: Ranking = self.net  # type: ignore[assignment]
        return net.ranked(images, sizes)


def plain(net: DetectionNet) -> PlainDetector:
    """A detector whose answers are plain tensors.

    Args:
        net: On the CPU, float32, in evaluation mode.

    Raises:
        ValueError: There is no such thing of it.
    """
    if net.detector not in _PLAIN:
        raise ValueError(
            f"{net.detector} cannot be written for other runtimes, only {', '.join(_PLAIN)}: use --format hf, which "
            "this package opens"
        )
    module, _, name = _PLAIN[net.detector].partition(":")
    built: PlainDetector = getattr(import_module(module), name)(net)
    return built


def found_in(outputs: tuple[Tensor, ...] | list[Tensor]) -> list[Found]:
    """Objects of each image, from the outputs of a `PlainDetector`; boxes without area are left out."""
    boxes, scores, labels, *masks = outputs
    if boxes.ndim == 2:
        boxes, scores, labels = boxes[None], scores[None], labels[None]
        masks = [of_boxes[None] for of_boxes in masks]
    found = []
    for image, box in enumerate(boxes):
        there = (box[:, 2:] > box[:, :2]).all(-1)
        found.append(
            Found(
                boxes=box[there],
                scores=scores[image][there],
                labels=labels[image][there].to(torch.int64),
                masks=masks[0][image][there] if masks else None,
            )
        )
    return found
