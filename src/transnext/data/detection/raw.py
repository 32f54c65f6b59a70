"""A split as an annotation file has it, before it is checked: what readers of all formats give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transnext.data.detection.outlines import RunLengths

Outline = list[npt.NDArray[np.float64]] | RunLengths | str
"""Polygons, x0, y0, x1, y1, ..., or a mask; a text says why what is there cannot be read."""


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
        annotations: The file or folder where annotations were looked for.
    """

    name: str
    classes: list[str]
    category_ids: list[int]
    images: list[RawImage] = field(default_factory=list)
    objects: RawObjects = field(default_factory=RawObjects)
    relative: bool = False
    parent: str | None = None
    describe: Callable[[Any], str] = str
    annotations: str = ""
