"""Maps from COCO panoptic files: a JSON with the class of each segment, a PNG whose colours number them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transnext.data.annotation_values import whole
from transnext.data.detection.coco import FileFinder, image_folders, read_categories, read_document
from transnext.data.findings import shown
from transnext.data.images import UnreadableImage, read_header
from transnext.data.names import PackedNames, printable
from transnext.data.segmentation.findings import Findings
from transnext.data.segmentation.maps import classes_of, digest_of, segment_codes, segments_of
from transnext.data.segmentation.source import MapSource, PanopticMaps
from transnext.data.segmentation.table import IGNORED, MAX_CLASSES
from transnext.data.segmentation.vetting import THREADS, fitting_turn
from transnext.data.splits import add_split, read_splits, split_of_file

_MAX_NUMBER = 2**24


def find_panoptic(root: Path) -> dict[str, Path]:
    """Return the panoptic JSON of each split below a folder; none if it has none.

    Raises:
        ValueError: Two are of the same split.
    """
    found: dict[str, Path] = {}
    for folder in (root / "annotations", root):
        files = sorted(folder.glob("panoptic_*.json")) if folder.is_dir() else []
        for file in files:
            name = file.stem.removeprefix("panoptic_")
            add_split(found, split_of_file(name) or printable(name), file)
    return found


class _Entry(NamedTuple):
    image: str
    label: str
    labels: dict[int, int]
    groups: frozenset[int]


class _Seen(NamedTuple):
    size: tuple[int, int]
    turn: int
    row: npt.NDArray[np.int64]
    digest: int
    segments_digest: int
    unknown: int


def panoptic_sources(files: Mapping[str, Path], root: Path, findings: Findings) -> dict[str, MapSource]:
    """Open panoptic files; groups (`iscrowd`) count as their class, as every pixel of them is of it.

    Args:
        files: The JSON of each split.
        root: Folder below which the pictures may be.
        findings: What is wrong with single images is noted here.

    Raises:
        ValueError: A file of `train` or `val` is broken or no panoptic one, or splits have other classes.
        OSError: It cannot be read.
    """

    def read(split: str) -> MapSource:
        file = files[split]
        document = read_document(file)
        names, ids, _ = read_categories(document["categories"], file)
        if len(names) > MAX_CLASSES:
            raise ValueError(f"{printable(file)} has {len(names)} classes: a map has at most {MAX_CLASSES}")
        display = _colours(document["categories"], ids)
        entries = _entries(document, file, root, {number: label for label, number in enumerate(ids)}, findings)
        source = _source(entries, tuple(names), display, str(root), findings)
        return replace(source, things=_things(document["categories"], ids), category_ids=tuple(ids))

    sources = read_splits(files, read, partial(findings.add, "split_unlabelled"))
    first = next(iter(sources))
    for split, source in sources.items():
        if (source.classes, source.category_ids) != (sources[first].classes, sources[first].category_ids):
            raise ValueError(f"{printable(files[split])} has other categories than the file of {first}")
    return sources


def _entries(
    document: dict[str, Any], file: Path, root: Path, labels: dict[int, int], findings: Findings
) -> list[_Entry]:
    names: dict[int | str, str] = {}
    for entry in document["images"]:
        number = _id(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if number is None or not isinstance(name, str) or not name or "\0" in name:
            findings.add("image_unreadable", f"{file.name}: {shown(entry)}: no usable id and file name")
        else:
            names[number] = name.replace("\\", "/")
    if not names:
        raise ValueError(f"{printable(file)} lists no images")
    images = FileFinder(image_folders(file, root), list(names.values()), file)
    entries, used = [], set()
    for i, entry in enumerate(document["annotations"]):
        where = f"{file.name}: entry {i} of annotations"
        number = _id(entry.get("image_id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if number is None or number not in names or not isinstance(name, str) or "\0" in name:
            findings.add("image_missing", where)
            continue
        segments = entry.get("segments_info") if isinstance(entry, dict) else None
        if not isinstance(segments, list):
            findings.add("label_unreadable", f"{where}: segments_info is {shown(segments)}")
            continue
        if number in used:
            findings.add("labels_two", f"{where}: image {shown(number)}")
            continue
        used.add(number)
        known: dict[int, int] = {}
        groups: set[int] = set()
        for segment in segments:
            ident = whole(segment.get("id")) if isinstance(segment, dict) else None
            label = labels.get(whole(segment.get("category_id"))) if isinstance(segment, dict) else None  # type: ignore[arg-type]
            if ident is None or not 0 <= ident < _MAX_NUMBER or label is None:
                findings.add("segment_unknown", f"{where}: {shown(segment)}")
            else:
                known[ident] = label
                (groups.add if whole(segment.get("iscrowd")) == 1 else groups.discard)(ident)
        label_file = next(
            (path for path in (file.with_suffix("") / name, file.parent / name) if _is_file(path)),
            file.with_suffix("") / name,
        )
        entries.append(_Entry(images.path(names[number]), str(label_file), known, frozenset(groups)))
    findings.add_all("label_missing", [name for number, name in names.items() if number not in used], printable)
    return entries


def _source(entries: list[_Entry], names: tuple[str, ...], display: Any, root: str, findings: Findings) -> MapSource:
    with ThreadPoolExecutor(THREADS) as threads:
        looked = list(threads.map(lambda entry: _seen(entry, len(names)), entries))
    kept: list[tuple[_Entry, _Seen]] = []
    for entry, seen in zip(entries, looked, strict=True):
        if not isinstance(seen, _Seen):
            findings.add(seen[0], seen[1])
            continue
        if seen.unknown:
            findings.add("segment_unknown", f"{printable(entry.label)}: {seen.unknown} numbers without an entry")
        kept.append((entry, seen))
    segments = [entry.labels for entry, _ in kept]
    groups = [number in entry.groups for entry, _ in kept for number in entry.labels]
    return MapSource(
        classes=names,
        colours=display,
        root=root,
        paths=PackedNames.pack([entry.image for entry, _ in kept]),
        sizes=np.array([seen.size for _, seen in kept], np.int32).reshape(-1, 2),
        maps=PanopticMaps(
            paths=PackedNames.pack([entry.label for entry, _ in kept]),
            turns=np.array([seen.turn for _, seen in kept], np.uint8),
            starts=np.cumsum([0, *map(len, segments)], dtype=np.int64),
            numbers=np.array([number for one in segments for number in one], np.int64),
            labels=np.array([label for one in segments for label in one.values()], np.uint8),
            groups=np.array(groups, bool),
            digests=np.array([seen.segments_digest for _, seen in kept], np.uint64),
        ),
        pixels=np.array([seen.row for _, seen in kept], np.int64).reshape(-1, len(names) + 1),
        digests=np.array([seen.digest for _, seen in kept], np.uint64),
    )


def _seen(entry: _Entry, classes: int) -> _Seen | tuple[str, str]:
    """Return what is in a panoptic PNG, or the kind of finding and an example."""
    try:
        header = read_header(entry.image)
    except FileNotFoundError:
        return "image_unreadable", f"{printable(entry.image)}: there is no such file"
    except UnreadableImage as error:
        return "image_unreadable", f"{printable(entry.image)}: {error.reason}"
    try:
        own = read_header(entry.label)
        numbers, place = segments_of(entry.label)
    except FileNotFoundError:
        return "label_missing", printable(entry.label)
    except UnreadableImage as error:
        return "label_unreadable", f"{printable(entry.label)}: {error.reason}"
    turn = fitting_turn(header, own.upright, own.orientation)
    if turn is None:
        (height, width), (rows, columns) = header.upright, own.upright
        return "size_differs", f"{printable(entry.label)}: {columns} x {rows}, its image {width} x {height}"
    counts = np.bincount(place.reshape(-1), minlength=len(numbers))
    codes = segment_codes(numbers, entry.labels, entry.groups)
    labels = classes_of(codes)
    row = np.bincount(np.where(labels == IGNORED, classes, labels), counts, classes + 1).astype(np.int64)
    unknown = int(((labels == IGNORED) & (numbers != 0)).sum())
    return _Seen(header.upright, turn, row, digest_of(labels[place]), digest_of(codes[place]), unknown)


def _colours(categories: list[Any], ids: list[int]) -> Any:
    """Colours of the classes, None if not all have one."""
    by_id = {whole(entry["id"]): entry.get("color") for entry in categories}
    colours = [by_id.get(number) for number in ids]
    if not all(
        isinstance(c, list) and len(c) == 3 and all(type(v) is int and 0 <= v <= 255 for v in c) for c in colours
    ):
        return None
    return tuple(tuple(colour) for colour in colours if colour is not None)


def _things(categories: list[Any], ids: list[int]) -> tuple[bool, ...] | None:
    """Of each class whether it has objects (`isthing`), None if that is not said of all."""
    by_id = {whole(entry["id"]): entry.get("isthing") for entry in categories}
    said = [by_id[number] for number in ids]
    return tuple(map(bool, said)) if all(value in (0, 1) for value in said) else None


def _id(value: Any) -> int | str | None:
    return value if isinstance(value, str) else whole(value)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no system takes
        return False
