"""Results of evaluating a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transnext.report.parts import Metric
from transnext.tasks.classification.calibration import Calibration
from transnext.tasks.classification.intervals import wilson_interval


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one image of a split.

    Attributes:
        index: Place of the image in its split.
        name: Path of the image, or a name such as "emoji/noto/red heart".
        target: True class.
        predicted: Class of the highest probability.
        probability: That probability, 0..1.
    """

    index: int
    name: str
    target: int
    predicted: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """Accuracy on one split.

    Attributes:
        split: Its name.
        top1: Fraction of images whose class got the highest probability, 0..1.
        top1_interval: 95 % bootstrap interval of `top1`, `(low, high)`, 0..1.
        top5: Fraction of images whose class is among the five highest, 0..1.
        loss: Mean cross-entropy, nats.
        calibration: Whether the probabilities can be trusted.
        confusion: Images by true class (rows) and predicted class (columns), `[classes, classes]` int64.
        images_per_second: Speed of the model alone, reading not counted; None if it was not measured.
        predictions: One entry for each image, in the order of the split.
        skipped: Name and reason of images that could not be read; they count nowhere.
        class_names: Of all classes, if they are known.
        notes: What a reader of the numbers must know, a line each.
    """

    split: str
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    loss: float
    calibration: Calibration = field(repr=False)
    confusion: np.ndarray = field(repr=False)
    images_per_second: float | None = None
    predictions: list[Prediction] = field(repr=False)
    skipped: list[tuple[str, str]] = field(repr=False)
    class_names: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """Images evaluated."""
        return len(self.predictions)

    @property
    def class_images(self) -> np.ndarray:
        """Images of each class, `[classes]` int64."""
        return self.confusion.sum(axis=1)

    @property
    def class_accuracy(self) -> np.ndarray:
        """Top-1 of each class (its recall), `[classes]` float64, 0..1; NaN where it has no images."""
        with np.errstate(invalid="ignore"):
            accuracy: np.ndarray = np.diag(self.confusion) / self.class_images
        return accuracy

    @property
    def balanced_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes that have images, 0..1."""
        return float(np.nanmean(self.class_accuracy))

    @property
    def score(self) -> float:
        """Top-1, by which weights are the best."""
        return self.top1

    @property
    def metrics(self) -> dict[str, Metric]:
        """Named numbers; those of one epoch become columns of its row."""
        return {
            "top1": Metric(title="top-1", value=self.top1, interval=self.top1_interval),
            "top5": Metric(title="top-5", value=self.top5),
            "loss": Metric(title="loss", value=self.loss, percent=False),
            "expected_error": Metric(title="ECE", value=self.calibration.expected_error),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        bins = self.calibration
        names = self.class_names or (None,) * len(self.confusion)
        return {
            "images": self.num_images,
            "skipped": len(self.skipped),
            "top1": self.top1,
            "top1_interval": list(self.top1_interval),
            "top5": self.top5,
            "loss": self.loss,
            "balanced_accuracy": self.balanced_accuracy,
            "images_per_second": self.images_per_second,
            "calibration": {
                "expected_error": bins.expected_error,
                "maximum_error": bins.maximum_error,
                "counts": bins.counts.tolist(),
                "confidence": _plain(bins.confidence.tolist()),
                "accuracy": _plain(bins.accuracy.tolist()),
            },
            "notes": list(self.notes),
            "classes": [
                {
                    "name": name,
                    "images": int(images),
                    "top1": int(correct) / int(images) if images else None,
                    "top1_interval": list(wilson_interval(int(correct), int(images))) if images else None,
                }
                for name, correct, images in zip(names, self.confusion.diagonal(), self.class_images, strict=True)
            ],
            "confusion": self.confusion.tolist(),
        }


def _plain(values: Sequence[float]) -> list[float | None]:
    """With None, which JSON knows, for NaN."""
    return [None if value != value else value for value in values]
