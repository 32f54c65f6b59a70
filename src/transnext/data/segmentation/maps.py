"""Maps of classes as a data set has them: described in few bytes, decoded when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from transnext.data.images import UnreadableImage, read_header, read_stored, turned_upright
from transnext.data.instances import Annotation
from transnext.data.mask_parts import decoded
from transnext.data.segmentation.table import IGNORED, ClassTable, code_counts, stored_pixels

SEGMENT = 256
"""Maps of segments have `class + SEGMENT * number` in each pixel, `IGNORED` where it does not count; the pixels of a
segment share its class and number, and number 0 is all that is there of a class."""
GROUP = 2**30
"""Added in the pixels of a group of objects that are not told apart (COCO's `iscrowd`)."""
_AT_ONCE = 2**22
"""Pixels that are counted together."""
_Pixel = TypeVar("_Pixel", np.uint8, np.int32)


class LabelMap(Protocol):
    """The map of a picture. Cheap to pickle."""

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of the upright picture."""

    def read(self) -> npt.NDArray[np.uint8]:
        """The class of each pixel of the upright picture, uint8 `[H, W]`; `IGNORED` where it does not count.

        Raises:
            UnreadableImage: The label file cannot be read, or is none of this picture.
            FileNotFoundError: It is gone.
        """

    def segments(self) -> npt.NDArray[np.int32] | None:
        """The segment of each pixel, int32 `[H, W]`, see `SEGMENT` and `GROUP`; None where segments are not told apart.

        Raises:
            UnreadableImage: As of `read`.
            FileNotFoundError: As of `read`.
        """


def classes_of(segments: npt.NDArray[np.uint8] | npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """The class of each pixel of a map of segments, as `LabelMap.read` has it, or of classes, which stay."""
    return (segments & SEGMENT - 1).astype(np.uint8, copy=False)


def class_counts(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How many pixels `[h, w]` have each value, `[256]`, in little memory: `bincount` makes eight bytes of each."""
    counts = np.zeros(256, np.int64)
    step = max(1, _AT_ONCE // max(1, labels.shape[1]))
    for first in range(0, len(labels), step):
        counts += np.bincount(labels[first : first + step].reshape(-1), minlength=256)
    return counts


def joined(segments: npt.NDArray[np.int32], things: Collection[int]) -> npt.NDArray[np.int32]:
    """A map of segments in which classes without objects have one segment each.

    Args:
        segments: See `SEGMENT`.
        things: Classes that have objects.
    """
    stuff = np.ones(SEGMENT, bool)
    stuff[list(things)] = False
    return np.where(stuff[segments & SEGMENT - 1], segments & (GROUP | SEGMENT - 1), segments)


@dataclass(frozen=True, kw_only=True)
class MapFile:
    """A file of values or colours.

    Attributes:
        size: `(H, W)` of the upright picture.
        path: The file.
        turn: Orientation of EXIF by which its pixels are turned; 1 if they are not.
        table: What its pixels mean.
    """

    size: tuple[int, int]
    path: str
    turn: int
    table: ClassTable

    def read(self) -> npt.NDArray[np.uint8]:
        """See `LabelMap.read`."""
        try:
            labels = self.table.read(read_stored(self.path))
        except UnreadableImage:
            raise
        except ValueError as error:
            raise UnreadableImage(self.path, str(error)) from None
        return _upright(labels, self.turn, self.size, self.path)

    def segments(self) -> None:
        """See `LabelMap.segments`: there are none."""
        return


@dataclass(frozen=True, kw_only=True)
class PanopticFile:
    """A PNG whose colours are numbers of segments.

    Attributes:
        size: `(H, W)` of the upright picture.
        path: The file.
        turn: As in `MapFile`.
        labels: The class of each segment; others are ignored.
        groups: Segments that are groups of objects.
    """

    size: tuple[int, int]
    path: str
    turn: int
    labels: Mapping[int, int]
    groups: frozenset[int] = frozenset()

    def read(self) -> npt.NDArray[np.uint8]:
        """See `LabelMap.read`."""
        return classes_of(self.segments())

    def segments(self) -> npt.NDArray[np.int32]:
        """See `LabelMap.segments`."""
        numbers, place = segments_of(self.path)
        return _upright(segment_codes(numbers, self.labels, self.groups)[place], self.turn, self.size, self.path)


@dataclass(frozen=True, kw_only=True)
class DrawnMap:
    """Outlines of objects, of which small ones lie over large ones; groups are ignored.

    Attributes:
        objects: What is drawn, the first class as 1: 0 is what is no object.
    """

    objects: Annotation

    @property
    def size(self) -> tuple[int, int]:
        """See `LabelMap.size`."""
        return self.objects.size

    def read(self) -> npt.NDArray[np.uint8]:
        """See `LabelMap.read`."""
        from pycocotools import mask as run_lengths

        labels = np.zeros(self.size, np.uint8)
        objects = self.objects
        outlines = objects.segmentations or ()
        areas = np.array(run_lengths.area(list(outlines)) if outlines else [], np.int64)
        # Groups first, so that what is known within one is drawn over it.
        for i in np.lexsort((np.arange(len(objects)), -areas, ~objects.crowd)).tolist():
            inside, x, y = decoded(outlines[i]["counts"], self.size[0])
            around = labels[y : y + inside.shape[0], x : x + inside.shape[1]]
            around[inside] = IGNORED if objects.crowd[i] else objects.labels[i] + 1
        return labels

    def segments(self) -> None:
        """See `LabelMap.segments`: objects are drawn over one another, as maps of classes."""
        return


@dataclass(frozen=True, kw_only=True)
class RelabelledMap:
    """A map with other numbers of classes.

    Attributes:
        map: The map.
        labels: The new number of each old one, 256 bytes.
    """

    map: LabelMap
    labels: bytes

    @property
    def size(self) -> tuple[int, int]:
        """See `LabelMap.size`."""
        return self.map.size

    def read(self) -> npt.NDArray[np.uint8]:
        """See `LabelMap.read`."""
        return np.asarray(np.frombuffer(self.labels, np.uint8)[self.map.read()])

    def segments(self) -> npt.NDArray[np.int32] | None:
        """See `LabelMap.segments`."""
        found = self.map.segments()
        if found is None:
            return None
        labels = np.frombuffer(self.labels, np.uint8).astype(np.int32)[found & SEGMENT - 1]
        return np.where(labels == IGNORED, labels, found & ~(SEGMENT - 1) | labels)


def segments_of(path: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """The numbers of the segments in a panoptic PNG, rising, and of each pixel `[H, W]` the place of its number.

    Raises:
        UnreadableImage: It cannot be read, or is no such file.
        FileNotFoundError: It is gone.
    """
    rgb = np.asarray(read_stored(path).convert("RGB")).astype(np.int64)
    codes = rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16
    numbers, place = np.unique(codes, return_inverse=True)
    return numbers, place.reshape(codes.shape)


def segment_codes(
    numbers: npt.NDArray[np.int64], labels: Mapping[int, int], groups: Collection[int]
) -> npt.NDArray[np.int32]:
    """What the pixels of segments have in a map of segments, int32 `[N]`, see `SEGMENT`.

    Args:
        numbers: Of the segments in the file, rising, `[N]`.
        labels: The class of each number; others are ignored.
        groups: Numbers of groups of objects.
    """
    codes = [
        labels[number] + SEGMENT * (place + 1) + GROUP * (number in groups) if number in labels else IGNORED
        for place, number in enumerate(numbers.tolist())
    ]
    return np.array(codes, np.int32)


@dataclass(frozen=True)
class SeenMap:
    """What a label file holds, before it is said what that means.

    Attributes:
        size: `(H, W)` as stored, turned by its own orientation.
        turn: That orientation.
        codes: As in `Stored`, those that are used, int64 `[N]`.
        counts: Pixels of each.
        are_colours: They are colours.
        shown: The colour of each value; None if one has none.
        palette: The file has a palette.
        in_rgb: It has three channels or more, see `Stored`.
        format: Of the file, as Pillow calls it.
        digest: Hash of the pixels.
    """

    size: tuple[int, int]
    turn: int
    codes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    are_colours: bool
    shown: npt.NDArray[np.int32] | None
    palette: bool
    in_rgb: bool
    format: str
    digest: int


def look_at(path: str) -> SeenMap | tuple[str, str]:
    """Return what a label file holds, or the kind of finding and the reason why it cannot be used."""
    try:
        header = read_header(path)
        image = read_stored(path)
    except FileNotFoundError:
        return "label_missing", "the file is gone"
    except UnreadableImage as error:
        return "label_unreadable", error.reason
    try:
        stored = stored_pixels(image)
        codes, counts = code_counts(stored)
    except ValueError as error:
        return "label_not_map", str(error)
    height, width = stored.codes.shape
    size = (width, height) if header.orientation >= 5 else (height, width)
    return SeenMap(
        size=size,
        turn=header.orientation,
        codes=codes,
        counts=counts,
        are_colours=stored.are_colours,
        shown=None if stored.are_colours else stored.shown(codes),
        palette=image.mode == "P",
        in_rgb=stored.in_rgb,
        format=image.format or "",
        digest=digest_of(stored.codes),
    )


def digest_of(codes: npt.NDArray[np.integer]) -> int:
    """A hash of pixels, 64 bits, the same on every machine."""
    small = codes.dtype == np.uint8 or (codes.size > 0 and int(codes.min()) >= 0 and int(codes.max()) < 256)
    content = np.ascontiguousarray(codes, "|u1" if small else "<i4")
    return int.from_bytes(hashlib.blake2b(content.tobytes(), digest_size=8).digest(), "little")


def _upright(labels: npt.NDArray[_Pixel], turn: int, size: tuple[int, int], path: str) -> npt.NDArray[_Pixel]:
    labels = np.ascontiguousarray(turned_upright(labels, turn))
    if labels.shape != size:
        raise UnreadableImage(
            path, f"it has {labels.shape[1]} x {labels.shape[0]} pixels, its picture {size[1]} x {size[0]}"
        )
    return labels
