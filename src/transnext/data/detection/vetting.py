"""From what an annotation file lists to what can be trained on: what is wrong is dropped or mended, and noted."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from transnext.data.detection import outlines
from transnext.data.detection.findings import Findings
from transnext.data.detection.raw import RawImage, RawSplit
from transnext.data.detection.source import DetectionSource, Objects, packed
from transnext.data.images import Header, UnreadableImage, read_header
from transnext.data.names import PackedNames, printable

THREADS = 8
"""Reading headers mostly waits for files."""
_AT_ONCE = 64
_CLIPPED = 0.1
"""A box that reaches out of the picture by less, pixels, is no news: digits are rounded in files."""


def vetted(raw: RawSplit, root: str, findings: Findings, masks: bool = True) -> DetectionSource:
    """Check a split against its images and within itself.

    Reads the head of each image file, and decodes no pixels.

    Args:
        raw: The split.
        root: Folder of the data set.
        findings: What was wrong is noted here.
        masks: Whether outlines are wanted.
    """
    images = _Images(raw, findings)
    objects = _Vetting(raw, images, findings, masks).objects()
    kept = [image for image, place in zip(raw.images, images.place.tolist(), strict=True) if place >= 0]
    ids: npt.NDArray[np.int64] | PackedNames
    if all(isinstance(image.id, int) for image in kept):
        ids = np.array([image.id for image in kept], np.int64)
    else:
        ids = PackedNames.pack([printable(str(image.id)) for image in kept])
    grouped = any(image.group for image in kept)
    return DetectionSource(
        classes=tuple(raw.classes),
        category_ids=tuple(raw.category_ids),
        root=root,
        paths=PackedNames.pack([image.path for image in kept]),
        sizes=images.upright[images.place >= 0].astype(np.int32),
        ids=ids,
        objects=objects,
        groups=PackedNames.pack([printable(image.group or "") for image in kept]) if grouped else None,
    )


class _Images:
    """The images of a split that can be used.

    Attributes:
        place: int64 `[images]`: place among those that are kept; -1 for others.
        annotated: int64 `[images, 2]`: height and width in which objects are given.
        upright: int64 `[images, 2]`: height and width of the picture.
        turn: int64 `[images]`: orientation of EXIF by which objects have to be turned; 1 if they need not.
    """

    def __init__(self, raw: RawSplit, findings: Findings) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            parts = [raw.images[i : i + _AT_ONCE] for i in range(0, len(raw.images), _AT_ONCE)]
            headers = [header for part in threads.map(_headers, parts) for header in part]
        number = len(raw.images)
        self.annotated = np.ones((number, 2), np.int64)
        self.upright = np.ones((number, 2), np.int64)
        self.turn = np.ones(number, np.int64)
        kept = np.zeros(number, bool)
        for i, (image, header) in enumerate(zip(raw.images, headers, strict=True)):
            if not isinstance(header, Header):
                findings.add(header[0], f"{image.path}{header[1]}")
                continue
            stated = image.size or header.upright
            if stated not in (header.upright, header.stored):
                (height, width), seen = stated, header.upright
                findings.add(
                    "size_differs", f"{image.path}: {width} x {height} annotated, {seen[1]} x {seen[0]} in the file"
                )
                continue
            kept[i] = True
            self.annotated[i], self.upright[i] = stated, header.upright
            if stated != header.upright:
                self.turn[i] = header.orientation
                findings.add("turned", f"{image.path}: orientation {header.orientation}")
            elif header.orientation != 1 and header.stored == header.upright and image.size:
                findings.add("turn_unclear", f"{image.path}: orientation {header.orientation}")
        self.place = np.where(kept, np.cumsum(kept) - 1, -1)


def _headers(images: Sequence[RawImage]) -> list[Header | tuple[str, str]]:
    return [_header(image) for image in images]


def _header(image: RawImage) -> Header | tuple[str, str]:
    """Return what the file says of itself, or the kind of finding and the reason."""
    try:
        if not os.path.isfile(image.path):  # noqa: PTH113 - a path that no system takes is no error, a pipe no file
            return "file_missing", ""
        return read_header(image.path)
    except FileNotFoundError:
        return "file_missing", ""
    except UnreadableImage as error:
        return "file_unreadable", f": {error.reason}"


class _Vetting:
    """Objects of a split on their way; `alive` are those not dropped yet."""

    def __init__(self, raw: RawSplit, images: _Images, findings: Findings, masks: bool) -> None:
        listed = raw.objects
        self._raw = raw
        self._findings = findings
        self._images = images
        self._wanted = masks
        number = len(listed)
        self.image = np.array(listed.images, np.int64).reshape(number)
        self.label = np.array(listed.labels, np.int32).reshape(number)
        self.crowd = np.array(listed.crowd, bool).reshape(number)
        self.boxless = np.array([box is None for box in listed.boxes], bool).reshape(number)
        self.box = np.array([box or (0.0, 0.0, 0.0, 0.0) for box in listed.boxes], np.float64).reshape(number, 4)
        self.size = images.annotated[self.image]
        self.alive = images.place[self.image] >= 0
        if raw.relative:
            with np.errstate(over="ignore"):
                self.box *= np.tile(self.size[:, ::-1], 2)

    def objects(self) -> Objects:
        """The objects that are left, by image."""
        raw = self._raw
        boxed = ~self.boxless
        self._drop("not_finite", boxed & ~np.isfinite(self.box).all(1))
        self._drop("box_zero", boxed & ((self.box[:, 2] <= self.box[:, 0]) | (self.box[:, 3] <= self.box[:, 1])))
        height, width = self.size.T
        inside = (self.box[:, :2] < self.size[:, ::-1]).all(1) & (self.box[:, 2:] > 0).all(1)
        self._drop("box_outside", boxed & ~inside)
        limits = np.stack([width, height, width, height], 1)
        clipped = np.clip(self.box, 0, limits)
        with np.errstate(invalid="ignore"):
            beyond = np.abs(clipped - self.box).max(1, initial=0) > _CLIPPED
        self._note("box_clipped", boxed & beyond)
        self.box = clipped

        counts, mask_area = self._outlines()
        self._turn(counts)
        # A box may be so narrow that it has no width as float32.
        narrow = self.box.astype(np.float32)
        self._drop("box_zero", (narrow[:, 2] <= narrow[:, 0]) | (narrow[:, 3] <= narrow[:, 1]))
        order = np.flatnonzero(self.alive)
        order = order[np.argsort(self._images.place[self.image[order]], kind="stable")]
        order = self._without_repeats(order, narrow, counts)

        area = np.array([np.nan if a is None else a for a in raw.objects.areas], np.float64).reshape(len(self.alive))
        stated = np.array([a is not None for a in raw.objects.areas], bool).reshape(len(self.alive))
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(area) & (area > 0) & (area < np.finfo(np.float32).max)
        self._note("area_unusable", stated & ~usable)
        sides = self.box[:, 2:] - self.box[:, :2]
        computed = mask_area if counts is not None else sides.prod(1)
        area = np.where(usable, area, computed)

        per_image = np.bincount(self._images.place[self.image[order]], minlength=int((self._images.place >= 0).sum()))
        runs, run_starts = packed([counts[i] for i in order.tolist()]) if counts is not None else (None, None)
        return Objects(
            starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(per_image, dtype=np.int64)]),
            boxes=narrow[order],
            labels=self.label[order],
            crowd=self.crowd[order],
            areas=area[order].astype(np.float32),
            runs=runs,
            run_starts=run_starts,
        )

    def _outlines(self) -> tuple[list[bytes] | None, npt.NDArray[np.int64]]:
        """Return the run lengths of all objects in the annotated frame, None if there are none, and their areas.

        Objects without a box get one.
        """
        raw, number = self._raw, len(self.alive)
        broken = np.array([isinstance(outline, str) for outline in raw.objects.outlines], bool).reshape(number)
        given = np.array([outline is not None for outline in raw.objects.outlines], bool).reshape(number)
        with_outline, alive = (int((some & self.alive & ~broken).sum()) for some in (given, self.alive))
        areas = np.zeros(number, np.int64)
        used = self._wanted and 2 * with_outline >= alive and with_outline > 0
        if self._wanted and not used:
            self._note("outlines_unused", given & ~self.boxless)
        self._drop("outline_malformed", broken & (self.boxless | used), lambda i: str(raw.objects.outlines[i]))
        counts = [b""] * number
        chosen = self.alive & given & (self.boxless | used)
        self._masks(np.flatnonzero(chosen), counts)
        chosen &= self.alive
        where = np.flatnonzero(chosen)
        bounds, areas[where] = outlines.bounds([counts[i] for i in where.tolist()], self.size[where])
        self._drop("outline_empty", chosen & (areas == 0))
        left = self.alive[where]
        where, bounds = where[left], bounds[left]
        boxless = self.boxless[where]
        self.box[where[boxless]] = bounds[boxless]
        apart = np.zeros(number, bool)
        apart[where] = _iou(bounds, self.box[where]) < 0.5
        self._note("outline_elsewhere", apart)
        if not used:
            return None, areas
        missing = self.alive & ~given
        self._note("outline_missing", missing)
        self.crowd |= missing
        for i in np.flatnonzero(missing).tolist():
            height, width = self.size[i].tolist()
            counts[i] = outlines.rectangle(self.box[i].tolist(), (height, width))
            areas[i] = max(1, round(float(np.prod(self.box[i, 2:] - self.box[i, :2]))))
        return counts, areas

    def _masks(self, chosen: npt.NDArray[np.int64], counts: list[bytes]) -> None:
        """Fill in the run lengths of the chosen objects."""
        from_file, other_size, not_finite, far, wrong = (np.zeros(len(self.alive), bool) for _ in range(5))
        order = chosen[np.argsort(self.image[chosen], kind="stable")]
        borders = np.flatnonzero(np.diff(self.image[order])) + 1
        for group in np.split(order, borders) if len(order) else ():
            height, width = self.size[group[0]].tolist()
            shapes, places = [], []
            for i in group.tolist():
                outline = self._raw.objects.outlines[i]
                if isinstance(outline, outlines.RunLengths):
                    counts[i] = outline.counts
                    from_file[i] = True
                    other_size[i] = outline.size != (height, width)
                elif isinstance(outline, list) and all(np.isfinite(part).all() for part in outline):
                    scale = np.array([width, height]) if self._raw.relative else np.ones(2)
                    with np.errstate(over="ignore"):
                        shapes.append([(part.reshape(-1, 2) * scale).reshape(-1) for part in outline])
                    places.append(i)
                else:
                    not_finite[i] = True
            for i, made in zip(places, outlines.rasterised(shapes, (height, width)), strict=True):
                far[i] = made is None
                counts[i] = made or b""
        self._drop("outline_size", other_size, self._sizes)
        self._drop("not_finite", not_finite)
        where = np.flatnonzero(from_file & self.alive)
        wrong[where] = outlines.checked_areas([counts[i] for i in where.tolist()], self.size[where].prod(1)) < 0
        self._drop("outline_malformed", wrong, lambda _: "run lengths that do not fill the picture")
        self._drop("outline_malformed", far, lambda _: "corners far outside of the picture")

    def _sizes(self, i: int) -> str:
        outline = self._raw.objects.outlines[i]
        size = outline.size if isinstance(outline, outlines.RunLengths) else (0, 0)
        height, width = self.size[i].tolist()
        return f"{size[1]} x {size[0]}, the picture {width} x {height}"

    def _turn(self, counts: list[bytes] | None) -> None:
        turn = self._images.turn[self.image]
        for i in np.flatnonzero(self.alive & (turn != 1)).tolist():
            height, width = self.size[i].tolist()
            self.box[i : i + 1] = outlines.turned_boxes(self.box[i : i + 1], (height, width), int(turn[i]))
            if counts is not None:
                counts[i] = outlines.turned(counts[i], (height, width), int(turn[i]))

    def _without_repeats(
        self, order: npt.NDArray[np.int64], boxes: npt.NDArray[np.float32], counts: list[bytes] | None
    ) -> npt.NDArray[np.int64]:
        """Return `order` without objects that are there already."""
        seen: set[tuple[object, ...]] = set()
        seen_boxes: dict[tuple[int, bytes], int] = {}
        kept, repeated, two_classes = [], [], []
        for i, image, label in zip(order.tolist(), self.image[order].tolist(), self.label[order].tolist(), strict=True):
            box = boxes[i].tobytes()
            key = (image, label, bool(self.crowd[i]), box, counts[i] if counts is not None else None)
            if key in seen:
                repeated.append(i)
                continue
            seen.add(key)
            kept.append(i)
            if seen_boxes.setdefault((image, box), label) != label:
                two_classes.append(i)
        self._findings.add_all("object_repeated", repeated, self._describe)
        self._findings.add_all("box_of_two_classes", two_classes, self._describe)
        return np.array(kept, np.int64)

    def _drop(self, kind: str, wrong: npt.NDArray[np.bool_], why: Callable[[int], str] | None = None) -> None:
        self._note(kind, wrong, why)
        self.alive &= ~wrong

    def _note(self, kind: str, wrong: npt.NDArray[np.bool_], why: Callable[[int], str] | None = None) -> None:
        found: Sequence[int] = np.flatnonzero(wrong & self.alive).tolist()
        self._findings.add_all(
            kind, found, lambda i: self._describe(i) + (f": {why(i)}" if why else f": {self._shown_box(i)}")
        )

    def _describe(self, i: int) -> str:
        return self._raw.describe(self._raw.objects.places[i])

    def _shown_box(self, i: int) -> str:
        if self.boxless[i]:
            return self._raw.images[self.image[i]].path.rsplit(os.sep, 1)[-1]
        return "box " + ", ".join(f"{value:.6g}" for value in self.box[i].tolist())


def _iou(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """IoU of boxes in pairs."""
    both = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
    iou: npt.NDArray[np.float64] = both / np.maximum(union, 1e-9)
    return iou
