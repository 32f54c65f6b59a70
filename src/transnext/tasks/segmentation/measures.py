"""What is counted in one picture: confusion of classes, and how well borders are met."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transnext.tasks.segmentation.net import IGNORED
from transnext.tasks.segmentation.panoptic_quality import SegmentCounts

TOLERANCE = 0.0075
"""Distance within which borders meet, in diagonals of the picture."""
_AT_ONCE = 2**22
"""Pixels that are counted together."""
Labels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ImageCounts:
    """What was counted in a picture: whole numbers, so that sums are exact in any order. Cheap to pickle.

    Attributes:
        index: Place of the picture.
        pairs: int32 `[N]`: `true class * classes + predicted class` of the pairs that are there, rising.
        pixels: int64 `[N]`: pixels of each.
        border_classes: int32 `[M]`: classes with a border, true or predicted.
        borders: int64 `[M, 4]` of each: predicted border pixels near a true one, all predicted ones, true ones near a
            predicted one, all true ones.
        segments: What was counted of segments, if they are told.
    """

    index: int
    pairs: npt.NDArray[np.int32]
    pixels: Ints
    border_classes: npt.NDArray[np.int32]
    borders: Ints
    segments: SegmentCounts | None = None

    def areas(self, classes: int) -> Ints:
        """int64 `[3, classes]`: pixels rightly named, of the true class, of the predicted class."""
        true, predicted = np.divmod(self.pairs.astype(np.int64), classes)
        counted = np.zeros((3, classes), np.int64)
        np.add.at(counted[0], true[true == predicted], self.pixels[true == predicted])
        np.add.at(counted[1], true, self.pixels)
        np.add.at(counted[2], predicted, self.pixels)
        return counted


def counts_of(index: int, true: Labels, predicted: Labels, classes: int) -> ImageCounts:
    """Counts what a prediction says of a picture; pixels whose class is not known do not count.

    Args:
        index: Place of the picture.
        true: `[H, W]`: classes, and `IGNORED`.
        predicted: `[H, W]`: classes.
        classes: How many there are.

    Raises:
        ValueError: Maps differ in size, or have classes that there are not.
    """
    if true.shape != predicted.shape:
        raise ValueError(
            f"image {index}: its map is {true.shape[0]}x{true.shape[1]} pixels (height x width), the prediction "
            f"{predicted.shape[0]}x{predicted.shape[1]}: they cannot be compared"
        )
    labelled = true != IGNORED
    counts = np.zeros(classes**2, np.int64)
    step = max(1, _AT_ONCE // max(1, true.shape[1]))
    for first in range(0, true.shape[0], step):
        rows = slice(first, first + step)
        known, said = (labels[rows][labelled[rows]].astype(np.int64) for labels in (true, predicted))
        most = max(int(known.max(initial=0)), int(said.max(initial=0)))
        if most >= classes:
            raise ValueError(f"image {index} has class {most}, and there are {classes} classes")
        counts += np.bincount(known * classes + said, minlength=classes**2)
    pairs = np.flatnonzero(counts)
    border_classes, borders = _borders(true, np.where(labelled, predicted, np.uint8(IGNORED)))
    return ImageCounts(
        index=index,
        pairs=pairs.astype(np.int32),
        pixels=counts[pairs].astype(np.int64),
        border_classes=border_classes,
        borders=borders,
    )


def border_of(labels: Labels) -> npt.NDArray[np.bool_]:
    """Pixels `[H, W]` beside one of another class, `IGNORED` being none."""
    border = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        first, second = (labels[:-1], labels[1:]) if axis == 0 else (labels[:, :-1], labels[:, 1:])
        differs = (first != second) & (first != IGNORED) & (second != IGNORED)
        if axis == 0:
            border[:-1] |= differs
            border[1:] |= differs
        else:
            border[:, :-1] |= differs
            border[:, 1:] |= differs
    return border


def _borders(true: Labels, predicted: Labels) -> tuple[npt.NDArray[np.int32], Ints]:
    radius = max(1, round(TOLERANCE * math.hypot(*true.shape)))
    points = [_points(labels) for labels in (true, predicted)]
    classes = sorted(points[0].keys() | points[1].keys())
    nothing = np.zeros((0, 2), np.int64)
    rows = []
    for label in classes:
        there, said = (found.get(label, nothing) for found in points)
        rows.append([_near(said, there, radius), len(said), _near(there, said, radius), len(there)])
    return np.array(classes, np.int32), np.array(rows, np.int64).reshape(-1, 4)


def _points(labels: Labels) -> dict[int, Ints]:
    """Places `[N, 2]` of the border pixels of each class."""
    places = np.argwhere(border_of(labels))
    of_class = labels[places[:, 0], places[:, 1]]
    return {int(label): places[of_class == label] for label in np.unique(of_class)}


def _near(points: Ints, others: Ints, radius: int) -> int:
    """How many of some places have another within a radius, pixels."""
    if not len(points) or not len(others):
        return 0
    low = np.minimum(points.min(0), others.min(0)) - radius
    points, others = points - low, others - low
    height, width = np.maximum(points.max(0), others.max(0)) + radius + 1
    # How many others lie above each place in its column: of a column of any height two look-ups tell if there is one.
    above = np.zeros((height + 1, width), np.uint16 if height < 2**16 else np.int64)
    above[others[:, 0] + 1, others[:, 1]] = 1
    np.cumsum(above, axis=0, out=above)
    near = np.zeros(len(points), bool)
    for dx in range(-radius, radius + 1):
        reach = math.isqrt(radius**2 - dx**2)
        columns = points[:, 1] + dx
        near |= above[points[:, 0] + reach + 1, columns] > above[points[:, 0] - reach, columns]
    return int(near.sum())
