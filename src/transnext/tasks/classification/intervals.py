"""Confidence intervals of accuracies."""

import math

import numpy as np

Z_95 = 1.959964
"""Normal quantile of a two-sided 95 % interval."""
RESAMPLES = 10_000
"""Bootstrap samples of an interval."""


def bootstrap_interval(correct: int, total: int, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile bootstrap interval of an accuracy, from resampling its images with replacement.

    A resampled image is right with probability `correct / total`, so that the number of right ones among `total` is
    binomial: it is drawn as such, which is the same as drawing images and much faster.

    Args:
        correct: Images that were right.
        total: Images.
        seed: Decides the samples.
        resamples: How many samples.

    Returns:
        `(low, high)` in 0..1; all of it if there are no images.
    """
    if total == 0:
        return 0.0, 1.0
    accuracies = np.random.default_rng(seed).binomial(total, correct / total, resamples) / total
    low, high = np.quantile(accuracies, (0.025, 0.975))
    return float(low), float(high)


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion, `(low, high)` in 0..1; all of it if there were no trials.

    Holds for the few images of one class too, where a bootstrap of all right or all wrong has no width.
    """
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    centre = p + z**2 / (2 * trials)
    reach = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)
