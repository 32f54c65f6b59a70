"""Opening images with annotated objects: the format is found, the annotations are checked, splits are told apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from transnext.data.detection.coco import find_coco, read_coco
from transnext.data.detection.findings import DataReport, Findings, SplitSummary
from transnext.data.detection.raw import RawSplit
from transnext.data.detection.scenes import scene_splits
from transnext.data.detection.source import DetectionSource, with_free_ids
from transnext.data.detection.vetting import vetted
from transnext.data.detection.voc import find_voc, read_voc
from transnext.data.detection.yolo import YoloSet, find_yolo, read_yolo, yolo_set
from transnext.data.image_files import below_wrappers, log
from transnext.data.names import printable
from transnext.data.splits import NEEDED, held_out, ordered_names, read_splits
from transnext.extras import require

_LOOKED_FOR = (
    "COCO (annotations/instances_*.json, <split>/_annotations.coco.json, *.json with images and annotations), "
    "YOLO (data.yaml, images/train with labels/train, train/images with train/labels, or classes.txt with "
    "images and labels in one folder), "
    "Pascal VOC (Annotations/*.xml with JPEGImages, or XML files next to images)"
)
NAMED_DETECTION_SETS: dict[str, Callable[[], Mapping[str, DetectionSource]]] = {"scenes": scene_splits}
"""Sets that are known by name: functions that give the splits."""
_UNSAID = frozenset({"kept", "kept as negatives", "kept like all others", "no class"})
"""What was done about findings that are shown by a check alone: nothing of the data is lost."""


def open_detection(
    data: str | os.PathLike[str], val_fraction: float = 0.2, seed: int = 0, masks: bool = True
) -> dict[str, DetectionSource]:
    """Open images with annotated objects in COCO JSON, YOLO text files or Pascal VOC, or a set by name.

    The format is found by what is there. Splits are those of the data, by their customary names or what they are called
    there; `test` is `val` if there is no other beside `train`, and it has objects. Where nothing but `train` is there,
    images are held out, whole groups of them where the annotation has groups (`group`, `video_id` or `scene` of an
    image, or the names that Roboflow gives to augmented copies). What is wrong with single images and objects is
    dropped or mended and logged in a line for each kind; `check_detection` lists it.

    Args:
        data: A folder, a COCO file, a `data.yaml`, or a name in `NAMED_DETECTION_SETS`, which wins over a folder of
            that name in the current directory; write `./scenes` for the folder.
        val_fraction: Share of the images, or groups, held out where the data come without splits.
        seed: Chooses them.
        masks: Whether outlines are wanted. Where most objects have one, those without are then ignored regions: of a
            box alone it is not known which pixels are the object. Without, all boxes count, and opening is faster.

    Returns:
        The splits in order, `train` first; all have the same classes.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: It is none of these formats or more than one, a file is broken, or nothing is left of it.
        OSError: A file cannot be read.
    """
    name = os.fspath(data)
    if name in NAMED_DETECTION_SETS:
        if os.path.isdir(name):  # noqa: PTH112
            log(name, f"the set of this name is taken; write ./{name} for the folder")
        return dict(NAMED_DETECTION_SETS[name]())
    sources, report = open_checked(data, val_fraction, seed, masks)
    for finding in report.findings:
        if finding.action not in _UNSAID:
            log(report.data, f"{finding.text} ({finding.examples[0]})")
    return sources


def open_checked(
    data: str | os.PathLike[str], val_fraction: float = 0.2, seed: int = 0, masks: bool = True
) -> tuple[dict[str, DetectionSource], DataReport]:
    """Open as `open_detection` does, and return what was found instead of logging it."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and less than 1, got {val_fraction}")
    if os.fspath(data) in NAMED_DETECTION_SETS:
        raise ValueError(f"{os.fspath(data)} are composed and not read from files: there is nothing to check")
    require("reading annotated objects", "pycocotools", "yaml", extra="detect")
    findings = Findings()
    layout = _layout(Path(os.fspath(data)))
    raw = _with_same_classes(layout.read(findings), findings)
    root = str(layout.root)
    sources = {split.name: vetted(split, root, findings, masks) for split in raw}
    sources = {name: sources[name] for name in ordered_names(list(sources))}
    for name in [name for name, source in sources.items() if not len(source)]:
        worst = findings.worst()
        why = f"no image of {name} can be used{worst and f': {worst}'}"
        if name in NEEDED or len(sources) == 1:
            raise ValueError(f"{printable(root)}: {why}")
        findings.add("split_unusable", why)
        del sources[name]
    sources = _with_outlines(sources)
    _across_splits(sources, findings)
    empty = _without_objects(raw, sources, root, findings)
    judges = sources.keys() & {"val", "test"} - empty
    if sources.keys() == {"train", "test"} and judges:
        sources = {"train": sources["train"], "val": sources["test"]}
    elif "train" in sources and not judges and val_fraction:
        others = {name: source for name, source in sources.items() if name != "train"}
        sources = {**_held_out(sources["train"], val_fraction, seed), **others}
        if "val" in sources and not any(sources["val"].object_counts().values()):
            findings.add("split_empty", "val, held out of train, where one image or group alone has objects")
    return sources, _report(layout, sources, findings)


@dataclass(frozen=True)
class _Layout:
    """A data set of a known format."""

    format: str
    root: Path
    read: Callable[[Findings], list[RawSplit]]


def _layout(path: Path) -> _Layout:
    where = printable(path)
    if os.path.isfile(path):  # noqa: PTH113 - a path that no system takes is not there, instead of an error
        if path.suffix.lower() == ".json":
            base = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
            return _coco({"train": path}, base)
        if path.suffix.lower() in (".yaml", ".yml"):
            return _yolo(yolo_set(path), path.parent)
        raise ValueError(f"{where} is neither a folder nor a COCO file (.json) or YOLO data.yaml")
    if not os.path.isdir(path):  # noqa: PTH112
        raise FileNotFoundError(f"there is no folder or file {where}")
    root = below_wrappers(path)
    layouts = []
    if coco := find_coco(root):
        layouts.append(_coco(coco, root))
    if voc := find_voc(root):
        layouts.append(_Layout("Pascal VOC", root, lambda findings: read_voc(voc, root, findings)))
    if not layouts and (yolo := find_yolo(root)):
        layouts.append(_yolo(yolo, root))
    elif layouts and any((root / name).is_file() for name in ("data.yaml", "data.yml")):
        layouts.append(_yolo(find_yolo(root) or yolo_set(root / "data.yaml"), root))
    if len(layouts) > 1:
        names = " and ".join(layout.format for layout in layouts)
        raise ValueError(f"{where} has annotations in {names}: give the path of the JSON or YAML file, or remove one")
    if not layouts:
        raise ValueError(f"{where} has no annotations that are known: looked for {_LOOKED_FOR}")
    return layouts[0]


def _coco(files: Mapping[str, Path], root: Path) -> _Layout:
    def read(findings: Findings) -> list[RawSplit]:
        return _read(files, lambda split: read_coco(files[split], root, split, findings), findings)

    return _Layout("COCO", root, read)


def _yolo(found: YoloSet, root: Path) -> _Layout:
    def read(findings: Findings) -> list[RawSplit]:
        if found.missing:
            findings.add("split_unusable", f"test: {found.file.name} names {found.missing}, not to be found")
        return _read(found.images, lambda split: read_yolo(found, split, root, findings), findings)

    return _Layout("YOLO", root, read)


def _read(names: Iterable[str], read: Callable[[str], RawSplit], findings: Findings) -> list[RawSplit]:
    return list(read_splits(names, read, partial(findings.add, "split_unusable")).values())


def _with_same_classes(splits: list[RawSplit], findings: Findings) -> list[RawSplit]:
    """Give all splits the classes of `train`, or of the first.

    Raises:
        ValueError: Another has objects of a class that it lacks.
    """
    used = {split.name: {split.classes[label] for label in set(split.objects.labels)} for split in splits}
    reference = next((split for split in splits if split.name == "train"), splits[0])
    parent = reference.parent
    if parent and all(split.parent == parent and parent not in used[split.name] for split in splits):
        findings.add("class_parent", parent)
    else:
        parent = None
    ids = dict(zip(reference.classes, reference.category_ids, strict=True))
    classes = [name for name in reference.classes if name != parent]
    for split in splits:
        extra = sorted(used[split.name] - set(classes))
        if extra:
            raise ValueError(
                f"{split.name} has objects of classes that {reference.name} does not list: {', '.join(extra[:5])}"
                + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
            )
        own = dict(zip(split.classes, split.category_ids, strict=True))
        new_label = [classes.index(name) if name in classes else -1 for name in split.classes]
        split.objects.labels = [new_label[label] for label in split.objects.labels]
        if own != ids or parent:
            known = {i: own[name] for i, name in enumerate(classes) if name in own}
            split.category_ids = list(with_free_ids(len(classes), known))
        split.classes = classes
    return splits


def _with_outlines(sources: dict[str, DetectionSource]) -> dict[str, DetectionSource]:
    """A split without objects has outlines if others have: it lacks none."""
    if not any(source.has_masks for source in sources.values()):
        return sources
    none, starts = np.zeros(0, np.uint8), np.zeros(1, np.int64)
    return {
        name: source
        if len(source.objects)
        else replace(source, objects=replace(source.objects, runs=none, run_starts=starts))
        for name, source in sources.items()
    }


def _across_splits(sources: Mapping[str, DetectionSource], findings: Findings) -> None:
    """Note files and groups that are in more than one split."""
    split_of_file: dict[str, str] = {}
    split_of_group: dict[str, str] = {}
    for name, source in sources.items():
        for path in source.paths:
            other = split_of_file.setdefault(path, name)
            if other != name:
                findings.add("image_in_two_splits", f"{path}: {other}, {name}")
        for group in dict.fromkeys(source.groups or ()):
            other = split_of_group.setdefault(group, name) if group else name
            if other != name:
                findings.add("group_in_two_splits", f"{group}: {other}, {name}")


def _without_objects(
    raw: list[RawSplit], sources: Mapping[str, DetectionSource], root: str, findings: Findings
) -> set[str]:
    """Note splits without objects.

    Raises:
        ValueError: It is `val`, or the first.
    """
    looked = {split.name: printable(split.annotations) for split in raw}
    empty = [name for name, source in sources.items() if not any(source.object_counts().values())]
    for name in empty:
        if name in ("val", next(iter(sources))):
            worst = findings.worst()
            seen = f"{worst and f': {worst}'}; looked for in {looked[name]}"
            raise ValueError(f"{printable(root)}: there are no objects in {name}{seen}")
    findings.add_all("split_empty", empty, lambda name: f"{name}: looked for in {looked[name]}")
    return set(empty)


def _held_out(source: DetectionSource, val_fraction: float, seed: int) -> dict[str, DetectionSource]:
    names = list(source.names_below())
    groups = list(source.groups) if source.groups is not None else [""] * len(names)
    keys = [f"group {group}" if group else name for group, name in zip(groups, names, strict=True)]
    image = np.repeat(np.arange(len(source)), np.diff(source.objects.starts))
    full = np.bincount(image[~source.objects.crowd], minlength=len(source)) > 0
    out = np.array(held_out(keys, val_fraction, seed, full.tolist()))
    parts = {"train": np.flatnonzero(~out), "val": np.flatnonzero(out)}
    return {name: source.subset(places.tolist()) for name, places in parts.items() if len(places)}


def _report(layout: _Layout, sources: Mapping[str, DetectionSource], findings: Findings) -> DataReport:
    summaries = {}
    for name, source in sources.items():
        empty = np.flatnonzero(np.diff(source.objects.starts) == 0).tolist()
        findings.add_all("image_empty", empty, source.name)
        summaries[name] = SplitSummary(len(source), len(empty), source.object_counts(), int(source.objects.crowd.sum()))
    if "train" in summaries:
        findings.add_all("class_empty", [c for c, n in summaries["train"].objects.items() if not n], str)
    outlines = any(source.has_masks for source in sources.values())
    return DataReport(printable(layout.root), layout.format, outlines, summaries, findings.listed())
