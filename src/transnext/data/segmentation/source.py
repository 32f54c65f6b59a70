"""Pictures with maps of classes, in little memory and cheap to hand to reading processes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from transnext.data.channels import read_channels
from transnext.data.class_names import listing, matched_names, named_places
from transnext.data.detection.source import DetectionSource
from transnext.data.image_files import file_version, log
from transnext.data.images import read_image
from transnext.data.names import PackedNames, printable
from transnext.data.segmentation.maps import DrawnMap, LabelMap, MapFile, PanopticFile, RelabelledMap, digest_of
from transnext.data.segmentation.table import IGNORED, ClassTable, Colour


class Maps(Protocol):
    """The maps of a split. Cheap to pickle."""

    def at(self, index: int, size: tuple[int, int]) -> LabelMap:
        """The map of a picture of `(H, W)` pixels."""

    def subset(self, images: Sequence[int]) -> Maps:
        """Those of some pictures, in the given order."""


@dataclass(frozen=True)
class FileMaps:
    """Files of values or colours.

    Attributes:
        paths: The files.
        turns: uint8 `[images]`: see `MapFile.turn`.
        table: What their pixels mean.
    """

    paths: PackedNames
    turns: npt.NDArray[np.uint8]
    table: ClassTable

    def at(self, index: int, size: tuple[int, int]) -> LabelMap:
        """See `Maps.at`."""
        return MapFile(size=size, path=self.paths[index], turn=int(self.turns[index]), table=self.table)

    def subset(self, images: Sequence[int]) -> FileMaps:
        """See `Maps.subset`."""
        return FileMaps(
            PackedNames.pack([self.paths[i] for i in images]), self.turns[np.asarray(images, np.int64)], self.table
        )


@dataclass(frozen=True)
class PanopticMaps:
    """Panoptic PNGs.

    Attributes:
        paths: The files.
        turns: uint8 `[images]`: see `MapFile.turn`.
        starts: int64 `[images + 1]`: where the segments of each begin.
        numbers: int64: of the segments.
        labels: uint8: their classes.
        groups: bool: they are groups of objects.
        digests: uint64 `[images]`: hashes of which pixels are of which segment.
    """

    paths: PackedNames
    turns: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    labels: npt.NDArray[np.uint8]
    groups: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint64]

    def at(self, index: int, size: tuple[int, int]) -> LabelMap:
        """See `Maps.at`."""
        own = slice(*self.starts[index : index + 2].tolist())
        labels = dict(zip(self.numbers[own].tolist(), self.labels[own].tolist(), strict=True))
        groups = frozenset(self.numbers[own][self.groups[own]].tolist())
        turn = int(self.turns[index])
        return PanopticFile(size=size, path=self.paths[index], turn=turn, labels=labels, groups=groups)

    def subset(self, images: Sequence[int]) -> PanopticMaps:
        """See `Maps.subset`."""
        spans = [np.arange(*self.starts[i : i + 2].tolist()) for i in images]
        chosen = np.concatenate([*spans, np.zeros(0, np.int64)]).astype(np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(span) for span in spans], dtype=np.int64)])
        places = np.asarray(images, np.int64)
        return PanopticMaps(
            paths=PackedNames.pack([self.paths[i] for i in images]),
            turns=self.turns[places],
            starts=starts,
            numbers=self.numbers[chosen],
            labels=self.labels[chosen],
            groups=self.groups[chosen],
            digests=self.digests[places],
        )

    def most(self, things: Collection[int]) -> int:
        """How many objects and classes without objects an image has at most; groups do not count.

        Args:
            things: Classes that have objects.
        """
        images = len(self.starts) - 1
        image = np.repeat(np.arange(images), np.diff(self.starts))
        objects = np.isin(self.labels, list(things))
        counts = np.bincount(image[objects & ~self.groups], minlength=images)
        stuff = np.unique(image[~objects & ~self.groups] * 256 + self.labels[~objects & ~self.groups])
        return int((counts + np.bincount(stuff // 256, minlength=images)).max(initial=0))


@dataclass(frozen=True)
class ObjectMaps:
    """Objects with outlines.

    Attributes:
        source: The objects.
    """

    source: DetectionSource

    def at(self, index: int, size: tuple[int, int]) -> LabelMap:
        """See `Maps.at`."""
        return DrawnMap(objects=self.source.target(index))

    def subset(self, images: Sequence[int]) -> ObjectMaps:
        """See `Maps.subset`."""
        return ObjectMaps(self.source.subset(images))


@dataclass(frozen=True, kw_only=True)
class MapSource:
    """Pictures with maps of classes, as a `Source` whose targets are `LabelMap`s.

    Attributes:
        classes: Class names; values of maps index them.
        colours: A colour of each, RGB, 0..255; None if the data name none.
        root: The folder of the data set; names of images are relative to it where they lie in it.
        paths: The pictures.
        sizes: int32 `[images, 2]`: height and width, upright.
        maps: Their maps.
        pixels: int64 `[images, classes + 1]`: how many pixels of each class are in each, at last those ignored.
        digests: uint64 `[images]`: hashes of what the maps are made of.
        groups: Images of the same group belong together; None if nothing is known of groups, "" for one by itself.
        relabel: The number here of each class in the files, 256 bytes; None if they are the same.
        things: Of each class whether it has objects; None if the data do not say.
        category_ids: Number of each class in COCO's files; None for other data.
        channels: Pictures are numbers of so many channels; None for 8-bit RGB.
        named: Classes, as places, that the data name, if not all: of others it is not known where they are.
    """

    classes: tuple[str, ...]
    colours: tuple[Colour, ...] | None
    root: str
    paths: PackedNames
    sizes: npt.NDArray[np.int32]
    maps: Maps
    pixels: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint64]
    groups: PackedNames | None = None
    relabel: bytes | None = None
    things: tuple[bool, ...] | None = None
    category_ids: tuple[int, ...] | None = None
    channels: int | None = None
    named: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    def load(self, index: int, min_side: int | None = None) -> Any:
        """Read image `index`, upright; see `Source`. `Channels` if it has `channels`."""
        path = self.paths[index]
        return read_image(path, min_side) if self.channels is None else read_channels(path, self.channels)

    def target(self, index: int) -> LabelMap:
        """Return the map of image `index`, which decodes it when it is asked to."""
        index = range(len(self))[index]
        height, width = self.sizes[index].tolist()
        found = self.maps.at(index, (height, width))
        return found if self.relabel is None else RelabelledMap(map=found, labels=self.relabel)

    def name(self, index: int) -> str:
        """Return the path of image `index`, printable."""
        return printable(self.paths[index])

    def names_below(self) -> Iterator[str]:
        """Yield the path of each image from the folder of the data set, with `/`, wherever that lies."""
        return (os.path.relpath(path, self.root).replace(os.sep, "/") for path in self.paths)

    def version(self, index: int) -> str:
        """Return size and time of the file of image `index`; see `transnext.data.decoded.VersionedSource`."""
        return file_version(self.paths[index])

    def class_pixels(self) -> dict[str, int]:
        """Return how many pixels of each class there are."""
        return dict(zip(self.classes, self.pixels[:, :-1].sum(0).tolist(), strict=True))

    def class_images(self) -> dict[str, int]:
        """Return in how many images each class is."""
        return dict(zip(self.classes, (self.pixels[:, :-1] > 0).sum(0).tolist(), strict=True))

    def annotation_bytes(self) -> bytes:
        """Return a hash of all maps and of what their values mean, the same on every machine."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(np.ascontiguousarray(self.sizes, "<i4").tobytes())
        digest.update(np.ascontiguousarray(self.pixels, "<i8").tobytes())
        digest.update(np.ascontiguousarray(self.digests, "<u8").tobytes())
        return digest.digest()

    @property
    def tells_segments(self) -> bool:
        """Segments are told apart, not classes alone."""
        return isinstance(self.maps, PanopticMaps)

    def by_segments(self, things: Collection[int]) -> MapSource:
        """Return the same images, known by their segments, too: `annotation_bytes` tells them apart.

        Args:
            things: Classes that have objects.

        Raises:
            ValueError: The data tell no segments.
        """
        if not isinstance(self.maps, PanopticMaps):
            raise ValueError(f"{self.root} tells no segments, as COCO panoptic files do (annotations/panoptic_*.json)")
        return replace(self, digests=self.maps.digests ^ np.uint64(digest_of(np.array(sorted(things), np.uint8))))

    def subset(self, images: Sequence[int]) -> MapSource:
        """Return some of the images, in the given order."""
        index = np.asarray(images, np.int64).reshape(-1)
        chosen = index.tolist()
        return replace(
            self,
            paths=PackedNames.pack([self.paths[i] for i in chosen]),
            sizes=self.sizes[index],
            maps=self.maps.subset(chosen),
            pixels=self.pixels[index],
            digests=self.digests[index],
            groups=None if self.groups is None else PackedNames.pack([self.groups[i] for i in chosen]),
        )


def aligned(source: MapSource, classes: Sequence[str]) -> MapSource:
    """Return the same images with the classes of a model, by name, whether in upper or lower case.

    Pixels of other classes are ignored, and how many is logged.

    Raises:
        ValueError: No class of the data is one of the model's.
    """
    if tuple(classes) == source.classes:
        return source
    taken = matched_names(source.classes, classes)
    labels = np.full(256, IGNORED, np.uint8)
    labels[list(taken)] = list(taken.values())
    pixels = np.zeros((len(source), len(classes) + 1), np.int64)
    for old, new in taken.items():
        pixels[:, new] = source.pixels[:, old]
    pixels[:, -1] = source.pixels.sum(1) - pixels.sum(1)
    if unknown := [name for i, name in enumerate(source.classes) if i not in taken and source.pixels[:, i].any()]:
        share = (pixels[:, -1].sum() - source.pixels[:, -1].sum()) / max(1, source.pixels.sum())
        log(source.root, f"{share:.1%} of pixels ignored: the model does not know {listing(unknown)}")
    if source.relabel is not None:
        labels = labels[np.frombuffer(source.relabel, np.uint8)]
    return replace(
        source,
        classes=tuple(classes),
        colours=None,
        pixels=pixels,
        relabel=labels.tobytes(),
        things=None,
        category_ids=None,
        named=named_places(taken, source.named),
    )
