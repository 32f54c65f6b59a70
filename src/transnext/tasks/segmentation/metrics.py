"""Quality of a segmenter on a split, from the maps that it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from transnext.data import Batch
from transnext.data.joint import seen_size
from transnext.tasks.segmentation.measures import ImageCounts, counts_of
from transnext.tasks.segmentation.placing import class_map
from transnext.tasks.segmentation.results import SegmentationResult
from transnext.tasks.task import Meter

State = tuple[list[ImageCounts], list[tuple[str, str]], int]


class SegmentationMeter(Meter[Iterable[Tensor]]):
    """Counts, in pixels of the pictures, what the scores of a network say about a split.

    Args:
        classes: Name of each class.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = list(classes)
        self._images: list[ImageCounts] = []
        self._broken = 0

    def add(self, raw: Iterable[Tensor], batch: Batch) -> None:
        """Takes the scores for a batch.

        Args:
            raw: float `[B, classes, h, w]` over the canvas that `normalised_canvas` makes of the batch; or a map of
                each picture, uint8 `[H, W]` in its pixels.
            batch: Targets are the maps of the pictures, uint8 `[H, W]`.

        Raises:
            ValueError: There is another number of classes, or a picture and its map differ in size.
        """
        canvas = seen_size((batch.images.shape[2], batch.images.shape[3]))
        rows = zip(raw, batch.targets, batch.indices.tolist(), batch.sizes.tolist(), batch.frames, strict=True)
        for scores, true, index, (height, width), frame in rows:
            if scores.ndim == 3:
                if len(scores) != len(self.classes):
                    raise ValueError(
                        f"the network gives {len(scores)} scores, and there are {len(self.classes)} classes"
                    )
                self._broken += int(not bool(torch.isfinite(scores).all()))
                original = (height, width) if frame is None else frame.original
                with torch.inference_mode():
                    scores = class_map(scores, canvas, (height, width), original)
            self._images.append(counts_of(index, np.asarray(true), scores.cpu().numpy(), len(self.classes)))

    def state(self) -> State:
        """Counts of all images, images that could not be read, and images whose scores were not finite."""
        return self._images, self.skipped, self._broken

    def merge(self, states: Sequence[State]) -> None:
        """Takes those of all processes."""
        self._images = [image for images, _, _ in states for image in images]
        self.skipped = [skipped for _, part, _ in states for skipped in part]
        self._broken = sum(broken for _, _, broken in states)

    def result(
        self, split: str, name: Callable[[int], str] = str, images_per_second: float | None = None
    ) -> SegmentationResult:
        """See `Meter.result`."""
        if not self._images:
            first, reason = self.skipped[0] if self.skipped else ("it", "it is empty")
            raise ValueError(f"no image of the split {split!r} could be read; the first: {first}: {reason}")
        images = sorted(self._images, key=lambda image: image.index)
        return SegmentationResult(
            split=split,
            classes=self.classes,
            images=images,
            names=[name(image.index) for image in images],
            skipped=self.skipped,
            images_per_second=images_per_second,
            notes=[f"scores of {self._broken} images were not finite"] if self._broken else [],
        )
