"""Images with annotated objects, in little memory and cheap to hand to reading processes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from transnext.data.class_names import listing, matched_names, named_places
from transnext.data.image_files import file_version, log
from transnext.data.images import read_image
from transnext.data.instances import Annotation
from transnext.data.names import PackedNames, printable


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of all images, one after the other.

    A few flat arrays: of a hundred thousand Python objects each reading process would soon have a copy, because looking
    at one writes its reference count.

    Attributes:
        starts: int64 `[images + 1]`: objects `starts[i]` to `starts[i + 1]` are in image `i`.
        boxes: float32 `[N, 4]`, x0, y0, x1, y1 in pixels of the upright picture.
        labels: int32 `[N]`.
        crowd: bool `[N]`.
        areas: float32 `[N]`.
        runs: uint8: the compressed run lengths of all outlines; None if there are boxes alone.
        run_starts: int64 `[N + 1]`: where those of each object begin.
    """

    starts: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float32]
    runs: npt.NDArray[np.uint8] | None = None
    run_starts: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self, index: int) -> bytes:
        """The run lengths of object `index`.

        Raises:
            ValueError: There are boxes alone.
        """
        if self.runs is None or self.run_starts is None:
            raise ValueError("there are boxes alone, no outlines")
        return self.runs[self.run_starts[index] : self.run_starts[index + 1]].tobytes()

    def take(self, chosen: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> Objects:
        """Some of the objects.

        Args:
            chosen: Which, those of each image together.
            starts: Of the new ones.
        """
        runs = run_starts = None
        if self.runs is not None:
            runs, run_starts = packed([self.counts(i) for i in chosen.tolist()])
        return Objects(
            starts=starts,
            boxes=self.boxes[chosen],
            labels=self.labels[chosen],
            crowd=self.crowd[chosen],
            areas=self.areas[chosen],
            runs=runs,
            run_starts=run_starts,
        )


def packed(counts: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Run lengths of objects as `Objects.runs` and `Objects.run_starts`."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, counts), np.int64, len(counts)), out=starts[1:])
    return np.frombuffer(b"".join(counts), np.uint8), starts


@dataclass(frozen=True, kw_only=True)
class DetectionSource:
    """Images with annotated objects, as a `Source` whose targets are `Annotation`.

    Attributes:
        classes: Class names; labels index them.
        category_ids: What the annotation calls each class, and results should.
        root: The folder of the data set; names of images are relative to it where they lie in it.
        paths: The files.
        sizes: int32 `[images, 2]`: height and width, upright.
        ids: What the annotation calls each image: int64 `[images]`, or texts.
        objects: What is in them.
        groups: Images of the same group belong together; None if nothing is known of groups, "" for one by itself.
        named: Classes, as places, that the data name, if not all: of others it is not known where they are.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    root: str
    paths: PackedNames
    sizes: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int64] | PackedNames
    objects: Objects
    groups: PackedNames | None = None
    named: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def has_masks(self) -> bool:
        """Whether objects have outlines."""
        return self.objects.runs is not None

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """What the annotation calls each image, as JSON takes it."""
        return tuple(self.ids) if isinstance(self.ids, PackedNames) else tuple(self.ids.tolist())

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Read image `index`, upright; see `Source`."""
        return read_image(self.paths[index], min_side)

    def target(self, index: int) -> Annotation:
        """Return the objects of image `index`, in pixels of the upright picture at full size."""
        index = range(len(self))[index]
        start, end = self.objects.starts[index : index + 2].tolist()
        height, width = self.sizes[index].tolist()
        chosen = slice(start, end)
        outlines = None
        if self.has_masks:
            size = [height, width]
            outlines = tuple({"size": list(size), "counts": self.objects.counts(i)} for i in range(start, end))
        return Annotation(
            size=(height, width),
            boxes=self.objects.boxes[chosen].copy(),
            labels=self.objects.labels[chosen].astype(np.int64),
            crowd=self.objects.crowd[chosen].copy(),
            areas=self.objects.areas[chosen].copy(),
            segmentations=outlines,
        )

    def name(self, index: int) -> str:
        """Return the path of image `index`, printable."""
        return printable(self.paths[index])

    def names_below(self) -> Iterator[str]:
        """Yield the path of each image from the folder of the data set, with `/`, wherever that lies."""
        return (os.path.relpath(path, self.root).replace(os.sep, "/") for path in self.paths)

    def version(self, index: int) -> str:
        """Return size and time of the file of image `index`; see `transnext.data.decoded.VersionedSource`."""
        return file_version(self.paths[index])

    def object_counts(self) -> dict[str, int]:
        """Return how many objects of each class there are, ignored regions left out."""
        counts = np.bincount(self.objects.labels[~self.objects.crowd], minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def most_objects(self) -> int:
        """Return how many objects there are in the fullest image, ignored regions left out."""
        found = np.concatenate([np.zeros(1, np.int64), np.cumsum(~self.objects.crowd)])
        return int(np.diff(found[self.objects.starts]).max(initial=0))

    def annotation_bytes(self) -> bytes:
        """Return a hash of all annotations, the same on every machine."""
        objects = self.objects
        digest = hashlib.blake2b(repr(self.category_ids).encode(), digest_size=16)
        for array, kind in (
            (self.sizes, "<i4"),
            (objects.starts, "<i8"),
            (objects.boxes, "<f4"),
            (objects.labels, "<i4"),
            (objects.crowd, "|b1"),
            (objects.areas, "<f4"),
            (objects.runs, "|u1"),
        ):
            if array is not None:
                digest.update(np.ascontiguousarray(array, kind).tobytes())
        return digest.digest()

    def subset(self, images: Sequence[int]) -> DetectionSource:
        """Return some of the images, in the given order."""
        index = np.asarray(images, np.int64).reshape(-1)
        spans = [np.arange(*self.objects.starts[i : i + 2]) for i in index.tolist()]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(span) for span in spans], dtype=np.int64)])
        chosen = np.concatenate(spans) if spans else np.zeros(0, np.int64)
        return replace(
            self,
            paths=PackedNames.pack([self.paths[i] for i in index.tolist()]),
            sizes=self.sizes[index],
            ids=PackedNames.pack([self.ids[i] for i in index.tolist()])
            if isinstance(self.ids, PackedNames)
            else self.ids[index],
            objects=self.objects.take(chosen, starts),
            groups=None if self.groups is None else PackedNames.pack([self.groups[i] for i in index.tolist()]),
        )


def aligned(source: DetectionSource, classes: Sequence[str]) -> DetectionSource:
    """Return the same images with the classes of a model, by name, whether in upper or lower case.

    Objects of other classes are dropped, and how many is logged. Classes that the data lack get ids that no other has.

    Raises:
        ValueError: No class of the data is one of the model's.
    """
    if tuple(classes) == source.classes:
        return source
    taken = matched_names(source.classes, classes)
    new_label = np.full(len(source.classes), -1, np.int32)
    new_label[list(taken)] = list(taken.values())
    labels = new_label[source.objects.labels]
    kept = labels >= 0
    if not kept.all():
        unknown = [name for i, name in enumerate(source.classes) if i not in taken]
        dropped = len(kept) - int(kept.sum())
        log(source.root, f"{dropped} objects of classes that the model does not know dropped: {listing(unknown)}")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[source.objects.starts]
    objects = source.objects.take(np.flatnonzero(kept), starts)
    id_of = {new: source.category_ids[old] for old, new in taken.items()}
    return replace(
        source,
        classes=tuple(classes),
        category_ids=with_free_ids(len(classes), id_of),
        objects=replace(objects, labels=labels[kept]),
        named=named_places(taken, source.named),
    )


def with_free_ids(number: int, known: dict[int, int]) -> tuple[int, ...]:
    """Ids of classes: those that are known, and for the rest the next after the largest."""
    free = max([0, *known.values()])
    ids = []
    for i in range(number):
        if i not in known:
            free += 1
        ids.append(known.get(i, free))
    return tuple(ids)
