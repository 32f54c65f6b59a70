"""Quality of a detector on a split, from what it finds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from transnext.data import Batch
from transnext.data.class_names import not_named
from transnext.data.joint import seen_size
from transnext.tasks.detection.coco_eval import (
    COCO_LIMIT,
    Judged,
    coco_numbers,
    has_outlines,
    limit_for,
    most_of_a_class,
)
from transnext.tasks.detection.curves import confusion_matrix, sweep
from transnext.tasks.detection.matching import outcomes_of
from transnext.tasks.detection.net import Found
from transnext.tasks.detection.placing import place
from transnext.tasks.detection.results import DetectionResult
from transnext.tasks.task import Meter

State = tuple[list[Judged], list[tuple[str, str]]]


class DetectionMeter(Meter[list[Found]]):
    """Gathers what is found in the images of a split, in pixels of the pictures, outlines as run lengths.

    Args:
        classes: Name of each class.
        category_ids: Id of each class in the annotation file; 1, 2, .. if None.
        with_masks: Judge outlines, too.
        max_detections: Objects of a class in an image that are looked at; by default COCO's 100, or as many as there
            are, rounded up to hundreds.
        threshold: Least score of what the confusion matrix and the precision and recall of classes count; by default
            that of the highest F1 on the split itself.
        tile: Side of the tiles in which pictures were looked through, which the result says; None for whole ones.
        named: Classes that the data name; all if None. Of others nothing is judged: it is not known where they are.
    """

    def __init__(
        self,
        classes: Sequence[str],
        category_ids: Sequence[int] | None = None,
        with_masks: bool = False,
        max_detections: int | None = None,
        threshold: float | None = None,
        tile: int | None = None,
        named: Collection[int] | None = None,
    ) -> None:
        super().__init__()
        self.classes = list(classes)
        self.category_ids = list(range(1, len(self.classes) + 1) if category_ids is None else category_ids)
        self.with_masks = with_masks
        self.max_detections = max_detections
        self.threshold = threshold
        self.tile = tile
        self.named = named
        self._images: list[Judged] = []

    def add(self, raw: list[Found], batch: Batch) -> None:
        """Takes the objects found in each image; targets are an `Annotation` of each."""
        canvas = seen_size((batch.images.shape[2], batch.images.shape[3]))  # what masks lie over, not the batch
        rows = zip(raw, batch.targets, batch.indices.tolist(), batch.sizes.tolist(), batch.frames, strict=True)
        for found, truth, index, (height, width), frame in rows:
            placed = place(found, frame, (height, width), canvas, self.with_masks)
            if placed.size != tuple(truth.size):
                raise ValueError(
                    f"image {index} is {placed.size[0]}x{placed.size[1]} pixels (height x width) and its annotation "
                    f"says {truth.size[0]}x{truth.size[1]}: objects cannot be compared"
                )
            if not self.with_masks:
                truth = replace(truth, segmentations=None)
            self._images.append(Judged(index, truth, placed))

    def state(self) -> State:
        """Objects found in all images, and images that could not be read."""
        return self._images, self.skipped

    def merge(self, states: Sequence[State]) -> None:
        """Takes those of all processes."""
        self._images = [image for images, _ in states for image in images]
        self.skipped = [skipped for _, part in states for skipped in part]

    def result(
        self, split: str, name: Callable[[int], str] = str, images_per_second: float | None = None
    ) -> DetectionResult:
        """See `Meter.result`."""
        if not self._images:
            first, reason = self.skipped[0] if self.skipped else ("it", "it is empty")
            raise ValueError(f"no image of the split {split!r} could be read; the first: {first}: {reason}")
        images = sorted(self._images, key=lambda image: image.index)
        without = sum(not has_outlines(image) for image in images) if self.with_masks else 0
        masks = self.with_masks and not without
        limit = limit_for(images) if self.max_detections is None else self.max_detections
        outcomes = outcomes_of(images, limit, masks, self.named)
        threshold = sweep(outcomes).best() if self.threshold is None else self.threshold
        return DetectionResult(
            split=split,
            classes=self.classes,
            category_ids=self.category_ids,
            boxes=coco_numbers(images, len(self.classes), limit),
            masks=coco_numbers(images, len(self.classes), limit, masks=True) if masks else None,
            outcomes=outcomes,
            threshold=threshold,
            confusion=confusion_matrix(outcomes, len(self.classes), threshold),
            images=images,
            names=[name(image.index) for image in images],
            skipped=self.skipped,
            images_per_second=images_per_second,
            notes=[*_notes(images, limit, without, self.tile), *not_named(self.classes, self.named)],
        )


def _notes(images: Sequence[Judged], limit: int, without_outlines: int, tile: int | None) -> list[str]:
    """Notes that a reader of the numbers must know."""
    notes = [] if tile is None else [f"pictures were looked at in tiles of {tile} pixels"]
    if limit != COCO_LIMIT:
        notes.append(
            f"{limit} objects of a class in an image were looked at, not {COCO_LIMIT} as COCO does: "
            f"an image has up to {most_of_a_class(images)} objects of a class"
        )
    if without_outlines:
        notes.append(f"outlines were not judged: {without_outlines} of {len(images)} images have boxes alone")
    broken = sum(image.found.broken for image in images)
    if broken:
        notes.append(f"{broken} found objects had numbers that are not finite and were left out")
    return notes
