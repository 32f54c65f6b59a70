"""Pictures with rare classes are drawn more often."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def repeat_factors(labels_per_image: Sequence[npt.ArrayLike], threshold: float) -> npt.NDArray[np.float64]:
    """Rates at which images are to be drawn, relative to the others (repeat-factor sampling, Gupta et al. 2019).

    A class in a share `f` of the images has the factor `max(1, sqrt(threshold / f))`, an image the largest of its
    classes, and 1 if there is nothing in it.

    Args:
        labels_per_image: Classes of the objects in each image, in any number.
        threshold: Share of images below which a class is rare.

    Returns:
        float64 `[images]`, at least 1.
    """
    classes = [np.unique(np.asarray(labels, np.int64)) for labels in labels_per_image]
    factors = np.ones(len(classes))
    present = np.concatenate([*classes, np.zeros(0, np.int64)])
    if not len(present):
        return factors
    names, counts = np.unique(present, return_counts=True)
    by_class = np.maximum(1.0, np.sqrt(threshold * len(classes) / counts))
    for i, labels in enumerate(classes):
        factors[i] = by_class[np.searchsorted(names, labels)].max(initial=1.0)
    return factors
