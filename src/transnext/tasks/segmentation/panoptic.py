"""Panoptic answer of a segmenter: every pixel of a picture is of one object, of one area of a class, or of nothing."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from transnext.atomic import replacing, write_atomically
from transnext.data.names import printable
from transnext.tasks.class_colours import Colour, colour_of
from transnext.tasks.segmentation.draw import class_colours, draw_map
from transnext.tasks.segmentation.net import IGNORED

PANOPTIC_NAME = "panoptic_predictions"
"""Of the JSON file and of the folder of PNGs beside it, as COCO's are called."""
_NAMED = 8
"""Segments that a line names, at most."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """An object, or all areas of a class that has no objects.

    Attributes:
        id: Its value in the map, from 1.
        label: Place in the list of classes.
        score: Probability of the class, 0..1; of several queries the largest.
        fused: It is all of its class.
    """

    id: int
    label: int
    score: float
    fused: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class PanopticMap:
    """Segments of an upright picture.

    Attributes:
        name: Path or address of the picture, or "image" and its place in the call.
        ids: int32 `[H, W]`, in pixels of the picture: the segment of each, 0 for none.
        segments: In the order of their ids, which are 1, 2, 3, ...
        class_names: Names of all classes.
        thing_classes: Names of those that have objects; of the others all is one segment.
        colours: RGB of each class, 0..255, if the data gave them; None for colours of our own.
        category_ids: Number of each class in files, if the data gave them; None to count from 1.
    """

    name: str
    ids: npt.NDArray[np.int32] = field(repr=False)
    segments: tuple[Segment, ...]
    class_names: Sequence[str] = field(repr=False)
    thing_classes: Collection[str] = field(repr=False)
    colours: Sequence[Colour] | None = field(default=None, repr=False)
    category_ids: Sequence[int] | None = field(default=None, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of the picture, pixels."""
        return self.ids.shape[0], self.ids.shape[1]

    @cached_property
    def segments_info(self) -> list[dict[str, Any]]:
        """Of each segment what COCO's files say: `id`, `category_id`, `iscrowd` (0), `area`, `bbox` (x, y, width and
        height, pixels), and beside that `class`, `isthing` and `score`."""
        from scipy.ndimage import find_objects

        areas = np.bincount(self.ids.reshape(-1), minlength=len(self.segments) + 1).tolist()
        boxes = find_objects(self.ids, len(self.segments))
        numbers = category_numbers(self.class_names, self.category_ids)
        return [
            {
                "id": one.id,
                "category_id": numbers[one.label],
                "iscrowd": 0,
                "area": areas[one.id],
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                "class": self.class_names[one.label],
                "isthing": int(self.class_names[one.label] in self.thing_classes),
                "score": round(one.score, 6),
            }
            for one, (rows, columns) in zip(self.segments, boxes, strict=True)
        ]

    @cached_property
    def segment_names(self) -> list[str]:
        """Class of each segment, and its number where there are several of the class."""
        labels = [one.label for one in self.segments]
        return [
            f"{self.class_names[label]} {labels[: i + 1].count(label)}"
            if labels.count(label) > 1
            else self.class_names[label]
            for i, label in enumerate(labels)
        ]

    def mask(self, segment: int) -> npt.NDArray[np.bool_]:
        """Pixels of the segment with an id, bool `[H, W]`.

        Raises:
            ValueError: There is no such segment.
        """
        if not 1 <= segment <= len(self.segments):
            raise ValueError(f"there is no segment {segment}: there are {len(self.segments)}, counted from 1")
        return np.asarray(self.ids == segment)

    def draw(self, picture: Image.Image, *, opacity: float = 0.5, legend: bool = True) -> Image.Image:
        """The picture with its segments over it and a legend: areas in the colour of their class, each object in one of
        its own; see `draw_map`.

        Args:
            picture: The one that was asked about, upright.
            opacity: Of the colours, 0..1.
            legend: Add the legend.

        Raises:
            ValueError: There are more than 255 segments.
        """
        if len(self.segments) > IGNORED:
            raise ValueError(f"{len(self.segments)} segments cannot be drawn: expected {IGNORED} at most")
        own = class_colours(len(self.class_names), self.colours)
        colours = [
            own[one.label].tolist() if one.fused else colour_of(len(self.class_names) + one.id) for one in self.segments
        ]
        labels = (self.ids - 1).astype(np.uint8)  # what is of no segment becomes 255, which is left as it is
        table = np.array(colours, np.uint8).reshape(-1, 3)
        return draw_map(
            picture, labels, self.segment_names, table, opacity=opacity, legend=legend, nothing="no segment"
        )

    def text(self) -> str:
        """Share of each segment, the largest first."""
        if not self.segments:
            return "no segments"
        areas = [info["area"] for info in self.segments_info]
        order = np.argsort(-np.array(areas), kind="stable").tolist()
        shares = [f"{printable(self.segment_names[i])} {areas[i] / self.ids.size:.1%}" for i in order]
        more = f" and {len(order) - _NAMED} more" if len(order) > _NAMED else ""
        return ", ".join(shares[:_NAMED]) + more

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the picture and its segments."""
        return {"image": self.name, "size": list(self.size), "segments": self.segments_info}


def checked_things(things: Collection[str], classes: Sequence[str]) -> list[str]:
    """Names of classes that have objects, in the order of the classes.

    Raises:
        ValueError: There is no such class.
    """
    if unknown := [name for name in things if name not in classes]:
        known = ", ".join(map(printable, classes[:10])) + (" ..." if len(classes) > 10 else "")
        raise ValueError(f"thing_classes has {unknown[0]!r}: the classes are {known}")
    return [name for name in classes if name in things]


def things_text(things: Collection[str], classes: Sequence[str]) -> str:
    """A line that says which classes have objects."""
    others = [name for name in classes if name not in things]
    parts = [", ".join(map(printable, names)) or "none" for names in (list(things), others)]
    return f"Classes with objects (things): {parts[0]}; of which all is one segment (stuff): {parts[1]}."


def category_numbers(classes: Sequence[str], given: Sequence[int] | None) -> list[int]:
    """Number of each class in COCO's files: as the data gave it, else counted from 1."""
    return list(range(1, len(classes) + 1)) if given is None else list(given)


@contextmanager
def coco_panoptic(
    folder: Path, classes: Sequence[str], thing_classes: Collection[str], category_ids: Sequence[int] | None = None
) -> Iterator[Callable[[Path, PanopticMap], None]]:
    """Writes COCO panoptic files: a PNG for each picture, whose colours are ids (red + 256 green + 65536 blue), and
    `panoptic_predictions.json`, which is there once all are.

    Args:
        folder: Where they go; PNGs go below `folder/panoptic_predictions`.
        classes: Names of all classes.
        thing_classes: Names of those that have objects.
        category_ids: Number of each class; by default from 1.

    Yields:
        A function that takes the path of a PNG below that folder, and what is in it.
    """
    pictures = folder / PANOPTIC_NAME
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def add(path: Path, found: PanopticMap) -> None:
        number = len(images) + 1
        height, width = found.size
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = np.stack([found.ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
        with replacing(path) as temporary:
            Image.fromarray(colours).save(temporary, "PNG")
        images.append({"id": number, "file_name": found.name, "height": height, "width": width})
        file_name = path.relative_to(pictures).as_posix()
        annotations.append({"image_id": number, "file_name": file_name, "segments_info": found.segments_info})

    yield add
    numbers = category_numbers(classes, category_ids)
    categories = [
        {"id": number, "name": name, "isthing": int(name in thing_classes)}
        for number, name in zip(numbers, classes, strict=True)
    ]
    document = {"images": images, "annotations": annotations, "categories": categories}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{PANOPTIC_NAME}.json", json.dumps(document, ensure_ascii=False) + "\n")
