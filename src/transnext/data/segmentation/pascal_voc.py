"""Pascal VOC's folders of pictures and label files, whose splits are lists of names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from transnext.data.detection.voc import split_lists
from transnext.data.names import printable
from transnext.data.segmentation.findings import Findings
from transnext.data.segmentation.pairs import Paired, by_key, key_of, listed
from transnext.data.segmentation.table import IGNORED, ClassTable, Colour, packed, value_table
from transnext.data.segmentation.vetting import SeenPair

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Of the values 0 to 20."""
FORMAT = "Pascal VOC"
_OWN_NAME = re.compile(r"20(0[7-9]|1[0-2])_\d{6}")
"""Of pictures of Pascal VOC 2008 to 2012: the year in which a picture came to it, and its number."""


def find_voc(root: Path, findings: Findings) -> Paired | None:
    """Return the pairs that Pascal VOC's lists name, None if it has no such folders and lists.

    `JPEGImages` has the pictures, `SegmentationClass` a label file for each, `ImageSets/Segmentation` a text file with
    a name on each line for each split.

    Raises:
        ValueError: A list cannot be read.
    """
    images, labels = root / "JPEGImages", root / "SegmentationClass"
    if not (images.is_dir() and labels.is_dir()):
        return None
    shown, drawn = listed(images), listed(labels)
    known = frozenset([*(key_of(path, images) for path in shown), *(key_of(path, labels) for path in drawn)])
    lists = split_lists(root / "ImageSets" / "Segmentation", known)
    if not lists:
        return None
    pictures, files = by_key(shown, images, findings), by_key(drawn, labels, findings)
    pairs = {}
    for split, names in lists.items():
        there = [name for name in dict.fromkeys(names) if name in pictures and name in files]
        if not there:
            findings.add("split_unlabelled", split)
            continue
        missing = [name for name in dict.fromkeys(names) if name not in pictures or name not in files]
        findings.add_all("listed_missing", missing, lambda name, split=split: f"{split}: {printable(name)}")  # type: ignore[misc]
        pairs[split] = [(pictures[name], files[name]) for name in there]
    return Paired(FORMAT, pairs)


def voc_table(seen: Mapping[str, Sequence[SeenPair]]) -> ClassTable | None:
    """Names of the classes, where files have Pascal VOC's values: 0 to 20 in its palette, 255 for borders.

    Returns:
        None if a file has another value or colour, or none has the last class and pictures have other names than Pascal
        VOC's: it may be a data set of fewer classes. Annotation programs write such folders for any classes.
    """
    colours = [colour_of(value) for value in range(len(NAMES))]
    known = {value: packed(colour) for value, colour in enumerate(colours)}
    largest, own_names = -1, True
    for pair in (pair for pairs in seen.values() for pair in pairs):
        one = pair.seen
        if not one.palette or one.shown is None:
            return None
        for value, shown in zip(one.codes.tolist(), one.shown.tolist(), strict=True):
            if value != IGNORED and known.get(value) != shown:
                return None
            largest = max(largest, value if value != IGNORED else -1)
        own_names = own_names and _OWN_NAME.fullmatch(Path(pair.image).stem) is not None
    return value_table(NAMES, display=colours) if own_names or largest == len(NAMES) - 1 else None


def colour_of(value: int) -> Colour:
    """The colour of a value in Pascal VOC's palette, RGB: its bits are dealt out to the channels, the lowest first.

    The lowest three bits are the highest of red, green and blue, and so on (VOC development kit, `VOClabelcolormap.m`).
    """
    red, green, blue = (
        sum((value >> 3 * place + channel & 1) << 7 - place for place in range(8)) for channel in range(3)
    )
    return red, green, blue
