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
    places = _Places(true.shape[0], true.shape[1], radius)
    there, said = (places.of_border(labels) for labels in (true, predicted))
    counts = [places.near(said, there), said, places.near(there, said), there]
    rows = np.stack([np.bincount(places.classes(some), minlength=256) for some in counts], 1)
    classes = np.flatnonzero(rows.any(1))
    return classes.astype(np.int32), rows[classes].astype(np.int64)


class _Places:
    """Numbers of the places of pixels by class, column and row, rising, so that neighbours in a column are close.

    Around all columns and rows there is a margin, from which none is reached.

    Args:
        height: Of the picture.
        width: Of the picture.
        radius: How far from one another places of a class are near, pixels.
    """

    def __init__(self, height: int, width: int, radius: int) -> None:
        self.radius = radius
        self.size = (height, width)
        self.rows, self.columns = height + 2 * radius, width + 2 * radius

    def of_border(self, labels: Labels) -> Ints:
        """Those of the border pixels of a map, rising."""
        rows, columns = np.nonzero(border_of(labels))
        classes = labels[rows, columns].astype(np.int64)
        return np.sort((classes * self.columns + columns + self.radius) * self.rows + rows + self.radius)

    def classes(self, places: Ints) -> Ints:
        """The class of each."""
        return places // (self.rows * self.columns)

    def near(self, places: Ints, others: Ints) -> Ints:
        """Those of some places that have another of their class within the radius."""
        places = places[self._may_be_near(places, others)]
        found = []
        # From the inside out: most borders that meet are close.
        for dx in sorted(range(-self.radius, self.radius + 1), key=abs):
            reach = math.isqrt(self.radius**2 - dx**2)
            near = _within(others, places + dx * self.rows - reach, 2 * reach)
            found.append(places[near])
            places = places[~near]
        return np.concatenate(found)

    def _may_be_near(self, places: Ints, others: Ints) -> npt.NDArray[np.bool_]:
        """Whether another lies in the same square with sides of the radius, or in one of those around it."""
        rows = self.size[0] // self.radius + 3
        of_places, of_others = self._squares(places, rows), np.unique(self._squares(others, rows))
        near = np.zeros(len(places), bool)
        for dx in (-1, 0, 1):
            near |= _within(of_others, of_places + dx * rows - 1, 2)
        return near

    def _squares(self, places: Ints, rows: int) -> Ints:
        of_class, row = np.divmod(places, self.rows)
        classes, column = np.divmod(of_class, self.columns)
        columns = self.size[1] // self.radius + 3
        column, row = ((some - self.radius) // self.radius + 1 for some in (column, row))
        squares: Ints = (classes * columns + column) * rows + row
        return squares


def _within(numbers: Ints, low: Ints, span: int) -> npt.NDArray[np.bool_]:
    """For each of `low` whether one of some numbers, which rise, is at least that and at most `span` more."""
    ended = np.append(numbers, np.iinfo(np.int64).max)
    within: npt.NDArray[np.bool_] = ended[np.searchsorted(numbers, low)] <= low + span
    return within
