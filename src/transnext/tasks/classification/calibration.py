"""Calibration, whether probabilities mean what they say: of images predicted with 80 %, 80 % should be right."""

from dataclasses import dataclass, field

import numpy as np

NUM_BINS = 15
"""Of the confidence, as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Confidence (the probability of the predicted class) against accuracy, in bins of equal width.

    Attributes:
        counts: Images by bin of confidence, `[bins]` int64; bin `i` is `i / bins` to `(i + 1) / bins`.
        confidence: Mean confidence of the images of each bin, `[bins]` float64, 0..1; NaN in an empty bin.
        accuracy: Fraction of them that are right, `[bins]` float64, 0..1; NaN in an empty bin.
    """

    counts: np.ndarray = field(repr=False)
    confidence: np.ndarray = field(repr=False)
    accuracy: np.ndarray = field(repr=False)

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence| over the images, 0..1."""
        return float(np.nansum(self.counts * np.abs(self.accuracy - self.confidence)) / self.counts.sum())

    @property
    def maximum_error(self) -> float:
        """Maximum calibration error: the largest |accuracy - confidence| of a bin, 0..1."""
        return float(np.nanmax(np.abs(self.accuracy - self.confidence)))


def calibration(confidence: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS) -> Calibration:
    """Sorts images into bins of confidence.

    Args:
        confidence: Probability of the predicted class, `[images]`, 0..1, NaN taken for 0; at least one image.
        correct: Whether it was the true one, `[images]` bool.
        num_bins: Bins of equal width.
    """
    confidence = np.nan_to_num(np.asarray(confidence, np.float64))
    places = np.minimum((confidence * num_bins).astype(np.int64), num_bins - 1)
    counts = np.bincount(places, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return Calibration(
            counts=counts,
            confidence=np.bincount(places, confidence, num_bins) / counts,
            accuracy=np.bincount(places, np.asarray(correct, np.float64), num_bins) / counts,
        )
