"""What a detector is to the task: losses while it is trained, objects found afterwards."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from transnext.data.instances import Instances
from transnext.tasks.headed import HeadedNet


@dataclass(frozen=True, kw_only=True)
class Found:
    """Objects that a network finds in one image, likeliest first, in pixels of its input.

    Attributes:
        boxes: float32 `[N, 4]`: x0, y0, x1, y1, within the image.
        scores: float32 `[N]`, 0..1.
        labels: int64 `[N]`: places in the list of classes.
        masks: Probabilities, 0..1: `[N, m, m]` over each box if `masks_of` is "box", `[N, h, w]` over the whole canvas,
            at any resolution, if it is "canvas"; None if the network tells no outlines.
        masks_of: What `masks` lie over.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    masks_of: str = "box"

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, which: Tensor) -> "Found":
        """Some of the objects, by places int64 `[n]` or bool `[N]`, on any device."""
        which = which.to(self.boxes.device)
        return replace(
            self,
            boxes=self.boxes[which],
            scores=self.scores[which],
            labels=self.labels[which],
            masks=None if self.masks is None else self.masks[which],
        )


def not_finite(like: Tensor, mask_side: int | None = None) -> Found:
    """What is found by a network whose numbers are not finite: an object without numbers, which no reader accepts.

    Args:
        like: Gives the device.
        mask_side: Of masks over boxes, if the network tells them.
    """
    nothing = torch.full((1, 5), torch.nan, device=like.device)
    return Found(
        boxes=nothing[:, :4],
        scores=nothing[:, 4],
        labels=torch.zeros(1, dtype=torch.int64, device=like.device),
        masks=None if mask_side is None else torch.zeros(1, mask_side, mask_side, device=like.device),
    )


class DetectionNet(HeadedNet):
    """A network that finds objects.

    Losses are means as the released training takes them: those of a batch, in which divisors are averaged over
    processes (`mean_over_processes`), so that the gradients of several processes average to those of one.

    Attributes:
        detector: Its name, a key of `nets.DETECTORS`.
        num_classes: Classes.
        with_masks: It tells outlines, too.
        max_detections: Most objects that `detect` gives of an image; may be changed.
    """

    detector: str
    num_classes: int
    with_masks: bool
    max_detections: int

    @abstractmethod
    def losses(self, images: Tensor, sizes: Tensor, targets: Sequence[Instances]) -> dict[str, Tensor]:
        """Losses of a batch, 0-d, weights applied, whose sum is minimised.

        Args:
            images: float32 `[B, 3, H, W]`, normalised, 0 beyond the size of each; sides are multiples of 32.
            sizes: int64 `[B, 2]`: rows and columns that are image, on any device.
            targets: Objects of each image; none in some or in all is usual.
        """

    @property
    def num_queries(self) -> int | None:
        """Most objects of an image that it has a place for while it is trained; None if there is no such limit."""
        return None

    def make_room(self, objects: int) -> None:
        """Lets `detect` give so many objects of an image, at most."""
        self.max_detections = objects

    @abstractmethod
    def detect(self, images: Tensor, sizes: Tensor) -> list[Found]:
        """Objects of each image, all that the network would name whatever their score; see `losses`.

        Where its numbers are not finite they are so in what it gives: it must not look as if nothing was found.
        """

    def forward(self, images: Tensor, sizes: Tensor, targets: Sequence[Instances] | None = None) -> Any:
        """`losses` if there are targets, else `detect`."""
        return self.detect(images, sizes) if targets is None else self.losses(images, sizes, targets)
