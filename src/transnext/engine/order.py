"""The order in which an epoch sees the images, and the seed of the augmentation of each."""

import numpy as np
import numpy.typing as npt


def epoch_order(
    labels: npt.NDArray[np.integer], seed: int, epoch: int, *, repeats: int = 1, balanced: bool = False
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

    Returns:
        Indices of images, `[n]`, and seeds of their augmentation, `[n]`.

    Raises:
        ValueError: There is no image, or `repeats` is below 1.
    """
    n = len(labels)
    if n == 0:
        raise ValueError("there are no images to train on")
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: expected at least 1")
    rng = np.random.default_rng((seed, epoch))
    seeds = rng.integers(2**32, size=n).astype(np.uint32)
    different = -(-n // repeats)
    order = _balanced(labels, different, rng) if balanced else rng.permutation(n)[:different]
    return np.repeat(order, repeats)[:n].astype(np.int64), seeds


def _balanced(labels: npt.NDArray[np.integer], n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """`n` images, equally many of each class, in random order."""
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    quotas = np.full(len(by_class), n // len(by_class))
    quotas[rng.permutation(len(by_class))[: n % len(by_class)]] += 1
    drawn = [_rounds(images, quota, rng) for images, quota in zip(by_class, quotas.tolist(), strict=True)]
    return rng.permutation(np.concatenate(drawn))


def _rounds(images: npt.NDArray[np.int64], n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """`n` images, each of them once in random order before any comes again."""
    rounds = [rng.permutation(images) for _ in range(-(-n // len(images)))]
    return np.concatenate([*rounds, images[:0]])[:n]
