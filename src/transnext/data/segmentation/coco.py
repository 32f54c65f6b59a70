"""COCO's categories as names of values, and its outlines as maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transnext.data.detection import opening as detection
from transnext.data.detection.coco import read_categories, read_document
from transnext.data.detection.source import DetectionSource
from transnext.data.names import printable
from transnext.data.segmentation.findings import Findings
from transnext.data.segmentation.maps import class_counts, digest_of
from transnext.data.segmentation.source import MapSource, ObjectMaps
from transnext.data.segmentation.table import IGNORED, MAX_CLASSES, ClassTable, value_table

BACKGROUND = "background"
"""What is no object."""


def class_table_of(file: Path) -> ClassTable | None:
    """What the values of maps mean beside a COCO file: 0 is what is no object, others are ids of categories.

    Returns:
        None if the file cannot be meant: it is broken, or a category has an id that no pixel can have.
    """
    try:
        names, ids, _ = read_categories(read_document(file)["categories"], file)
        if BACKGROUND in names:
            return value_table(names, values=ids)
        return value_table([BACKGROUND, *names], values=[0, *ids]) if ids[0] > 0 else value_table(names, values=ids)
    except (ValueError, OSError):
        return None


def is_panoptic(file: Path) -> bool:
    """Return whether a JSON file names segments of panoptic PNGs."""
    try:
        return b'"segments_info"' in file.read_bytes()
    except OSError:
        return False


def objects_as_maps(path: Path, findings: Findings) -> dict[str, MapSource]:
    """Open COCO instances, all of them `MapSource`s whose first class is what is no object.

    Args:
        path: A folder or a file.
        findings: What is wrong with single objects is noted here, without details.

    Raises:
        ValueError: Images to train or be judged on have boxes alone, or see `open_detection`.
    """
    # Splits are made by those who call: without held out images, which would be held out a second time.
    sources, report = detection.open_checked(path, 0.0)
    for finding in report.findings:
        if "dropped" in finding.action or "ignored" in finding.action:
            findings.add("object", f"{finding.text} ({finding.examples[0]})")
    first = next(iter(sources.values()))
    if len(first.classes) + 1 > MAX_CLASSES:
        raise ValueError(f"{printable(path)} has {len(first.classes)} classes: a map has at most {MAX_CLASSES}")
    boxes = [split for split, source in sources.items() if not source.has_masks]
    if len(boxes) == len(sources):
        raise ValueError(f"{printable(path)} has boxes alone: maps of classes need outlines")
    if needed := [split for split in boxes if split in ("train", "val")]:
        raise ValueError(f"{printable(path)} has boxes alone in {needed[0]}: maps of classes need outlines")
    findings.add_all("split_boxes", boxes, str)
    return {split: _drawn(source) for split, source in sources.items() if split not in boxes}


def _drawn(source: DetectionSource) -> MapSource:
    maps = ObjectMaps(source)
    names = source.classes
    background = BACKGROUND if BACKGROUND not in names else f"no object ({BACKGROUND} is a class)"
    pixels = np.zeros((len(source), len(names) + 2), np.int64)
    digests = np.zeros(len(source), np.uint64)
    for i, (height, width) in enumerate(source.sizes.tolist()):
        labels = maps.at(i, (height, width)).read()
        counts = class_counts(labels)
        pixels[i, :-1], pixels[i, -1] = counts[: len(names) + 1], counts[IGNORED]
        digests[i] = digest_of(labels)
    return MapSource(
        classes=(background, *names),
        colours=None,
        root=source.root,
        paths=source.paths,
        sizes=source.sizes,
        maps=maps,
        pixels=pixels,
        digests=digests,
        groups=source.groups,
    )
