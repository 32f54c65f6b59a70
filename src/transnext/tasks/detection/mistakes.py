"""The worst mistakes of a detector, and what kind they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transnext.report.text import percent
from transnext.tasks.detection.matching import OVERLAP, RIGHT, WRONG
from transnext.tasks.detection.results import DetectionResult

NEAR = 0.1
"""Overlap with an object from which on something wrong is badly placed rather than nowhere."""
KINDS = ("nothing there", "badly placed", "of another class", "found twice")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An object in a picture.

    Attributes:
        image: Place in the images of the result.
        box: x0, y0, x1, y1, pixels of the picture.
        label: Its class: as found, or the true one of something missed.
        score: Of what was found; None of something missed.
        reason: What is wrong with it, or what became of it.
    """

    image: int
    box: tuple[float, float, float, float]
    label: int
    score: float | None
    reason: str = ""


def kinds_of_mistakes(result: DetectionResult) -> npt.NDArray[np.int64]:
    """For each found object the place of its mistake in `KINDS`, `[D]` int64; -1 where it is no mistake that counts."""
    outcomes = result.outcomes
    kinds = np.zeros(len(outcomes.score), dtype=np.int64)
    if len(outcomes.object_label):
        same = outcomes.object_label[outcomes.nearest] == outcomes.label
        there = (outcomes.nearest >= 0) & (outcomes.overlap >= OVERLAP)
        near = (outcomes.nearest >= 0) & (outcomes.overlap >= NEAR)
        kinds[near] = KINDS.index("badly placed")
        kinds[there & ~same] = KINDS.index("of another class")
        kinds[there & same] = KINDS.index("found twice")
    kinds[(outcomes.state != WRONG) | (outcomes.score.astype(np.float64) < result.threshold)] = -1
    return kinds


def worst_false(result: DetectionResult, limit: int) -> list[Mark]:
    """Found objects that are wrong, of the highest scores; one of each image before there are more of any."""
    outcomes = result.outcomes
    kinds = kinds_of_mistakes(result)
    wrong = np.flatnonzero(kinds >= 0)
    wrong = wrong[np.argsort(-outcomes.score[wrong], kind="stable")]
    return [
        _found_mark(result, i, _reason(result, i, int(kinds[i])))
        for i in _spread(wrong.tolist(), outcomes.image, limit)
    ]


def worst_missed(result: DetectionResult, limit: int) -> list[Mark]:
    """Objects without anything found on them above the threshold, the largest share of their picture first.

    One of each image comes before there are more of any.
    """
    outcomes = result.outcomes
    missed = np.flatnonzero(~(outcomes.object_score.astype(np.float64) >= result.threshold))
    boxes = [_object_box(result, j) for j in missed.tolist()]
    sizes = [result.images[outcomes.object_image[j]].truth.size for j in missed]
    shares = np.array([(b[2] - b[0]) * (b[3] - b[1]) / (h * w) for b, (h, w) in zip(boxes, sizes, strict=True)])
    chosen = _spread(missed[np.argsort(-shares, kind="stable")].tolist(), outcomes.object_image, limit)
    return [
        Mark(
            image=int(outcomes.object_image[j]),
            box=_object_box(result, j),
            label=int(outcomes.object_label[j]),
            score=None,
            reason=_fate(result, j),
        )
        for j in chosen
    ]


def surest_right(result: DetectionResult, limit: int) -> list[Mark]:
    """Found objects that are right, of the highest scores; one of each class before there are more of any."""
    outcomes = result.outcomes
    right = np.flatnonzero(outcomes.state == RIGHT)
    right = right[np.argsort(-outcomes.score[right], kind="stable")]
    return [_found_mark(result, i) for i in _spread(right.tolist(), outcomes.label, limit)]


def _found_mark(result: DetectionResult, i: int, reason: str = "") -> Mark:
    outcomes = result.outcomes
    image = int(outcomes.image[i])
    box = result.images[image].found.boxes[outcomes.place[i]].tolist()
    return Mark(image=image, box=box, label=int(outcomes.label[i]), score=float(outcomes.score[i]), reason=reason)


def _object_box(result: DetectionResult, j: int) -> tuple[float, float, float, float]:
    outcomes = result.outcomes
    box: tuple[float, float, float, float]
    box = tuple(result.images[outcomes.object_image[j]].truth.boxes[outcomes.object_place[j]].tolist())
    return box


def _reason(result: DetectionResult, i: int, kind: int) -> str:
    outcomes = result.outcomes
    if KINDS[kind] == "nothing there":
        return "nothing there"
    name = result.classes[outcomes.object_label[outcomes.nearest[i]]]
    if KINDS[kind] == "badly placed":
        return f"overlaps {name} by {percent(float(outcomes.overlap[i]), 0)}"
    return f"is {name}" if KINDS[kind] == "of another class" else f"{name} found twice"


def _fate(result: DetectionResult, j: int) -> str:
    outcomes = result.outcomes
    found = outcomes.pairs[outcomes.pairs[:, 1] == j, 0]
    found = found[(outcomes.score[found].astype(np.float64) >= result.threshold) & (outcomes.state[found] == WRONG)]
    if len(found):
        first = found[outcomes.score[found].argmax()]
        return f"taken for {result.classes[outcomes.label[first]]} ({percent(float(outcomes.score[first]), 0)})"
    score = float(outcomes.object_score[j])
    return f"found with {percent(score, 0)} only" if np.isfinite(score) else "not found"


def _spread(ranked: Iterable[int], groups: npt.NDArray[np.int32], limit: int) -> list[int]:
    """The first `limit`, in rounds that take one of each group."""
    rounds: dict[int, int] = {}
    turns = []
    for place, i in enumerate(ranked):
        group = int(groups[i])
        turns.append((rounds.get(group, 0), place, i))
        rounds[group] = rounds.get(group, 0) + 1
    return [i for _, _, i in sorted(turns)[:limit]]
