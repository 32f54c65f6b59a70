"""Panoptic quality (Kirillov et al., CVPR 2019): what is counted in one picture, and the numbers of all.

The rules are those of panopticapi, the evaluation of COCO. A true and a predicted segment of one class are a pair if
they have more than half of their union in common, without the predicted pixels where nothing is known. True segments
without a pair are missed, unless they are groups of objects; predicted ones are wrong, unless more than half of them is
where nothing is known or where a group of their class is. What the prediction leaves open is of no segment. Areas are
counted in pixels; several groups of a class, of which COCO has one, count together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transnext.data.segmentation.maps import GROUP, SEGMENT
from transnext.tasks.segmentation.net import IGNORED

Segments = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float64]
_LOW = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class SegmentCounts:
    """What was counted in a picture: whole numbers, so that sums are exact in any order. Cheap to pickle.

    Attributes:
        pairs: int64 `[N, 3]`: class, pixels in common and pixels of the union of each pair.
        missed: int64 `[M]`: classes of true segments without a pair.
        wrong: int64 `[K]`: classes of predicted segments without a pair.
    """

    pairs: Ints
    missed: Ints
    wrong: Ints


def count_segments(true: Segments, predicted: Segments) -> SegmentCounts:
    """Counts what a prediction says of the segments of a picture.

    Args:
        true: Map of segments `[H, W]`, see `transnext.data.segmentation.maps.SEGMENT`.
        predicted: Map of segments `[H, W]`, without groups.

    Raises:
        ValueError: Maps differ in size.
    """
    if true.shape != predicted.shape:
        raise ValueError(
            f"segments of {true.shape[0]}x{true.shape[1]} pixels (height x width), and of {predicted.shape[0]}x"
            f"{predicted.shape[1]} in the prediction: they cannot be compared"
        )
    codes, pixels = np.unique(true.astype(np.int64) << 32 | predicted, return_counts=True)
    there, there_place = np.unique(codes >> 32, return_inverse=True)
    said, said_place = np.unique(codes & _LOW, return_inverse=True)
    there_class, said_class = there & SEGMENT - 1, said & SEGMENT - 1
    there_area, said_area = (_sums(place, pixels) for place in (there_place, said_place))
    unknown, group = there_class == IGNORED, (there & GROUP) != 0
    same = there_class[there_place] == said_class[said_place]
    on_unknown = _sums(said_place, pixels * unknown[there_place])
    excused = on_unknown + _sums(said_place, pixels * (group[there_place] & same))
    union = there_area[there_place] + (said_area - on_unknown)[said_place] - pixels
    pair = same & ~unknown[there_place] & ~group[there_place] & (2 * pixels > union)
    missed, wrong = ~unknown & ~group, (said_class != IGNORED) & (2 * excused <= said_area)
    missed[there_place[pair]] = wrong[said_place[pair]] = False
    return SegmentCounts(
        pairs=np.stack([there_class[there_place][pair], pixels[pair], union[pair]], 1).astype(np.int64),
        missed=there_class[missed],
        wrong=said_class[wrong],
    )


@dataclass(frozen=True, kw_only=True)
class PanopticQuality:
    """Panoptic quality of a split. A class without a true or predicted segment has no number, and counts in no mean.

    Attributes:
        things: bool `[classes]`: those that have objects.
        overlap: float64 `[classes]`: sums over pairs of their intersection over union.
        pairs: int64 `[classes]`: how many there are.
        missed: int64 `[classes]`: true segments without one.
        wrong: int64 `[classes]`: predicted segments without one.
    """

    things: npt.NDArray[np.bool_]
    overlap: Rates
    pairs: Ints
    missed: Ints
    wrong: Ints

    @classmethod
    def of(cls, pictures: Sequence[SegmentCounts], classes: int, things: Collection[int]) -> PanopticQuality:
        """That of several pictures; their order makes no difference.

        Args:
            pictures: What was counted in each.
            classes: How many there are.
            things: Those that have objects.
        """
        nothing = np.zeros((0, 3), np.int64)
        pairs = np.concatenate([nothing, *(one.pairs for one in pictures)])
        overlap = [
            math.fsum(pairs[pairs[:, 0] == label, 1] / pairs[pairs[:, 0] == label, 2]) for label in range(classes)
        ]
        missed, wrong = (
            np.bincount(np.concatenate([nothing[:, 0], *parts]), minlength=classes)
            for parts in ([one.missed for one in pictures], [one.wrong for one in pictures])
        )
        return cls(
            things=np.isin(np.arange(classes), list(things)),
            overlap=np.array(overlap),
            pairs=np.bincount(pairs[:, 0], minlength=classes),
            missed=missed,
            wrong=wrong,
        )

    @property
    def segmentation(self) -> Rates:
        """SQ: mean intersection over union of the pairs of each class, `[classes]`, 0..1; 0 without a pair."""
        return np.where(self._known, self.overlap / np.maximum(self.pairs, 1), np.nan)

    @property
    def recognition(self) -> Rates:
        """RQ: F1 of the segments of each class, `[classes]`, 0..1."""
        return self._of_segments(self.pairs)

    @property
    def quality(self) -> Rates:
        """PQ, the product of both, of each class, `[classes]`, 0..1."""
        return self._of_segments(self.overlap)

    @property
    def _known(self) -> npt.NDArray[np.bool_]:
        return self.pairs + self.missed + self.wrong > 0

    def _of_segments(self, part: npt.NDArray[Any]) -> Rates:
        whole = self.pairs + (self.missed + self.wrong) / 2
        return np.where(self._known, part / np.where(self._known, whole, 1), np.nan)

    def means(self, things: bool | None = None) -> dict[str, float]:
        """Means over classes that have a number: `PQ`, `SQ` and `RQ`, 0..1, and how many these `classes` are.

        Args:
            things: Of the classes with objects, or of the others; of all if None.
        """
        chosen = self._known if things is None else self._known & (self.things == things)
        rates = {"PQ": self.quality, "SQ": self.segmentation, "RQ": self.recognition}
        means = {name: float(rate[chosen].mean()) if chosen.any() else math.nan for name, rate in rates.items()}
        return {**means, "classes": int(chosen.sum())}


def _sums(place: npt.NDArray[np.intp], pixels: npt.NDArray[Any]) -> Ints:
    """Pixels of each place; they stay below 2^53, so that sums are exact."""
    return np.bincount(place, pixels).astype(np.int64)
