"""Annotations in COCO JSON."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transnext.data.annotation_values import number, one_line, roboflow_group, whole
from transnext.data.detection.findings import Findings
from transnext.data.detection.outlines import parsed
from transnext.data.detection.raw import Outline, RawImage, RawSplit
from transnext.data.findings import shown
from transnext.data.names import printable
from transnext.data.splits import split_in, split_of_file, split_of_folder

ROBOFLOW = "_annotations.coco.json"
_GROUP_KEYS = ("group", "video_id", "scene")
_ANNOTATION_FOLDERS = ("annotations", "Annotations", "annotation", "labels")
_IMAGE_FOLDERS = ("images", "JPEGImages", "data")
_MAX_FILES = 8
"""A folder with more JSON files than this may have one for each image: then those named as splits count alone."""
_PROBED = 50


def find_coco(root: Path) -> dict[str, Path]:
    """Return the annotation file of each split below a folder; none if it is not COCO.

    Looked for are `<split>/_annotations.coco.json`, `annotations/instances_*.json`, and any `*.json` with images and
    annotations in the folder itself, in `annotations`, or one in each folder with the name of a split. Splits that
    these lack are those of files named as splits, in `annotations` or in the folder itself.

    Raises:
        ValueError: Two files are of the same split.
    """
    files = [root / ROBOFLOW] if (root / ROBOFLOW).is_file() else []
    files += [folder / ROBOFLOW for folder in _folders(root) if (folder / ROBOFLOW).is_file()]
    files = files or [file for name in _ANNOTATION_FOLDERS for file in _coco_files(root / name)] or _coco_files(root)
    if not files:
        files = [file for folder in _folders(root) if split_of_folder(folder.name) for file in _coco_files(folder)]
    found: dict[str, Path] = {}
    _add_splits(files, root, found)
    if found:
        others = [file for folder in (*_ANNOTATION_FOLDERS, "") for file in _json_files(root / folder)]
        named = [file for file in others if split_of_file(file.stem) not in (None, *found)]
        _add_splits(named, root, found)
    return found


def _add_splits(files: Sequence[Path], root: Path, found: dict[str, Path]) -> None:
    for file in files:
        split = _split_name(file, root, alone=len(files) == 1)
        if split in found:
            raise ValueError(
                f"{printable(root)} has two COCO files of {split}: {printable(found[split].relative_to(root))} and "
                f"{printable(file.relative_to(root))}; remove one, or give the path of a file"
            )
        found[split] = file


def read_coco(file: Path, root: Path, split: str, findings: Findings) -> RawSplit:
    """Read an annotation file.

    Args:
        file: The file.
        root: Folder below which the images may be.
        split: What to call its images together.
        findings: What is wrong with single entries is noted here.

    Raises:
        ValueError: It is broken, or no COCO file of instances, or none of its images is there.
        OSError: It cannot be read.
    """
    document = read_document(file)
    classes, ids, parent = read_categories(document["categories"], file)
    describe = _Describe(file.name)
    raw = RawSplit(split, classes, ids, parent=parent, describe=describe, annotations=str(file))
    places = _images(document["images"], image_folders(file, root), raw, file, findings)
    _objects(document["annotations"], places, {number: place for place, number in enumerate(ids)}, raw, findings)
    return raw


class _Describe:
    """From the place of an annotation in its file to a text."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, place: Any) -> str:
        index, number = place
        return f"{self._name}: annotation {shown(number)}" + (f" (entry {index})" if number is None else "")


def read_document(file: Path) -> dict[str, Any]:
    """Return what a COCO file holds, with lists of `images`, `annotations` and `categories`.

    Raises:
        ValueError: It is broken, or none.
        OSError: It cannot be read.
    """
    where = printable(file)
    try:
        document = json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is broken JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{where} is not COCO: it is nested too deeply") from None
    except ValueError as error:  # no Unicode, a number of ten thousand digits
        raise ValueError(f"{where} is broken JSON: {one_line(error)}") from None
    if not isinstance(document, dict):
        what = "a list, as results of a model are" if isinstance(document, list) else shown(document)
        raise ValueError(f"{where} is not a COCO annotation file: it holds {what}, not an object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            seen = f"'{key}' is {shown(document[key])}, not a list" if key in document else f"there is no '{key}'"
            raise ValueError(f"{where} is not a COCO annotation file: {seen}")
    return document


def read_categories(entries: list[Any], file: Path) -> tuple[list[str], list[int], str | None]:
    """Return names, ids and the one that may stand above all others, in the order of the ids.

    Raises:
        ValueError: There are none, one has no name or number, or two have the same.
    """
    where = printable(file)
    names: dict[int, str] = {}
    above: dict[str, Any] = {}
    for entry in entries:
        number = whole(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if number is None or not isinstance(name, str) or not name.strip():
            raise ValueError(f"{where} has a category without whole number as id or without name")
        name = printable(name.strip())
        if number in names:
            raise ValueError(f"{where} has two categories with id {number}: {names[number]!r} and {name!r}")
        if name in names.values():
            raise ValueError(f"{where} has two categories called {name!r}: rename one of them")
        names[number] = name
        above[name] = entry.get("supercategory")
    if not names:
        raise ValueError(f"{where} has no categories")
    ids = sorted(names)
    # Roboflow puts the name of the project first, as a category of which nothing ever is.
    first = names[ids[0]]
    others = [name for name in above if name != first]
    parent = first if others and all(above[name] == first for name in others) else None
    return [names[number] for number in ids], ids, parent


def _images(
    entries: list[Any], folders: Mapping[Path, str | None], raw: RawSplit, file: Path, findings: Findings
) -> dict[int | str, int]:
    """Fill in the images, and return the place of each id."""
    usable: list[tuple[int | str, str, dict[str, Any]]] = []
    for i, entry in enumerate(entries):
        number = _id(entry.get("id")) if isinstance(entry, dict) else None
        name = _file_name(entry) if isinstance(entry, dict) else None
        if number is None or name is None:
            findings.add("image_entry", f"{file.name}: entry {i} of images")
        else:
            usable.append((number, name, entry))
    finder = FileFinder(folders, [name for _, name, _ in usable], file)
    names_of: dict[int | str, str] = {}
    ambiguous: set[int | str] = set()
    for number, name, _ in usable:
        if names_of.setdefault(number, name) != name:
            ambiguous.add(number)
    place_of_path: dict[str, int] = {}
    places: dict[int | str, int] = {}
    for number, name, entry in usable:
        if number in ambiguous:
            findings.add("image_id_repeated", f"{file.name}: image {shown(number)}, {name}")
            continue
        path = finder.path(name)
        if path in place_of_path:
            findings.add("image_listed_twice", f"{file.name}: {name}")
        else:
            place_of_path[path] = len(raw.images)
            raw.images.append(RawImage(path, number, _size(entry, file, findings), _group(entry, name)))
        places.setdefault(number, place_of_path[path])
    return places


def _objects(
    entries: list[Any], places: dict[int | str, int], labels: dict[int, int], raw: RawSplit, findings: Findings
) -> None:
    seen: set[int] = set()
    describe = raw.describe
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            findings.add("object_entry", f"{describe((i, None))}: {shown(entry)}, not an object")
            continue
        ident = entry.get("id")
        place = (i, ident if isinstance(ident, (int, str)) else None)
        if type(ident) is int:
            if ident in seen:
                findings.add("object_id_repeated", describe(place))
            seen.add(ident)
        image = places.get(_id(entry.get("image_id")))  # type: ignore[arg-type]  # None is no key
        label = labels.get(whole(entry.get("category_id")))  # type: ignore[arg-type]
        if image is None:
            findings.add("unknown_image", f"{describe(place)}: image {shown(entry.get('image_id'))}")
            continue
        if label is None:
            findings.add("unknown_category", f"{describe(place)}: category {shown(entry.get('category_id'))}")
            continue
        outline: Outline | None
        try:
            outline = parsed(entry.get("segmentation"))
        except ValueError as error:
            outline = str(error)
        box = entry.get("bbox")
        if box is None or box == []:
            if outline is None:
                findings.add("box_missing", describe(place))
                continue
            corners = None
        elif isinstance(box, list) and len(box) == 4:
            x, y, width, height = map(number, box)
            corners = (x, y, x + width, y + height)
        else:
            findings.add("object_entry", f"{describe(place)}: bbox is not four numbers")
            continue
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            findings.add("crowd_unclear", f"{describe(place)}: {shown(crowd)}")
        area = entry.get("area")
        raw.objects.add(
            image,
            label,
            corners,
            place,
            crowd=crowd == 1,
            area=None if area is None else number(area),
            outline=outline,
        )


def _file_name(entry: dict[str, Any]) -> str | None:
    name = entry.get("file_name")
    if name is None and isinstance(entry.get("coco_url"), str):  # LVIS
        name = "/".join(entry["coco_url"].split("/")[-2:])
    return name.replace("\\", "/") if isinstance(name, str) and name else None


def _id(value: Any) -> int | str | None:
    return value if isinstance(value, str) else whole(value)


def _size(entry: dict[str, Any], file: Path, findings: Findings) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    if height is None and width is None:
        return None
    sides = whole(height), whole(width)
    if sides[0] is None or sides[1] is None or min(sides[0], sides[1]) < 1:
        findings.add("size_unusable", f"{file.name}: image {shown(entry.get('id'))}: {shown(width)} x {shown(height)}")
        return None
    return sides[0], sides[1]


def _group(entry: dict[str, Any], name: str) -> str | None:
    for key in _GROUP_KEYS:
        if isinstance(entry.get(key), (int, str)):
            return f"{key} {entry[key]}"
    return roboflow_group(name)


class FileFinder:
    """Finds files of images in the folder that has most of them, and else in others.

    Args:
        folders: Where they may be, most likely first, and the split that a folder is of, if it is of one.
        names: What they are called.
        file: The annotation file, for messages.

    Raises:
        ValueError: None of them is there, or it cannot be told of which split they are.
    """

    def __init__(self, folders: Mapping[Path, str | None], names: Sequence[str], file: Path) -> None:
        probed = names[:: max(1, len(names) // _PROBED)]
        found = {folder: _found(folder, probed) for folder in folders}
        if probed and not any(found.values()):
            found = {folder: _found(folder, list(map(_last, probed))) for folder in folders}
        if probed and not any(found.values()):
            looked = ", ".join(map(printable, folders))
            raise ValueError(
                f"{printable(file)}: its images are not there: looked for {shown(probed[0])} and others in {looked}"
            )
        ordered = sorted(folders, key=lambda folder: -len(found[folder]))
        self._folders = [str(folder) for folder in _of_one_split(ordered, folders, found, file)]
        self._times = Counter(map(_last, names))

    def path(self, name: str) -> str:
        """The path of a file, or where it should be."""
        last = _last(name)
        # a/1.jpg and b/1.jpg are not both 1.jpg.
        for candidate in (name, last) if self._times[last] == 1 else (name,):
            for path in (os.path.join(folder, candidate) for folder in self._folders):  # noqa: PTH118 - per image
                if os.path.isfile(path):  # noqa: PTH113
                    return os.path.normpath(path)
        return os.path.join(self._folders[0], name)  # noqa: PTH118


def _found(folder: Path, names: Sequence[str]) -> set[str]:
    return {name for name in names if os.path.isfile(os.path.join(folder, name))}  # noqa: PTH113, PTH118


def _of_one_split(
    ordered: list[Path], splits: Mapping[Path, str | None], found: Mapping[Path, set[str]], file: Path
) -> list[Path]:
    """Leave out folders of other splits with images of the same names: these are other images.

    Raises:
        ValueError: It cannot be told which are meant.
    """
    best = next((folder for folder in ordered if splits[folder] and found[folder]), None)
    if best is None:
        return ordered
    others = [f for f in ordered if splits[f] not in (None, splits[best]) and found[f] & found[best]]
    if best == ordered[0] and others and len(found[others[0]]) == len(found[best]):
        raise ValueError(
            f"{printable(file)}: its images may be those of {printable(best)} or of {printable(others[0])}: give it a "
            f"name that says the split, such as {splits[best]}.json"
        )
    return [folder for folder in ordered if folder not in others]


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def image_folders(file: Path, root: Path) -> dict[Path, str | None]:
    """Return the folders that may hold the images of an annotation file, most likely first, and their splits.

    These are folders called as the file, or of the split that its name says; of all splits if it says none.
    """
    base = file.parent
    if base.name in _ANNOTATION_FOLDERS:
        base = base.parent
    stem = file.stem.removeprefix("instances_").removeprefix("panoptic_")
    above = [base, *(base / name for name in _IMAGE_FOLDERS)]
    exact = dict.fromkeys([stem, re.sub(r"(?<=\D)(19|20)\d\d$", "", stem)])
    split = split_of_file(stem)
    named: dict[str, str | None] = {}
    if split or not any((folder / word).is_dir() for folder in above for word in exact):
        split = split or split_in(stem)
        inside = [path.name for folder in above if folder.is_dir() for path in _folders(folder)]
        named = {name: own for name in inside if (own := split_of_folder(name)) and split in (None, own)}
    folders: dict[Path, str | None] = {file.parent: None}
    for word, own in {**dict.fromkeys(exact, split), **named}.items():
        for folder in (base / word, base / word / "images", *(folder / word for folder in above[1:])):
            folders.setdefault(folder, own)
    for folder in (*above[1:], base, root, file.parent.parent):
        folders.setdefault(folder, None)
    return {folder: own for folder, own in folders.items() if folder.is_dir()}


def _split_name(file: Path, root: Path, alone: bool) -> str:
    if file.name == ROBOFLOW or (file.parent.parent == root and file.parent.name not in _ANNOTATION_FOLDERS):
        name = file.parent.name if file.parent != root else "train"
        known = split_of_folder(name)
    else:
        name = file.stem.removeprefix("instances_")
        known = split_of_file(name)
    if known:
        return known
    return "train" if alone else printable(re.sub(r"(?<=\D)(19|20)\d\d$", "", name))


def _coco_files(folder: Path) -> list[Path]:
    files = _json_files(folder)
    if named := [file for file in files if file.name.startswith("instances_")]:
        return named  # beside captions and key points of the same images
    return [file for file in files if split_of_file(file.stem) or (len(files) <= _MAX_FILES and _looks_like_coco(file))]


def _json_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.glob("*.json") if not file.name.startswith(".") and file.is_file())


def _looks_like_coco(file: Path) -> bool:
    try:
        text = file.read_bytes()
    except OSError:
        return False
    return b'"images"' in text and b'"annotations"' in text


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
