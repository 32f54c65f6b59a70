"""The order in which an epoch sees the images, and the seed of the augmentation of each."""

import numpy as np
import numpy.typing as npt


def epoch_order(
    labels: npt.NDArray[np.integer],
    seed: int,
    epoch: int,
    *,
    repeats: int = 1,
    balanced: bool = False,
    weights: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Images of one epoch in the order in which they are seen: a pure function of its arguments.

    It is the order of all processes together. However they are chosen, as many images are seen as there are.

    Args:
        labels: Class of each image, `[n]`; without `balanced` only their number counts.
        seed: Decides the order of every epoch.
        epoch: Number of the epoch, from 0.
        repeats: How often each image that is seen is seen, one time after the other and each time with another
            augmentation (repeated augmentation, Hoffer et al. 2020). The epoch sees every `repeats`-th image.
        balanced: Draw as many images of each class, give or take one (or one times `repeats`). Of a class with too
            few, none is seen again before all have been; of a class with more, the epoch leaves some out.
        weights: How often each image is drawn relative to the others, positive, `[n]`; in each epoch that is rounded
            up or down at random, so that it is right on average. None for all alike; not together with `balanced`.

    Returns:
        Indices of images, `[n]`, and seeds of their augmentation, `[n]`.

    Raises:
        ValueError: There is no image, `repeats` is below 1, or the weights cannot be drawn by.
    """
    n = len(labels)
    if n == 0:
        raise ValueError("there are no images to train on")
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: expected at least 1")
    rng = np.random.default_rng((seed, epoch))
    seeds = rng.integers(2**32, size=n).astype(np.uint32)
    different = -(-n // repeats)
    if weights is not None:
        if balanced:
            raise ValueError("images are to be drawn by weights and by class: choose one of them")
        order = _weighted(weights, n, different, rng)
    else:
        order = _balanced(labels, different, rng) if balanced else rng.permutation(n)[:different]
    return np.repeat(order, repeats)[:n].astype(np.int64), seeds


def _balanced(labels: npt.NDArray[np.integer], n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """`n` images, equally many of each class, in random order."""
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    quotas = np.full(len(by_class), n // len(by_class))
    quotas[rng.permutation(len(by_class))[: n % len(by_class)]] += 1
    drawn = [_rounds(images, quota, rng) for images, quota in zip(by_class, quotas.tolist(), strict=True)]
    return rng.permutation(np.concatenate(drawn))


def _weighted(weights: npt.NDArray[np.float64], n: int, drawn: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """`drawn` of `n` images in random order, each as often as its weight says, give or take less than one."""
    if weights.shape != (n,) or not np.isfinite(weights).all() or not (weights > 0).all():
        raise ValueError(f"expected {n} positive weights of images, got {weights.shape}, least {weights.min():g}")
    # Points at equal distances on a line on which the images lie one after the other, as long as they are often drawn.
    images = rng.permutation(n)
    ends = np.cumsum(weights[images])
    points = (rng.random() + np.arange(drawn)) * (ends[-1] / drawn)
    return rng.permutation(images[np.minimum(np.searchsorted(ends, points, side="right"), n - 1)])


def _rounds(images: npt.NDArray[np.int64], n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """`n` images, each of them once in random order before any comes again."""
    rounds = [rng.permutation(images) for _ in range(-(-n // len(images)))]
    return np.concatenate([*rounds, images[:0]])[:n]
