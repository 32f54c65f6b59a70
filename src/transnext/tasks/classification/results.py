"""What an evaluation of a classifier gives."""

from dataclasses import dataclass, field

import numpy as np

from transnext.tasks.classification.calibration import Calibration


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
