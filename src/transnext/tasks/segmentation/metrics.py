"""Quality of a segmenter on a split, from the maps that it gives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transnext.data import Batch
from transnext.data.class_names import not_named
from transnext.data.joint import seen_size
from transnext.data.segmentation.maps import classes_of
from transnext.tasks.segmentation.measures import ImageCounts, counts_of
from transnext.tasks.segmentation.net import IGNORED, Told
from transnext.tasks.segmentation.panoptic_quality import count_segments
from transnext.tasks.segmentation.placing import Rows, map_of_rows, resize_scores
from transnext.tasks.segmentation.results import SegmentationResult
from transnext.tasks.task import Meter

State = tuple[list[ImageCounts], list[tuple[str, str]], int]


class SegmentationMeter(Meter[Iterable[Tensor | Rows | Told]]):
    """Counts, in pixels of the pictures, what the scores of a network say about a split.

    Args:
        classes: Name of each class.
        things: Names of those that have objects, of a network that tells segments; None for classes alone.
        named: Classes that the data name; all if None. Others have no number.
    """

    def __init__(
        self, classes: Sequence[str], things: Collection[str] | None = None, named: Collection[int] | None = None
    ) -> None:
        super().__init__()
        self.named = named
        self.classes = list(classes)
        self.things = None if things is None else [place for place, name in enumerate(classes) if name in things]
        self._images: list[ImageCounts] = []
        self._broken = 0

    def add(self, raw: Iterable[Tensor | Rows | Told], batch: Batch) -> None:
        """Takes the scores for a batch.

        Args:
            raw: float `[B, classes, h, w]` over the canvas that `normalised_canvas` makes of the batch, or what is
                `Told` of each picture over it; or of each, in its pixels, `Rows` of scores, or a map, uint8 `[H, W]`.
            batch: Targets are the maps of the pictures, of classes, uint8 `[H, W]`, or of segments, int32 `[H, W]`.

        Raises:
            ValueError: There is another number of classes, or a picture and its map differ in size.
        """
        canvas = seen_size((batch.images.shape[2], batch.images.shape[3]))
        rows = zip(raw, batch.targets, batch.indices.tolist(), batch.sizes.tolist(), batch.frames, strict=True)
        for said, true, index, (height, width), frame in rows:
            scores: Any = said.scores if isinstance(said, Told) else said
            original = (height, width) if frame is None else frame.original
            finite = True
            if isinstance(scores, Tensor) and scores.ndim == 3:
                finite = bool(torch.isfinite(scores).all())
                scores = resize_scores(scores, canvas, (height, width), original)
            if not isinstance(scores, Tensor):
                with torch.inference_mode():
                    scores, likely = map_of_rows(self._checked(scores))
                finite = finite and likely
            self._broken += int(not finite)
            true = np.asarray(true)
            counts = counts_of(index, classes_of(true), scores.cpu().numpy(), len(self.classes))
            if isinstance(said, Told) and true.dtype == np.int32:
                segments = told_segments(said, canvas, (height, width), original, self.things or ())
                counts = replace(counts, segments=count_segments(true, segments))
            self._images.append(counts)

    def _checked(self, rows: Rows) -> Rows:
        for part, scores in rows:
            if len(scores) != len(self.classes):
                raise ValueError(f"the network gives {len(scores)} scores, and there are {len(self.classes)} classes")
            yield part, scores

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
        notes = [f"scores of {self._broken} images were not finite"] if self._broken else []
        if self.things is not None and not any(image.segments for image in images):
            notes.append(
                "panoptic quality is of data with segments, pictures seen once as a whole, models not exported"
            )
        return SegmentationResult(
            split=split,
            classes=self.classes,
            images=images,
            names=[name(image.index) for image in images],
            skipped=self.skipped,
            images_per_second=images_per_second,
            things=self.things or (),
            named=self.named,
            notes=[*notes, *not_named(self.classes, self.named)],
        )


def told_segments(
    said: Told, canvas: tuple[int, int], size: tuple[int, int], original: tuple[int, int], things: Collection[int]
) -> npt.NDArray[np.int32]:
    """Segments of a picture, int32 `[H, W]`, see `transnext.data.segmentation.maps.SEGMENT`; none if not all is finite.

    Args:
        said: Of the picture.
        canvas: `(H, W)` of what the network saw.
        size: `(H, W)` of what was image in it.
        original: `(H, W)` of the picture.
        things: Classes that have objects.
    """
    from transnext.tasks.segmentation.mask2former.panoptic import segments_of_queries

    if not torch.isfinite(said.logits).all() or not torch.isfinite(said.masks).all():
        return np.full(original, IGNORED, np.int32)
    stuff = set(range(len(said.scores))) - set(things)
    return segments_of_queries(said.logits, said.masks, canvas, size, original, fuse=stuff).coded()
