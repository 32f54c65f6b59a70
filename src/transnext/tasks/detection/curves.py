"""Precision and recall by threshold, the best threshold, and what is taken for what."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from transnext.tasks.detection.coco_eval import Floats
from transnext.tasks.detection.matching import LEFT_OUT, RIGHT, WRONG, Outcomes

DEFAULT_THRESHOLD = 0.5
"""Threshold where nothing that was found is right, so that none is better than another."""
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Counts above each threshold at which something changes, highest first, `[T]`.

    Attributes:
        score: The least score that remains, float64.
        right: Objects that were found, int64.
        claimed: All that was found, int64.
        objects: All that there is to find.
    """

    score: Floats
    right: Counts
    claimed: Counts
    objects: int

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall at each threshold, `[T]`, 0..1."""
        return 2 * self.right / np.maximum(self.claimed + self.objects, 1)

    def at(self, threshold: float) -> tuple[float, float, float]:
        """Precision, recall and F1 of all of at least this score; NaN where there is nothing to divide by."""
        number = int(np.searchsorted(-self.score, -threshold, side="right"))
        right, claimed = (int(self.right[number - 1]), int(self.claimed[number - 1])) if number else (0, 0)
        return rates(right, claimed, self.objects)

    def best(self) -> float:
        """The threshold of the highest F1, of equals the highest.

        It lies in the middle between the last score that remains and the first that does not, so that what is close to
        it does not depend on rounding. `DEFAULT_THRESHOLD` if nothing is right.
        """
        if not len(self.score) or not self.right.any():
            return DEFAULT_THRESHOLD
        place = int(self.f1.argmax())
        last = float(self.score[place])
        return last if place + 1 == len(self.score) else (last + float(self.score[place + 1])) / 2


def rates(right: int, claimed: int, objects: int) -> tuple[float, float, float]:
    """Precision, recall and F1; NaN where there is nothing to divide by."""
    return (
        right / claimed if claimed else float("nan"),
        right / objects if objects else float("nan"),
        2 * right / (claimed + objects) if claimed + objects else float("nan"),
    )


def sweep(outcomes: Outcomes, label: int | None = None) -> Sweep:
    """Counts at every threshold.

    Args:
        outcomes: What became of what was found.
        label: Of one class; of all together if None.
    """
    counted = outcomes.state != LEFT_OUT
    objects = len(outcomes.object_label)
    if label is not None:
        counted &= outcomes.label == label
        objects = int((outcomes.object_label == label).sum())
    return _sweep(outcomes.score[counted], outcomes.state[counted], objects)


def best_thresholds(outcomes: Outcomes, num_classes: int) -> list[float]:
    """`Sweep.best` of each class, in one pass over all that was found."""
    counted = np.flatnonzero(outcomes.state != LEFT_OUT)
    order = counted[np.argsort(outcomes.label[counted], kind="stable")]
    starts = np.searchsorted(outcomes.label[order], np.arange(num_classes + 1)).tolist()
    objects = np.bincount(outcomes.object_label, minlength=num_classes).tolist()
    groups = [order[first:end] for first, end in pairwise(starts)]
    return [
        _sweep(outcomes.score[group], outcomes.state[group], there).best()
        for group, there in zip(groups, objects, strict=True)
    ]


def _sweep(scores: npt.NDArray[np.float32], state: npt.NDArray[np.int8], objects: int) -> Sweep:
    score = scores.astype(np.float64)
    order = np.argsort(-score, kind="stable")
    score, right = score[order], np.cumsum(state[order] == RIGHT)
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.empty(0, dtype=np.intp)
    return Sweep(score=score[last], right=right[last].astype(np.int64), claimed=last + 1, objects=objects)


def confusion_matrix(outcomes: Outcomes, num_classes: int, threshold: float) -> Counts:
    """Confusion matrix by true class (rows) and found class (columns); the last is background.

    Beside those that match by class, each wrong one takes, in the order of scores, the object of another class that it
    overlaps most, if nothing found that yet. Other wrong ones lie on background, other objects are taken for it.

    Args:
        outcomes: What became of what was found.
        num_classes: Classes.
        threshold: Least score.

    Returns:
        int64 `[classes + 1, classes + 1]`.
    """
    kept = outcomes.score.astype(np.float64) >= threshold
    wrong = kept & (outcomes.state == WRONG)
    missed = ~(outcomes.object_score.astype(np.float64) >= threshold)
    confusion = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    right = outcomes.label[kept & (outcomes.state == RIGHT)]
    np.add.at(confusion, (right, right), 1)

    found, there = outcomes.pairs[:, 0], outcomes.pairs[:, 1]
    # Of what has the same score the first, of what overlaps as much the last, as when classes are matched.
    order = np.lexsort((-there, -outcomes.pair_overlap, found, -outcomes.score[found]))
    for i, j in zip(found[order].tolist(), there[order].tolist(), strict=True):
        if wrong[i] and missed[j]:
            wrong[i] = missed[j] = False
            confusion[outcomes.object_label[j], outcomes.label[i]] += 1
    confusion[num_classes, :num_classes] += np.bincount(outcomes.label[wrong], minlength=num_classes)
    confusion[:num_classes, num_classes] += np.bincount(outcomes.object_label[missed], minlength=num_classes)
    return confusion


def class_rates(confusion: Counts) -> Floats:
    """Precision, recall and F1 of each class, `[classes, 3]`; NaN where there is nothing to divide by."""
    claimed, objects = confusion.sum(0), confusion.sum(1)
    right = confusion.diagonal()
    return np.array([rates(int(r), int(c), int(o)) for r, c, o in zip(right, claimed, objects, strict=True)])[:-1]
