"""Annotations as YOLO has them: a text file for each image, a line for each object, and `data.yaml` with the names."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transnext.data.annotation_values import one_line, read_text, roboflow_group, whole
from transnext.data.detection.findings import Findings
from transnext.data.detection.raw import RawImage, RawSplit
from transnext.data.findings import shortened, shown
from transnext.data.image_files import FolderListing, is_image
from transnext.data.names import printable
from transnext.data.splits import add_split, split_of_folder

_MAX_YAML = 2**19
_MAX_LABELS = 2**26
_NAME_FILES = ("classes.txt", "obj.names", "labels.txt")
_SLACK = 1e-6
"""Values of six digits may be out of range by this."""


@dataclass(frozen=True)
class YoloSet:
    """Where the parts of a data set are.

    Attributes:
        file: What the names are from.
        names: Class names by number.
        images: Folders or lists of images of each split.
        extra: Numbers of a line after the box that are no polygon: key points.
        missing: What the file names for `test` if that is not there.
    """

    file: Path
    names: Mapping[int, str]
    images: Mapping[str, tuple[Path, ...]]
    extra: int = 0
    missing: str = ""


def find_yolo(root: Path) -> YoloSet | None:
    """Return the data set in a folder, None if there is no YOLO data set.

    Looked for is a `*.yaml` with `names`, or `classes.txt` beside or in folders `images` and `labels`, or in a folder
    in which images and labels lie together, as labelImg has them: the folder itself, or those with the names of splits.

    Raises:
        ValueError: There are two such files, or it cannot be read.
    """
    files = sorted(file for pattern in ("*.yaml", "*.yml") for file in root.glob(pattern) if file.is_file())
    files = [file for file in files if _has_names(file)]
    if len(files) > 1:
        listed = ", ".join(printable(file.name) for file in files)
        raise ValueError(f"{printable(root)} has more than one YAML file with names ({listed}): give the path of one")
    if files:
        return yolo_set(files[0])
    images = _customary_folders(root)
    apart = any(_has_labels(folder) for folders in images.values() for folder in folders)
    images = images if apart else _flat_folders(root)
    file = _name_file(root, images) if images else None
    if file is not None:
        return YoloSet(file, _checked(dict(enumerate(_listed_names(file))), file), images)
    if not apart:  # images may have any texts beside them
        return None
    raise ValueError(
        f"{printable(root)} has YOLO labels, but no data.yaml with the names of the classes (nor classes.txt): "
        "write one with a line such as names: [cat, dog]"
    )


def yolo_set(file: Path) -> YoloSet:
    """Return the data set that a YAML file describes.

    Raises:
        ValueError: It is broken, has no names, or images that it names for training or validation are not there.
        FileNotFoundError: There is no such file.
    """
    where = printable(file)
    content = _yaml(file)
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{where}: names must be a list of class names, or a mapping from numbers to them")
    by_number: dict[int, str] = {}
    for key, name in names.items():
        number = whole(key) if not isinstance(key, str) else int(key) if key.isdecimal() and len(key) < 9 else None
        if number is None or number < 0 or not isinstance(name, (str, int, float)) or not str(name).strip():
            raise ValueError(f"{where}: names: {shown(key)}: {shown(name)} is not a number with a class name")
        by_number[number] = printable(str(name).strip())
    count = content.get("nc")
    if count is not None and count != len(by_number):
        raise ValueError(f"{where}: nc is {shown(count)}, but there are {len(by_number)} names")
    given, missing = _given_folders(content, file)
    images = given or _customary_folders(file.parent) or _flat_folders(file.parent)
    if not images:
        looked = f" ({', '.join(missing.values())})" if missing else ""
        raise ValueError(f"{where}: its images are not there: neither what it names{looked} nor images/train")
    for split, texts in missing.items():
        # Exported files often name a test folder that was not exported.
        if split in given or (split not in images and split != "test"):
            raise ValueError(f"{where} names {texts} for {split}, not to be found: correct the path or remove it")
    left_out = missing.get("test", "") if "test" not in images else ""
    return YoloSet(file, _checked(by_number, file), images, _key_points(content.get("kpt_shape")), left_out)


def read_yolo(found: YoloSet, split: str, root: Path, findings: Findings) -> RawSplit:
    """Read images and labels of a split.

    An image without label file has no objects. A line is `class x y width height`, or `class x0 y0 x1 y1 ...` of a
    polygon, in shares of the sides.

    Raises:
        OSError: A folder cannot be read.
        ValueError: There are no images.
    """
    numbers = sorted(found.names)
    label_of = {number: label for label, number in enumerate(numbers)}
    classes = [found.names[number] for number in numbers]
    raw = RawSplit(split, classes, numbers, relative=True, describe=lambda place: f"{place[0]}:{place[1]}")
    seen: set[str] = set()
    for path in dict.fromkeys(path for source in found.images[split] for path in _listed(source)):
        labels = _label_file(path)
        if labels in seen:
            findings.add("annotation_shared", path)
        seen.add(labels)
        raw.annotations = raw.annotations or os.path.dirname(labels)  # noqa: PTH120 - per image
        name = os.path.relpath(labels, root)
        try:
            text = read_text(labels, _MAX_LABELS)
        except FileNotFoundError:
            text = ""
        except ValueError as error:
            findings.add("annotation_broken", str(error))
            continue
        image = len(raw.images)
        base = os.path.basename(path)  # noqa: PTH119 - per image
        raw.images.append(RawImage(path, image + 1, None, roboflow_group(base)))
        for number, line in enumerate(text.splitlines(), 1):
            if fields := line.split():
                _add(raw, image, fields, (name, number), label_of, found.extra, findings)
    if not raw.images:
        raise ValueError(f"there are no images of {split} in {', '.join(map(printable, found.images[split]))}")
    if all(source.is_dir() for source in found.images[split]):  # a list may choose
        left = _without_image({os.path.dirname(image.path) for image in raw.images}, seen)  # noqa: PTH120 - per image
        findings.add_all("image_missing", left, lambda path: os.path.relpath(path, root))
    return raw


def _without_image(images: set[str], labels: set[str]) -> list[str]:
    """Return label files of which no image asks, in folders that have labels alone.

    Args:
        images: Folders of images.
        labels: Label files of the images, whether they are there or not.
    """
    left = []
    for folder in {os.path.dirname(path) for path in labels} - images:  # noqa: PTH120 - per image
        if os.path.isdir(folder):  # noqa: PTH112 - per image
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(".txt") and entry.is_file()]
            left += [os.path.join(folder, name) for name in names if name not in _NAME_FILES]  # noqa: PTH118
    return sorted(set(left) - labels)


def _add(
    raw: RawSplit,
    image: int,
    fields: list[str],
    place: tuple[str, int],
    label_of: dict[int, int],
    extra: int,
    findings: Findings,
) -> None:
    def where() -> str:
        return raw.describe(place)

    is_box = len(fields) == 5 or (extra and len(fields) == 5 + extra)
    if not is_box and (len(fields) < 7 or len(fields) % 2 == 0):
        findings.add("label_line", f"{where()}: {len(fields)} fields, where a box has 5 and a polygon 7, 9, ...")
        return
    try:
        values = [float(field) for field in (fields[:5] if is_box else fields)]
    except ValueError:
        findings.add("label_line", f"{where()}: not all fields are numbers")
        return
    label = label_of.get(int(values[0])) if math.isfinite(values[0]) and values[0].is_integer() else None
    if label is None:
        findings.add("label_class", f"{where()}: class {fields[0]}")
        return
    if not all(map(math.isfinite, values)):
        findings.add("not_finite", where())
        return
    if min(values[1:]) < -_SLACK or max(values[1:]) > 1 + _SLACK:
        findings.add("label_range", where())
    if is_box:
        x, y, width, height = values[1:]
        raw.objects.add(image, label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), place)
        return
    corners = np.array(values[1:])
    box = (corners[::2].min(), corners[1::2].min(), corners[::2].max(), corners[1::2].max())
    raw.objects.add(image, label, tuple(map(float, box)), place, outline=[corners])  # type: ignore[arg-type]


def _yaml(file: Path) -> dict[Any, Any]:
    import yaml

    class Plain(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
        """Without references: a few lines of them make billions of entries."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("references (*name) are not understood")
            return super().compose_node(parent, index)

    text = read_text(str(file), _MAX_YAML)
    try:
        content = yaml.load(text, Plain)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{printable(file)} is broken YAML: {at}{error.problem}") from None
    except Exception as error:  # its constructors raise whatever int, float and datetime do
        raise ValueError(f"{printable(file)} is broken YAML: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{printable(file)} holds {shown(content)}, not keys such as names and train")
    return content


def _has_names(file: Path) -> bool:
    """Return whether a YAML file describes a data set; a broken one by its name, so that it is not passed over."""
    if file.stem in ("data", "dataset"):
        return True
    try:
        return any(line.startswith("names") for line in read_text(str(file), _MAX_YAML).split("\n"))
    except (OSError, ValueError):
        return False


def _checked(names: dict[int, str], file: Path) -> dict[int, str]:
    if not names or not all(names.values()):
        raise ValueError(f"{printable(file)} has a class without a name")
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise ValueError(f"{printable(file)} has two classes called {twice!r}: rename one of them")
    return names


def _key_points(shape: Any) -> int:
    usable = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < 10_000 for n in shape)
    return shape[0] * shape[1] if usable else 0


def _given_folders(content: Mapping[Any, Any], file: Path) -> tuple[dict[str, tuple[Path, ...]], dict[str, str]]:
    """Return what the file names for each split, as far as it is there, and what is not, as a text.

    `path` may be that of another machine, and Roboflow writes `../train/images` for `train/images`.

    Raises:
        ValueError: Two keys stand for the same split.
    """
    base = file.parent
    path = content.get("path")
    bases = [base / path, base, base.parent] if isinstance(path, str) else [base]
    found: dict[str, tuple[Path, ...]] = {}
    missing: dict[str, str] = {}
    for key, value in content.items():
        known = split_of_folder(key) if isinstance(key, str) else None
        split = known or key
        if not isinstance(split, str) or not (known or split.startswith(("train", "val", "test"))):
            continue
        sources: list[Path] = []
        lost = []
        for text in value if isinstance(value, list) else [] if value in (None, "") else [value]:
            if not isinstance(text, str) or not text or "\0" in text:
                lost.append(shown(text))
                continue
            texts = dict.fromkeys([text, text.removeprefix("../")])
            tried = [folder / name for folder in bases for name in texts]
            # os.path: a path that no system takes is not there, instead of an error
            there = [p for p in tried if os.path.isdir(p) or (p.suffix == ".txt" and os.path.isfile(p))]  # noqa: PTH112, PTH113
            sources += there[:1]
            if not there:
                lost.append(shortened(text))
        if sources and found.setdefault(split, tuple(sources)) != tuple(sources):
            raise ValueError(f"{printable(file)} names images for {split} twice, as {shown(key)} too: remove one")
        if lost and (known or sources):  # other keys may be anything
            missing[split] = shortened(", ".join(lost))
    return found, missing


def _customary_folders(root: Path) -> dict[str, tuple[Path, ...]]:
    """Return the image folders of `images/<split>`, `<split>/images`, or, of all images, `images`.

    Raises:
        ValueError: Two are of the same split.
    """
    found: dict[str, Path] = {}
    inside = root / "images"
    if inside.is_dir():
        for folder in sorted(path for path in inside.iterdir() if path.is_dir()):
            add_split(found, split_of_folder(folder.name) or printable(folder.name), folder)
    if not found:
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            if (split := split_of_folder(folder.name)) and (folder / "images").is_dir():
                add_split(found, split, folder / "images")
    if not found and inside.is_dir():
        found["train"] = inside
    return {split: (folder,) for split, folder in found.items()}


def _flat_folders(root: Path) -> dict[str, tuple[Path, ...]]:
    """Return folders in which labels lie beside images: the folder itself, or those with the names of splits.

    Raises:
        ValueError: Two are of the same split.
    """
    if _labels_beside(root):
        return {"train": (root,)}
    found: dict[str, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if (split := split_of_folder(folder.name)) and _labels_beside(folder):
            add_split(found, split, folder)
    return {split: (folder,) for split, folder in found.items()}


def _labels_beside(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        files = [(*os.path.splitext(entry.name), entry) for entry in entries]  # noqa: PTH122 - per image
    texts = {stem for stem, extension, _ in files if extension == ".txt"}
    return bool(texts) and any(stem in texts and ext != ".txt" and is_image(entry) for stem, ext, entry in files)


def _name_file(root: Path, images: Mapping[str, tuple[Path, ...]]) -> Path | None:
    """Return the file with the names: that of the folder, or of folders of images and labels.

    Raises:
        ValueError: There are several with other names, or one cannot be read.
    """
    folders = [folder for some in images.values() for folder in some]
    folders += [Path(_label_file(str(folder / "x.jpg"))).parent for folder in folders]
    folders += [folder.parent for folder in folders if folder != root]
    by_folder = [[folder / name for name in _NAME_FILES if (folder / name).is_file()] for folder in [root, *folders]]
    found = by_folder[0] or [files[0] for files in by_folder if files]
    for file in () if by_folder[0] else found[1:]:
        if _listed_names(file) != _listed_names(found[0]):
            raise ValueError(f"{printable(found[0])} and {printable(file)} list other names: write one data.yaml")
    return found[0] if found else None


def _listed_names(file: Path) -> list[str]:
    names = [printable(line.strip()) for line in read_text(str(file), _MAX_YAML).split("\n")]
    while names and not names[-1]:
        names.pop()
    return names


def _has_labels(images: Path) -> bool:
    folder = Path(_label_file(str(images / "x.jpg"))).parent
    return folder != images and folder.is_dir() and any(path.suffix == ".txt" for path in folder.iterdir())


def _listed(source: Path) -> Iterator[str]:
    """Yield the images of a folder, or those that a list names, one on each line."""
    if source.is_dir():
        yield from sorted(FolderListing(str(source)).below(str(source), given=True))
        return
    for line in read_text(str(source), _MAX_LABELS).splitlines():
        if name := line.strip().replace("\\", "/"):
            yield os.path.normpath(source.parent / name)


def _label_file(image: str) -> str:
    """Return the path of the labels: in `labels` for `images`, or beside the image where there is no such folder."""
    folder, name = os.path.split(image)
    stem = os.path.splitext(name)[0]  # noqa: PTH122
    above, mark, below = f"{folder}{os.sep}".rpartition(f"{os.sep}images{os.sep}")
    if mark and os.path.isdir(f"{above}{os.sep}labels"):  # noqa: PTH112
        folder = f"{above}{os.sep}labels{os.sep}{below}"
    return os.path.join(folder, f"{stem}.txt")  # noqa: PTH118
