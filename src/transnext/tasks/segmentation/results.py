"""Results of evaluating a segmenter: all from sums of counts over the pictures."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from transnext.report.parts import Metric
from transnext.tasks.segmentation.measures import TOLERANCE, ImageCounts, Ints
from transnext.tasks.segmentation.panoptic_quality import PanopticQuality

RESAMPLES = 1000
"""Bootstrap samples of an interval."""
_AT_ONCE = 2**22
Rates = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SegmentationResult:
    """Quality on one split. A class without a true or predicted pixel has no number, and counts in no mean.

    Nor has a class that the data do not name; its pixels are missed by the classes that they are of.

    Attributes:
        split: Its name.
        classes: Name of each class.
        images: What was counted in each image, in the order of the split.
        names: Of the images.
        images_per_second: Speed of the model alone, reading not counted; None if it was not measured.
        skipped: Name and reason of images that could not be read; they count nowhere.
        things: Classes that have objects, where segments are told.
        named: Classes that the data name; all if None.
        notes: What a reader of the numbers must know.
    """

    split: str
    classes: Sequence[str]
    images: Sequence[ImageCounts] = field(repr=False)
    names: Sequence[str] = field(repr=False)
    images_per_second: float | None = None
    skipped: list[tuple[str, str]] = field(repr=False)
    things: Collection[int] = ()
    named: Collection[int] | None = None
    notes: Sequence[str] = ()

    @property
    def num_images(self) -> int:
        """Images evaluated."""
        return len(self.images)

    @cached_property
    def confusion(self) -> Ints:
        """Labelled pixels by true class (rows) and predicted class (columns), int64 `[classes, classes]`."""
        counts = np.zeros(len(self.classes) ** 2, np.int64)
        for image in self.images:
            counts[image.pairs] += image.pixels
        return counts.reshape(len(self.classes), -1)

    @cached_property
    def areas(self) -> Ints:
        """int64 `[images, 3, classes]`: pixels rightly named, of the true class, of the predicted class.

        Of classes that the data do not name there are none.
        """
        areas = np.stack([image.areas(len(self.classes)) for image in self.images])
        areas[..., self._not_named] = 0
        return areas

    @property
    def _not_named(self) -> npt.NDArray[np.bool_]:
        """Which classes these are, bool `[classes]`."""
        absent = np.zeros(len(self.classes), bool)
        if self.named is not None:
            absent[:] = True
            absent[list(self.named)] = False
        return absent

    @property
    def pixels(self) -> int:
        """Labelled pixels."""
        return int(self.confusion.sum())

    @cached_property
    def iou(self) -> Rates:
        """Intersection over union of each class, `[classes]`, 0..1."""
        return iou_of(self.areas.sum(0))

    @cached_property
    def accuracy(self) -> Rates:
        """Share of the pixels of each class that are rightly named, `[classes]`, 0..1; NaN without a true pixel."""
        right, true, _ = self.areas.sum(0)
        return _ratio(right, true)

    @cached_property
    def dice(self) -> Rates:
        """Dice, which is the F1 of pixels, of each class, `[classes]`, 0..1."""
        right, true, predicted = self.areas.sum(0)
        return _ratio(2 * right, true + predicted)

    @cached_property
    def boundary_f(self) -> Rates:
        """F1 of border pixels within `TOLERANCE` of each other, of each class, `[classes]`; NaN without a border."""
        sums = np.zeros((len(self.classes), 4), np.int64)
        for image in self.images:
            sums[image.border_classes] += image.borders
        sums[self._not_named] = 0
        near_true, predicted, near_predicted, true = sums.T
        precision, recall = _ratio(near_true, predicted), _ratio(near_predicted, true)
        # Where one side has no border at all, the other has none that is right.
        precision = np.where((predicted == 0) & (true > 0), 0.0, precision)
        recall = np.where((true == 0) & (predicted > 0), 0.0, recall)
        both = precision + recall
        with np.errstate(invalid="ignore"):
            return np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), both)

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over classes that have one, 0..1; NaN if none has."""
        return _mean(self.iou)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are rightly named, 0..1; NaN if there are none."""
        return float(_ratio(np.trace(self.confusion), np.asarray(self.pixels)))

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of `mean_iou` over the images; None of a single one."""
        return bootstrap_interval(self.areas) if len(self.images) > 1 else None

    @cached_property
    def image_iou(self) -> Rates:
        """Mean intersection over union of each image by itself, `[images]`; NaN of those without a labelled pixel."""
        return np.array([_mean(iou_of(areas)) for areas in self.areas])

    @cached_property
    def panoptic(self) -> PanopticQuality | None:
        """Quality of segments; None where they are not told, or not known."""
        counted = [image.segments for image in self.images if image.segments is not None]
        if not counted:
            return None
        found = PanopticQuality.of(counted, len(self.classes), self.things)
        return replace(found, wrong=np.where(self._not_named, 0, found.wrong))

    @property
    def score(self) -> float:
        """Mean intersection over union, by which weights are best; 0 if nothing is labelled. Of segments their quality.

        Before the first segment is found it is less than 0, and rises with the classes: training gets better long
        before masks are likely enough.
        """
        classes = 0.0 if math.isnan(self.mean_iou) else self.mean_iou
        if self.panoptic is None:
            return classes
        return self.panoptic.means()["PQ"] if self.panoptic.pairs.any() else classes - 1

    @property
    def metrics(self) -> dict[str, Metric]:
        """Named numbers; those of one epoch become columns of its row."""
        return self._segment_metrics | {
            "mIoU": Metric(title="mIoU", value=self.mean_iou, interval=self.interval),
            "mAcc": Metric(title="mAcc", value=_mean(self.accuracy)),
            "aAcc": Metric(title="aAcc", value=self.pixel_accuracy),
            "dice": Metric(title="Dice", value=_mean(self.dice)),
            "boundary_F": Metric(title="boundary F", value=_mean(self.boundary_f)),
        }

    @property
    def _segment_metrics(self) -> dict[str, Metric]:
        if self.panoptic is None:
            return {}
        means = self.panoptic.means()
        rows = {
            "PQ": ("PQ", means["PQ"]),
            "PQ_things": ("PQ things", self.panoptic.means(True)["PQ"]),
            "PQ_stuff": ("PQ stuff", self.panoptic.means(False)["PQ"]),
            "SQ": ("SQ", means["SQ"]),
            "RQ": ("RQ", means["RQ"]),
        }
        return {name: Metric(title=title, value=value) for name, (title, value) in rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        true, predicted = self.confusion.sum(1), self.confusion.sum(0)
        return {
            "images": self.num_images,
            "skipped": len(self.skipped),
            "images_per_second": self.images_per_second,
            "pixels": self.pixels,
            **{name: _plain(metric.value) for name, metric in self.metrics.items()},
            "mIoU_interval": self.interval,
            "classes": [
                {
                    "name": name,
                    "pixels": int(true[i]),
                    "predicted_pixels": int(predicted[i]),
                    "iou": _plain(self.iou[i]),
                    "accuracy": _plain(self.accuracy[i]),
                    "dice": _plain(self.dice[i]),
                    "boundary_f": _plain(self.boundary_f[i]),
                }
                for i, name in enumerate(self.classes)
            ],
            "confusion": self.confusion.tolist(),
            **self._segments_dict(),
            "settings": {"boundary_tolerance": TOLERANCE},
            "notes": list(self.notes),
        }

    def _segments_dict(self) -> dict[str, Any]:
        found = self.panoptic
        if found is None:
            return {}
        groups = {"all": None, "things": True, "stuff": False}
        rates = {"PQ": found.quality, "SQ": found.segmentation, "RQ": found.recognition}
        classes = [
            {
                "name": name,
                "isthing": int(found.things[i]),
                **{key: _plain(rate[i]) for key, rate in rates.items()},
                "pairs": int(found.pairs[i]),
                "missed": int(found.missed[i]),
                "wrong": int(found.wrong[i]),
            }
            for i, name in enumerate(self.classes)
        ]
        means = {name: {key: _plain(v) for key, v in found.means(which).items()} for name, which in groups.items()}
        return {"panoptic": {**means, "classes": classes}}


def iou_of(areas: npt.NDArray[Any]) -> Rates:
    """Intersection over union, `[..., classes]`, NaN where there is neither.

    Args:
        areas: `[..., 3, classes]`: pixels rightly named, of the true class, of the predicted class.
    """
    right, true, predicted = np.moveaxis(areas, -2, 0)
    return _ratio(right, true + predicted - right)


def bootstrap_interval(areas: Ints, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean intersection over union, from resampling images.

    Args:
        areas: int64 `[images, 3, classes]`, see `iou_of`.
        seed: Decides the samples.
        resamples: How many samples.

    Returns:
        `(low, high)` in 0..1; NaN if nothing is labelled.
    """
    images = len(areas)
    # Classes that are nowhere would be nothing in every sample.
    flat = areas[..., areas.any((0, 1))].reshape(images, -1).astype(np.float64)
    generator = np.random.default_rng(seed)
    means: list[float] = []
    step = max(1, _AT_ONCE // images)
    for first in range(0, resamples, step):
        times = generator.multinomial(images, np.full(images, 1 / images), size=min(step, resamples - first))
        sums = (times @ flat).reshape(len(times), 3, -1)
        means += [_mean(row) for row in iou_of(sums)]
    finite = np.array(means)[~np.isnan(means)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)


def _ratio(part: npt.NDArray[Any] | int, whole: npt.NDArray[Any]) -> Rates:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _mean(values: Rates) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _plain(value: float) -> float | None:
    """With None, which JSON knows, for NaN."""
    return None if math.isnan(value) else float(value)
