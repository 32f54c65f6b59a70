"""Annotations in the XML of Pascal VOC."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from transnext.data.annotation_values import one_line, read_bytes, read_text, roboflow_group
from transnext.data.detection.findings import Findings
from transnext.data.detection.raw import RawImage, RawSplit
from transnext.data.findings import shown
from transnext.data.image_files import FolderListing
from transnext.data.names import printable
from transnext.data.splits import add_split, split_of_folder

_MAX_XML = 2**24
_MAX_LIST = 2**26
_ORIGINAL = re.compile(r"(the )?voc ?20\d\d", re.IGNORECASE)
_OTHER_LISTS = frozenset({"trainval", "all", "default"})


@dataclass(frozen=True)
class VocSplit:
    """Where the parts of a split are.

    Attributes:
        images: Folder of the images.
        annotations: Folder of the XML files.
        names: What is in the split, without extension; None for all XML files.
    """

    images: Path
    annotations: Path
    names: tuple[str, ...] | None = None


def find_voc(root: Path) -> dict[str, VocSplit]:
    """Return the parts of each split in a folder; none if it is not Pascal VOC.

    Looked for are `Annotations` with `JPEGImages` and lists in `ImageSets/Main`, and XML files next to images, in the
    folder itself or in sub-folders with the names of splits.

    Raises:
        ValueError: A list of images cannot be read, or two lists or folders are of the same split.
    """
    annotations = next((root / name for name in ("Annotations", "annotations") if _has_xml(root / name)), None)
    if annotations is not None:
        images = next((root / name for name in ("JPEGImages", "images", "Images") if (root / name).is_dir()), root)
        known = frozenset(file.stem for file in annotations.glob("*.xml"))
        lists = split_lists(root / "ImageSets" / "Main", known)
        if not lists:
            return {"train": VocSplit(images, annotations)}
        return {name: VocSplit(images, annotations, listed) for name, listed in lists.items()}
    if _has_xml(root):
        beside = root.parent / "JPEGImages"
        images = beside if root.name == "Annotations" and beside.is_dir() else root
        return {"train": VocSplit(images, root)}
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and split_of_folder(path.name)]
    found: dict[str, Path] = {}
    for path in filter(_has_xml, folders):
        add_split(found, split_of_folder(path.name) or "", path)
    return {split: VocSplit(path, path) for split, path in found.items()}


def split_lists(folder: Path, known: Container[str]) -> dict[str, tuple[str, ...]]:
    """Return what each split has, without extension, from the lists in a folder; `trainval` alone counts as `train`.

    Args:
        folder: The folder.
        known: Names that there are. A 1, 0 or -1 at the end of a line that is none of them says whether a class is in
            the image, and is no part of the name.

    Raises:
        ValueError: A list cannot be read, or two are of the same split.
    """
    lists: dict[str, Path] = {}
    for file in sorted(folder.glob("*.txt")):
        # Those of single classes are cat_train.txt, and trainval is both.
        if "_" not in file.stem or split_of_folder(file.stem.split("_")[0]):
            add_split(lists, split_of_folder(file.stem) or file.stem, file)
    if "trainval" in lists and "train" not in lists:
        lists["train"] = lists["trainval"]
    if len(lists) > 1:
        lists = {name: file for name, file in lists.items() if name not in _OTHER_LISTS}
    alone = len(lists) == 1
    return {
        "train" if alone and name in _OTHER_LISTS else printable(name): _names(file, known)
        for name, file in lists.items()
    }


def read_voc(splits: Mapping[str, VocSplit], root: Path, findings: Findings) -> list[RawSplit]:
    """Read all splits, which share the classes: all that any object has, sorted.

    `xmin` to `ymax` are corners, as labelImg, CVAT and Roboflow write them; in the original sets of Pascal VOC, which
    say so in `database`, they are the first and last pixel, counted from 1. Objects marked as difficult are objects
    like all others.

    Raises:
        OSError: A folder cannot be read.
        ValueError: There is no object.
    """
    read = {name: _split(name, where, root, findings) for name, where in splits.items()}
    classes = sorted({label for _, labels in read.values() for label in labels})
    if not classes:
        worst = findings.worst()
        raise ValueError(f"no annotation file of {printable(root)} has an object{worst and f': {worst}'}")
    number = {name: label for label, name in enumerate(classes)}
    for raw, labels in read.values():
        raw.classes = classes
        raw.category_ids = list(range(1, len(classes) + 1))
        raw.objects.labels = [number[label] for label in labels]
    return [raw for raw, _ in read.values()]


def _split(split: str, where: VocSplit, root: Path, findings: Findings) -> tuple[RawSplit, list[str]]:
    """Return a split, and the class of each object."""
    raw = RawSplit(split, [], [], describe=lambda place: f"{place[0]}: object {place[1]}")
    raw.annotations = str(where.annotations)
    labels: list[str] = []
    images = _Images(where.images)
    xml_of = {file.stem: file for file in sorted(where.annotations.glob("*.xml"))}
    names: Sequence[str] = list(xml_of) if where.names is None else where.names
    for name in dict.fromkeys(names):
        if name not in xml_of:
            findings.add("annotation_missing", f"{name}.xml: in the list of {split}")
            continue
        shown_name = os.path.relpath(xml_of[name], root)
        try:
            tree = _tree(xml_of[name])
        except (OSError, ValueError) as error:
            findings.add("annotation_broken", f"{shown_name}: {one_line(error)}")
            images.of(name, "")
            continue
        found = images.of(name, _text(tree, "filename"))
        if len(found) > 1:
            listed = ", ".join(os.path.relpath(path, where.images) for path in found)
            findings.add("image_unclear", f"{shown_name}: {listed}")
            continue
        path = found[0] if found else None
        image = len(raw.images)
        size = _size(tree, shown_name, findings)
        base = os.path.basename(path) if path else name  # noqa: PTH119 - per image
        raw.images.append(RawImage(path or str(where.images / name), image + 1, size, roboflow_group(base)))
        first = 1.0 if _ORIGINAL.match(_text(tree, "source/database")) else 0.0
        for i, entry in enumerate(tree.findall("object"), 1):
            _add(raw, labels, image, entry, (shown_name, i), first, findings)
    if where.names is None:
        findings.add_all("annotation_missing", images.left(), lambda path: os.path.relpath(path, root))
    return raw, labels


class _Images:
    """Images of a folder by what annotation files call them."""

    def __init__(self, folder: Path) -> None:
        self._by_stem: dict[str, list[str]] = {}
        for path in sorted(FolderListing(str(folder)).below(str(folder))):
            stem = os.path.splitext(os.path.relpath(path, folder))[0]  # noqa: PTH122 - per image
            self._by_stem.setdefault(stem.replace(os.sep, "/"), []).append(path)
        self._used: set[str] = set()

    def of(self, name: str, file_name: str) -> list[str]:
        """Return the image of an annotation file; none if there is none, several if it cannot be told.

        It is called as the annotation file is, because files are renamed and what is in them stays, or else as the
        annotation says; where both `1.jpg` and `1.png` are there, the annotation says which.

        Args:
            name: Of the annotation file, without extension.
            file_name: Of the image, as the annotation has it.
        """
        base = file_name.replace("\\", "/").rpartition("/")[2]
        found = self._by_stem.get(name) or self._by_stem.get(Path(base).stem, [])
        exact = [path for path in found if os.path.basename(path) == base]  # noqa: PTH119 - per image
        self._used.update(exact or found)
        return exact or found

    def left(self) -> list[str]:
        """Return the images that no annotation file has asked for."""
        return [path for paths in self._by_stem.values() for path in paths if path not in self._used]


def _add(
    raw: RawSplit,
    labels: list[str],
    image: int,
    entry: ElementTree.Element,
    place: tuple[str, int],
    first: float,
    findings: Findings,
) -> None:
    label = printable(_text(entry, "name"))
    if not label:
        findings.add("object_entry", f"{raw.describe(place)}: no name")
        return
    try:
        x0, y0, x1, y1 = (float(_text(entry, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        findings.add("object_entry", f"{raw.describe(place)}: no box of four numbers")
        return
    if _text(entry, "difficult") == "1":
        findings.add("difficult", raw.describe(place))
    raw.objects.add(image, 0, (x0 - first, y0 - first, x1, y1), place)
    labels.append(label)


def _tree(file: Path) -> ElementTree.Element:
    """Read an XML file.

    Raises:
        ValueError: It is broken.
        OSError: It cannot be read.
    """
    data = read_bytes(str(file), _MAX_XML)
    if b"<!DOCTYPE" in data.replace(b"\0", b""):  # a few lines of entities make billions of letters
        raise ValueError("it has a DOCTYPE, which annotations have not")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two: encodings
        raise ValueError(f"broken XML: {one_line(error)}") from None


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _size(tree: ElementTree.Element, name: str, findings: Findings) -> tuple[int, int] | None:
    texts = [_text(tree, f"size/{key}") for key in ("height", "width")]
    if not any(texts) or texts == ["0", "0"]:
        return None
    sides = []
    for text in texts:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        sides.append(int(value) if math.isfinite(value) and value.is_integer() and 0 < value < 2**31 else 0)
    if min(sides) < 1:
        findings.add("size_unusable", f"{name}: {shown(texts[1])} x {shown(texts[0])}")
        return None
    return sides[0], sides[1]


def _names(file: Path, known: Container[str]) -> tuple[str, ...]:
    lines = [line.strip() for line in read_text(str(file), _MAX_LIST).splitlines()]
    shorter = [re.sub(r"\s+-?[01]$", "", line) for line in lines]
    return tuple(
        name if line not in known and name in known else line for line, name in zip(lines, shorter, strict=True) if line
    )


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix == ".xml" for path in folder.iterdir())
