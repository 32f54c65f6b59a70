"""Answer of a segmenter about a picture: the class of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from transnext.data.names import printable
from transnext.tasks.class_colours import Colour
from transnext.tasks.segmentation.draw import class_colours, draw_map
from transnext.tasks.segmentation.outlines import Polygon, polygons_of

_NAMED = 8
"""Classes that a line names, at most."""
_AT_ONCE = 2**22
"""Pixels that are counted together."""


class Shares:
    """What a map says of its classes as a whole.

    Attributes:
        name: Path or address of the picture, or "image" and its place in the call.
        class_names: Names of all classes.
        size: `(H, W)` of the picture, pixels.
        pixels: Pixels of each class, `[classes]`.
    """

    name: Any
    class_names: Any
    size: Any
    pixels: Any

    def text(self) -> str:
        """Share of each class that is there, the largest first."""
        total = self.size[0] * self.size[1]
        there = [place for place in np.argsort(-self.pixels, kind="stable").tolist() if self.pixels[place]]
        shares = [f"{printable(self.class_names[place])} {self.pixels[place] / total:.1%}" for place in there]
        more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
        return ", ".join(shares[:_NAMED]) + more

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the picture, and of each class that is there its pixels and their share."""
        total = self.size[0] * self.size[1]
        classes = [
            {"class": name, "pixels": int(count), "share": int(count) / total}
            for name, count in zip(self.class_names, self.pixels, strict=True)
            if count
        ]
        return {"image": self.name, "size": list(self.size), "classes": classes}


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassMap(Shares):
    """Classes of the pixels of an upright picture.

    Attributes:
        name: Path or address of the picture, or "image" and its place in the call.
        labels: uint8 `[H, W]`, in pixels of the picture: places in `class_names`.
        class_names: Names of all classes.
        colours: RGB of each class, 0..255, if the data gave them; None for colours of our own.
        confidence: Probability of the class of each pixel, float16 `[H, W]`, 0..1; None if it was not asked for, or if
            the network tells none.
        profile: Where the picture lies on the ground, if its file said so, as rasterio has it.
    """

    name: str
    labels: npt.NDArray[np.uint8] = field(repr=False)
    class_names: Sequence[str] = field(repr=False)
    colours: Sequence[Colour] | None = field(default=None, repr=False)
    confidence: npt.NDArray[np.float16] | None = field(default=None, repr=False)
    profile: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of the picture, pixels."""
        return self.labels.shape[0], self.labels.shape[1]

    @cached_property
    def pixels(self) -> npt.NDArray[np.int64]:
        """Pixels of each class, `[classes]`."""
        return class_counts(self.labels)[: len(self.class_names)]

    def mask(self, class_name: str) -> npt.NDArray[np.bool_]:
        """Pixels of a class, bool `[H, W]`.

        Raises:
            ValueError: The model knows no such class.
        """
        if class_name not in self.class_names:
            raise ValueError(
                f"the model knows no class {class_name!r}: it knows {', '.join(map(repr, self.class_names[:10]))}"
            )
        return np.asarray(self.labels == list(self.class_names).index(class_name))

    def polygons(self) -> list[tuple[str, Polygon]]:
        """Each region of one class: its class, and rings of x, y, pixels, the outer one first, then those of holes.

        See `polygons_of`.

        Raises:
            ValueError: rasterio is missing.
        """
        return [(self.class_names[place], polygon) for place, polygon in polygons_of(self.labels)]

    def draw(self, picture: Image.Image, *, opacity: float = 0.5, legend: bool = True) -> Image.Image:
        """The picture with its map over it and a legend; see `draw_map`.

        Args:
            picture: The one that was asked about, upright.
            opacity: Of the colours, 0..1.
            legend: Add the legend.
        """
        colours = class_colours(len(self.class_names), self.colours)
        return draw_map(picture, self.labels, self.class_names, colours, opacity=opacity, legend=legend)


@dataclass(frozen=True, kw_only=True, eq=False)
class WrittenMap(Shares):
    """Classes of the pixels of an upright picture, in a file.

    Attributes:
        name: Path of the picture.
        path: Of the map, uint8 `[H, W]`: places in `class_names`.
        size: `(H, W)`, pixels.
        class_names: Names of all classes.
        pixels: Pixels of each class, `[classes]`.
    """

    name: str
    path: Path
    size: tuple[int, int]
    class_names: Sequence[str] = field(repr=False)
    pixels: npt.NDArray[np.int64] = field(repr=False)


def class_counts(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How many pixels `[h, w]` have each value, `[256]`, in little memory: `bincount` makes eight bytes of each."""
    counts = np.zeros(256, np.int64)
    step = max(1, _AT_ONCE // max(1, labels.shape[1]))
    for first in range(0, len(labels), step):
        counts += np.bincount(labels[first : first + step].reshape(-1), minlength=256)
    return counts
