"""Opening pictures with maps of classes: the format is found, the maps are checked, splits are told apart."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transnext.data.channels import MAX_CHANNELS, read_channels_header
from transnext.data.detection.coco import find_coco
from transnext.data.image_files import below_wrappers, log
from transnext.data.images import UnreadableImage, read_header
from transnext.data.names import printable
from transnext.data.segmentation.class_files import find_class_file, read_class_file
from transnext.data.segmentation.coco import class_table_of, is_panoptic, objects_as_maps
from transnext.data.segmentation.findings import Findings, MapReport, SplitSummary
from transnext.data.segmentation.pairs import Paired, find_cityscapes, find_folders
from transnext.data.segmentation.panoptic import find_panoptic, panoptic_sources
from transnext.data.segmentation.pascal_voc import FORMAT as VOC
from transnext.data.segmentation.pascal_voc import find_voc, voc_table
from transnext.data.segmentation.source import MapSource
from transnext.data.segmentation.table import ClassTable
from transnext.data.segmentation.vetting import looked_at, source_of, table_of
from transnext.data.splits import held_out, ordered_names
from transnext.data.windowed import needs_numbers
from transnext.limits import check_number

_LOOKED_FOR = (
    "pictures and label files (images/train with labels/train or masks, annotations, semantic; train/images with "
    "train/labels; images with labels), Cityscapes (leftImg8bit with gtFine), Pascal VOC (JPEGImages, "
    "SegmentationClass, ImageSets/Segmentation), COCO (annotations/panoptic_*.json or instances_*.json with outlines)"
)
_UNSAID = "kept"
"""How what was done about findings begins that are shown by a check alone: nothing of the data is lost."""
_RARE = 1e-3


def open_segmentation(
    data: str | os.PathLike[str],
    val_fraction: float = 0.2,
    seed: int = 0,
    *,
    reduce_zero_label: bool | None = None,
    usual_zero_label: bool | None = None,
    in_chans: int | None = None,
) -> dict[str, MapSource]:
    """Open pictures with maps of classes.

    The layout is found by what is there: pictures and label files in folders, ADE20K and Cityscapes among them, Pascal
    VOC's lists, COCO panoptic JSON with its PNGs, or the outlines of COCO instances drawn over one another on a class
    `background`. What values mean is read from a class file (`class_files.read_class_file`); without one every value is
    a class. 255 is ignored, and so is what no class has. All label files are decoded once. Splits are those of the
    data, by their customary names; where nothing but `train` is there, images are held out. What is wrong is dropped or
    ignored, and logged in a line for each kind; `check_segmentation` lists it.

    Args:
        data: A folder, or a COCO file.
        val_fraction: Share of the images, or groups, held out where the data come without splits.
        seed: Chooses them.
        reduce_zero_label: 0 stands for nothing, and 1 is the first class: as ADE20K has it, and by default only such
            data; what a class file says comes before the layout, and this before both.
        usual_zero_label: The same of data whose class file gives names alone, or that have none, where
            `reduce_zero_label` is not given: what a model was trained with.
        in_chans: Channels of the pictures; by default those of the first, if it is a TIFF that 8-bit RGB cannot hold,
            else 3. Others than 3, and deeper ones, are read as numbers (`transnext.data.channels`).

    Returns:
        The splits in order, `train` first; all have the same classes.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: It is none of these layouts, a file is broken, or nothing is left of it.
        OSError: A file cannot be read.
    """
    sources, report = open_checked(
        data,
        val_fraction,
        seed,
        reduce_zero_label=reduce_zero_label,
        usual_zero_label=usual_zero_label,
        in_chans=in_chans,
    )
    for finding in report.findings:
        if not finding.action.startswith(_UNSAID):
            log(report.data, f"{finding.text} ({finding.examples[0]})")
    return sources


def has_label_files(data: str | os.PathLike[str]) -> bool:
    """Tell if a folder has label files of a known layout; outlines alone, from which maps can be drawn, are none."""
    path = Path(os.fspath(data))
    if not os.path.isdir(path):  # noqa: PTH112 - a path that no system takes is no folder
        return False
    root, nowhere = below_wrappers(path), Findings()
    return bool(find_panoptic(root)) or _paired(root, nowhere) is not None


def open_checked(
    data: str | os.PathLike[str],
    val_fraction: float = 0.2,
    seed: int = 0,
    *,
    reduce_zero_label: bool | None = None,
    usual_zero_label: bool | None = None,
    in_chans: int | None = None,
) -> tuple[dict[str, MapSource], MapReport]:
    """Open as `open_segmentation` does, and return what was found instead of logging it."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and less than 1, got {val_fraction}")
    check_number("in_chans", 3 if in_chans is None else in_chans, 1, MAX_CHANNELS)
    findings = Findings()
    found = _opened(Path(os.fspath(data)), _Zero(reduce_zero_label, usual_zero_label), in_chans, findings)
    sources = {name: found.sources[name] for name in ordered_names(list(found.sources)) if len(found.sources[name])}
    root = printable(found.root)
    lost = [name for name in found.sources if name not in sources]
    findings.add_all("split_unlabelled", lost, lambda name: f"{name}: no image of it can be used")
    if not sources:
        worst = findings.worst()
        raise ValueError(f"{root}: no image can be used{worst and f': {worst}'}")
    for name in [name for name, source in sources.items() if name != "train" and not source.pixels[:, :-1].any()]:
        if len(sources) > 1:  # the label files of test sets are sometimes blank
            findings.add("split_unlabelled", f"{name}: nothing but ignored pixels")
            del sources[name]
    if not any(source.pixels[:, :-1].any() for source in sources.values()):
        seen = findings.worst() or next((f"{f.text} ({f.examples[0]})" for f in findings.listed()), "")
        raise ValueError(f"{root}: all pixels are ignored{seen and f': {seen}'}")
    _check_classes(sources, root, findings)
    _across_splits(sources, findings)
    if sources.keys() == {"train", "test"}:
        sources = {"train": sources["train"], "val": sources["test"]}
    elif "train" in sources and not sources.keys() & {"val", "test"} and val_fraction:
        others = {name: source for name, source in sources.items() if name != "train"}
        sources = {**_held_out(sources["train"], val_fraction, seed), **others}
    return sources, _report(found, sources, findings)


@dataclass(frozen=True)
class _Opened:
    """A data set of a known layout."""

    format: str
    root: Path
    convention: str
    sources: Mapping[str, MapSource]


class _Zero(NamedTuple):
    """Whether 0 stands for nothing: as it was said of the data, and as it usually is where nothing is said."""

    said: bool | None
    usual: bool | None


def _opened(path: Path, zero: _Zero, in_chans: int | None, findings: Findings) -> _Opened:
    where = printable(path)
    if os.path.isfile(path):  # noqa: PTH113 - a path that no system takes is not there, instead of an error
        if path.suffix.lower() != ".json":
            raise ValueError(f"{where} is neither a folder nor a COCO file (.json)")
        base = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
        files = {"train": path}
        _check_rgb(path, in_chans)
        return _panoptic(files, base, findings) if is_panoptic(path) else _instances(path, findings)
    if not os.path.isdir(path):  # noqa: PTH112
        raise FileNotFoundError(f"there is no folder or file {where}")
    root = below_wrappers(path)
    if panoptic := find_panoptic(root):
        _check_rgb(path, in_chans)
        return _panoptic(panoptic, root, findings)
    paired = _paired(root, findings)
    if paired is not None:
        return _from_pairs(paired, root, zero, in_chans, findings)
    if find_coco(root):
        _check_rgb(path, in_chans)
        return _instances(root, findings)
    lost = findings.worst()
    raise ValueError(f"{where} has no maps of classes that are known: looked for {_LOOKED_FOR}{lost and f'; {lost}'}")


def _paired(root: Path, findings: Findings) -> Paired | None:
    return find_cityscapes(root, findings) or find_voc(root, findings) or find_folders(root, findings)


def _check_rgb(path: Path, in_chans: int | None) -> None:
    if in_chans not in (None, 3):
        raise ValueError(
            f"in_chans is {in_chans}: pictures of {printable(path)} (COCO) are read as RGB, only those of folders with "
            "label files as numbers"
        )


def _channels(paired: Paired, in_chans: int | None) -> int | None:
    """Channels of pictures that are to be read as numbers; None for 8-bit RGB.

    Raises:
        ValueError: The first picture that can be read has other channels than it was said.
    """
    first = _first_readable([image for pairs in paired.pairs.values() for image, _ in pairs])
    found = needs_numbers(first)
    if in_chans is None or (found is None and in_chans == 3):
        return found
    try:
        read_channels_header(first, in_chans)
    except UnreadableImage as error:
        raise ValueError(f"{printable(first)} does not fit in_chans: {error.reason}") from None
    return in_chans


def _first_readable(images: Sequence[str]) -> str:
    """The first picture whose header can be read, so that a damaged one does not say what all are; else the first."""
    for image in images:
        try:
            read_header(image)
            return image
        except UnreadableImage:
            if needs_numbers(image) is not None:  # more channels than Pillow knows
                return image
        except FileNotFoundError:
            continue
    return images[0]


def _from_pairs(paired: Paired, root: Path, zero: _Zero, in_chans: int | None, findings: Findings) -> _Opened:
    channels = _channels(paired, in_chans)
    seen = {split: looked_at(pairs, findings, channels) for split, pairs in paired.pairs.items()}
    if not any(seen.values()):
        raise ValueError(f"{printable(root)}: no image can be used: {findings.worst()}")
    table, reduce = paired.table, zero.said
    if table is None:
        table = _declared(paired, root)
        if table is None and paired.format == VOC:
            table = voc_table(seen)
        if reduce is None and (table is None or table.names_alone):
            reduce = paired.reduce_zero_label if zero.usual is None else zero.usual
            if zero.usual is not None and zero.usual != (table is not None and table.reduce_zero_label):
                log(printable(root), f"0 is {'no' if zero.usual else 'a'} class in label files, as in training")
    try:
        table = table_of(seen, table, reduce, findings)
    except ValueError as error:
        raise ValueError(f"{printable(root)}: {error}") from None
    sources = {
        split: replace(source_of(pairs, table, str(root), findings), channels=channels) for split, pairs in seen.items()
    }
    kind = paired.format if channels is None else f"{paired.format}, pictures of {channels} channels as numbers"
    return _Opened(kind, root, table.convention, sources)


def _declared(paired: Paired, root: Path) -> ClassTable | None:
    """What a class file says, or the categories of a COCO file beside the maps."""
    folders = [root]
    for pairs in paired.pairs.values():
        for path in pairs[0] if pairs else ():
            for parent in Path(path).parents:
                if parent == root or not parent.is_relative_to(root):
                    break
                folders.append(parent)
    if file := find_class_file(folders):
        return read_class_file(file)
    files = find_coco(root)
    return class_table_of(next(iter(files.values()))) if files else None


def _panoptic(files: Mapping[str, Path], root: Path, findings: Findings) -> _Opened:
    return _Opened("COCO panoptic", root, "what is no segment is ignored", panoptic_sources(files, root, findings))


def _instances(path: Path, findings: Findings) -> _Opened:
    sources = objects_as_maps(path, findings)
    root = path if path.is_dir() else path.parent
    return _Opened("COCO instances drawn as maps", root, "0 is the class background; ignored: groups", sources)


def _check_classes(sources: Mapping[str, MapSource], root: str, findings: Findings) -> None:
    """Refuses data in which a single class is left of several because all other values are not declared."""
    pixels = sum(source.pixels.sum(0) for source in sources.values())
    present = np.flatnonzero(pixels[:-1])
    unknown = [f for f in findings.listed() if f.kind in ("value_undeclared", "colour_undeclared")]
    if len(present) == 1 and len(pixels) > 2 and unknown:
        name = next(iter(sources.values())).classes[int(present[0])]
        raise ValueError(
            f"{root}: {name!r} is the only class that label files have pixels of, all else is ignored: "
            f"{unknown[0].text} ({unknown[0].examples[0]})"
        )


def _across_splits(sources: Mapping[str, MapSource], findings: Findings) -> None:
    split_of_file: dict[str, str] = {}
    for name, source in sources.items():
        for path in source.paths:
            other = split_of_file.setdefault(path, name)
            if other != name:
                findings.add("image_in_two_splits", f"{printable(path)}: {other}, {name}")


def _held_out(source: MapSource, val_fraction: float, seed: int) -> dict[str, MapSource]:
    names = list(source.names_below())
    groups = list(source.groups) if source.groups is not None else [""] * len(names)
    keys = [f"group {group}" if group else name for group, name in zip(groups, names, strict=True)]
    full = source.pixels[:, :-1].sum(1) > 0
    out = np.array(held_out(keys, val_fraction, seed, full.tolist()))
    parts = {"train": np.flatnonzero(~out), "val": np.flatnonzero(out)}
    return {name: source.subset(places.tolist()) for name, places in parts.items() if len(places)}


def _report(found: _Opened, sources: Mapping[str, MapSource], findings: Findings) -> MapReport:
    summaries = {}
    for name, source in sources.items():
        pixels = source.pixels
        total, ignored = pixels.sum(1), pixels[:, -1]
        findings.add_all("map_unlabelled", np.flatnonzero(ignored == total).tolist(), source.name)
        mostly = np.flatnonzero((2 * ignored > total) & (ignored < total)).tolist()
        findings.add_all("map_mostly_ignored", mostly, source.name)
        share = float(ignored.sum() / max(1, total.sum()))
        summaries[name] = SplitSummary(len(source), source.class_pixels(), source.class_images(), share)
    train = summaries.get("train")
    if train is not None:
        labelled = max(1, sum(train.pixels.values()))
        findings.add_all("class_empty", [c for c, n in train.pixels.items() if not n], str)
        rare = [c for c, n in train.pixels.items() if 0 < n < _RARE * labelled]
        findings.add_all(
            "class_rare", rare, lambda c: f"{c}: {train.pixels[c] / labelled:.3%}, in {train.images_with[c]:,} images"
        )
        for name, summary in summaries.items():
            missing = [c for c, n in train.pixels.items() if n and not summary.pixels.get(c)]
            findings.add_all("class_unjudged", missing, lambda c, name=name: f"{c}: {name}")  # type: ignore[misc]
    return MapReport(printable(found.root), found.format, found.convention, summaries, findings.listed())
