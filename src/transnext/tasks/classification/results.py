"""What an evaluation of a classifier gives."""

from dataclasses import dataclass, field

import numpy as np


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
        top5: Fraction of images whose class is among the five highest, 0..1.
        loss: Mean cross-entropy, nats.
        confusion: Images by true class (rows) and predicted class (columns), `[classes, classes]` int64.
        predictions: One entry for each image, in the order of the split.
        skipped: Name and reason of images that could not be read; they count nowhere.
    """

    split: str
    top1: float
    top5: float
    loss: float
    confusion: np.ndarray
    predictions: list[Prediction] = field(repr=False)
    skipped: list[tuple[str, str]] = field(repr=False)

    @property
    def num_images(self) -> int:
        """Images evaluated."""
        return len(self.predictions)
