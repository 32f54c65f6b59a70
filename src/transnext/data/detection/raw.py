"""A split as an annotation file has it, before it is checked: what readers of all formats give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transnext.data.detection.outlines import RunLengths
from transnext.data.names import printable

Outline = list[npt.NDArray[np.float64]] | RunLengths
"""Polygons, x0, y0, x1, y1, ..., or a mask."""


class RawImage(NamedTuple):
    """An image as it is listed.

    Attributes:
        path: The file.
        id: What results call it.
        size: `(H, W)` that the annotation states; None if it does not.
        group: Images of one group stay in one split.
    """

    path: str
    id: int | str
    size: tuple[int, int] | None = None
    group: str | None = None


@dataclass
class RawObjects:
    """Objects as they are listed; all lists have the same length.

    Attributes:
        images: Places in the list of images.
        labels: Places in the list of classes.
        boxes: x0, y0, x1, y1; None if it is to be had from the outline.
        crowd: Groups that are neither found nor missed.
        areas: As stated; None if it is not.
        outlines: None where there is none.
        places: What tells where in the file an object is, as `RawSplit.describe` takes it.
    """

    images: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float] | None] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    areas: list[float | None] = field(default_factory=list)
    outlines: list[Outline | None] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def add(
        self,
        image: int,
        label: int,
        box: tuple[float, float, float, float] | None,
        place: Any,
        *,
        crowd: bool = False,
        area: float | None = None,
        outline: Outline | None = None,
    ) -> None:
        """Appends one."""
        self.images.append(image)
        self.labels.append(label)
        self.boxes.append(box)
        self.crowd.append(crowd)
        self.areas.append(area)
        self.outlines.append(outline)
        self.places.append(place)


@dataclass
class RawSplit:
    """A split as it is listed.

    Attributes:
        name: `train`, `val`, ...
        classes: Names.
        category_ids: What the file calls them.
        images: The images.
        objects: What is in them.
        relative: Boxes and polygons are shares of the upright picture's sides instead of pixels.
        parent: The class that may be no class but only the name above all others.
        describe: From `RawObjects.places` to a text.
    """

    name: str
    classes: list[str]
    category_ids: list[int]
    images: list[RawImage] = field(default_factory=list)
    objects: RawObjects = field(default_factory=RawObjects)
    relative: bool = False
    parent: str | None = None
    describe: Callable[[Any], str] = str


def number(value: Any) -> float:
    """A number of an annotation file; NaN if it is none, infinity if it is huge."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def whole(value: Any) -> int | None:
    """A whole number of an annotation file that fits 64 bits; None if it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def one_line(error: BaseException) -> str:
    """What an error says."""
    return " ".join(printable(str(error)).split())[:200] or type(error).__name__


def read_bytes(path: str, limit: int) -> bytes:
    """Reads a file.

    Args:
        path: The file.
        limit: Most bytes that it may have.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read, or is larger.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - ten thousands of small files
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {printable(path)}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{printable(path)} cannot be read: {one_line(error)}") from None
    if len(data) > limit:
        raise ValueError(f"{printable(path)} is larger than the limit of {limit:,} bytes")
    return data


def read_text(path: str, limit: int) -> str:
    """Reads a text file in UTF-8; arguments and errors as of `read_bytes`, and a ValueError for other texts."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(path)} is not UTF-8 text: {one_line(error)}") from None


def roboflow_group(name: str) -> str | None:
    """The picture that Roboflow made `name` from by augmentation, None if the name does not say so."""
    stem, mark, _ = name.rpartition(".rf.")
    return stem or None if mark else None
