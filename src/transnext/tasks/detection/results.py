"""Results of evaluating a detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from transnext.report.parts import Metric
from transnext.tasks.detection.coco_eval import AREAS, CocoNumbers, Judged
from transnext.tasks.detection.curves import Counts, Sweep, best_thresholds, class_rates, sweep
from transnext.tasks.detection.matching import OVERLAP, Outcomes


@dataclass(frozen=True, kw_only=True)
class DetectionResult:
    """Quality on one split.

    Where outlines are judged, they are what matching, `score` and everything beside the numbers of boxes goes by.

    Attributes:
        split: Its name.
        classes: Name of each class.
        category_ids: Id of each class in the annotation file.
        boxes: COCO's numbers of boxes.
        masks: COCO's numbers of outlines; None if they are not judged.
        outcomes: What became of each object.
        threshold: Least score of what `confusion` and `class_rates` count, 0..1.
        confusion: Objects by true class (rows) and found class (columns), the last of each background,
            `[classes + 1, classes + 1]` int64.
        images: What is in each image and what was found, in the order of the split.
        names: Of the images.
        images_per_second: Speed of the model alone, reading not counted; None if it was not measured.
        skipped: Name and reason of images that could not be read; they count nowhere.
        notes: What a reader of the numbers must know.
    """

    split: str
    classes: Sequence[str]
    category_ids: Sequence[int]
    boxes: CocoNumbers = field(repr=False)
    masks: CocoNumbers | None = field(repr=False, default=None)
    outcomes: Outcomes = field(repr=False)
    threshold: float
    confusion: Counts = field(repr=False)
    images: Sequence[Judged] = field(repr=False)
    names: Sequence[str] = field(repr=False)
    images_per_second: float | None = None
    skipped: list[tuple[str, str]] = field(repr=False)
    notes: Sequence[str] = ()

    @property
    def num_images(self) -> int:
        """Images evaluated."""
        return len(self.images)

    @property
    def main(self) -> CocoNumbers:
        """The numbers of outlines, where they are judged, else of boxes."""
        return self.boxes if self.masks is None else self.masks

    @property
    def matched_by(self) -> str:
        """Shape that is compared: "mask" or "box"."""
        return "box" if self.masks is None else "mask"

    @property
    def class_objects(self) -> Counts:
        """Objects of each class, groups left out, `[classes]` int64."""
        return np.bincount(self.outcomes.object_label, minlength=len(self.classes)).astype(np.int64)

    @property
    def class_rates(self) -> np.ndarray:
        """Precision, recall and F1 of each class at `threshold`, `[classes, 3]`, 0..1; NaN where there is nothing."""
        return class_rates(self.confusion)

    @cached_property
    def sweep(self) -> Sweep:
        """Precision and recall of all classes together by threshold."""
        return sweep(self.outcomes)

    @property
    def best_threshold(self) -> float:
        """The threshold of the highest F1 of all classes together on this split, 0..1."""
        return self.sweep.best()

    @property
    def score(self) -> float:
        """Average precision, by which weights are best: of outlines where judged; 0 if there is no object."""
        average = self.main.summary["AP"]
        return 0.0 if math.isnan(average) else average

    @property
    def metrics(self) -> dict[str, Metric]:
        """Named numbers; those of one epoch become columns of its row."""
        boxes = self.boxes.summary
        named = {}
        if self.masks is not None:
            masks = self.masks.summary
            named = {f"mask_{key}": Metric(title=f"mask {key}", value=masks[key]) for key in _SHOWN}
        title = "" if self.masks is None else "box "
        named |= {key: Metric(title=f"{title}{key}", value=boxes[key]) for key in _SHOWN}
        named["AR"] = Metric(title=f"{title}AR@{self.boxes.limit}", value=boxes["AR"])
        named["F1"] = Metric(title="F1", value=self.sweep.at(self.threshold)[2])
        # Under this name the checkpoint keeps it, for answers.
        named["threshold"] = Metric(title="best threshold", value=self.best_threshold, percent=False)
        return named

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        precision, recall, f1 = self.sweep.at(self.threshold)
        return {
            "images": self.num_images,
            "skipped": len(self.skipped),
            "images_per_second": self.images_per_second,
            "objects": len(self.outcomes.object_label),
            "box": _plain(self.boxes.summary),
            "mask": None if self.masks is None else _plain(self.masks.summary),
            "threshold": self.threshold,
            "best_threshold": self.best_threshold,
            **_plain({"precision": precision, "recall": recall, "f1": f1}),
            "classes": self._classes(),
            "confusion": self.confusion.tolist(),
            "settings": {"max_detections": self.boxes.limit, "overlap": OVERLAP, "matched_by": self.matched_by},
            "notes": list(self.notes),
        }

    def _classes(self) -> list[dict[str, Any]]:
        boxes, rates, objects = class_numbers(self.boxes), self.class_rates.tolist(), self.class_objects.tolist()
        masks = None if self.masks is None else class_numbers(self.masks)
        best = best_thresholds(self.outcomes, len(self.classes))
        return [
            {
                "name": name,
                "category_id": self.category_ids[label],
                "objects": objects[label],
                "box": _plain(boxes[label]),
                "mask": None if masks is None else _plain(masks[label]),
                **_plain(dict(zip(("precision", "recall", "f1"), rates[label], strict=True))),
                "best_threshold": best[label] if objects[label] else None,
            }
            for label, name in enumerate(self.classes)
        ]


_SHOWN = ("AP", "AP50", "AP75")


def class_numbers(numbers: CocoNumbers) -> list[dict[str, float]]:
    """COCO's numbers of each class; NaN where it has no object."""
    averages = numbers.class_ap
    columns = {"AP": averages[:, 0], "AP50": numbers.class_ap50}
    columns |= {f"AP_{area}": averages[:, i] for i, area in enumerate(AREAS) if i}
    columns["AR"] = numbers.class_ar
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    """With None, which JSON knows, for NaN."""
    return {key: None if math.isnan(value) else value for key, value in values.items()}
