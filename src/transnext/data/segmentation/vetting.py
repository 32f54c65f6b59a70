"""From pairs of files to maps that can be trained on: what is wrong is dropped, and noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from transnext.data.annotation_values import roboflow_group
from transnext.data.channels import read_channels_header
from transnext.data.images import Header, UnreadableImage, read_header
from transnext.data.names import PackedNames, printable
from transnext.data.segmentation.findings import Findings
from transnext.data.segmentation.maps import SeenMap, look_at
from transnext.data.segmentation.source import FileMaps, MapSource
from transnext.data.segmentation.table import IGNORED, MAX_CLASSES, ClassTable, value_table

THREADS = 8
"""Decoding a map leaves Python, reading it waits for files."""
_AT_ONCE = 16
_LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")
_LISTED = 8
# Steps between grey levels that stand for classes, at most.
_LEVELS = 17
# Values of smoothed masks: many between 0 and 255, which nearly all pixels have.
_MANY = 64
_MOSTLY = 0.9
# Of the pixels of maps that show colours, those that show others.
_STRAYS = 0.01


@dataclass(frozen=True)
class SeenPair:
    """A picture and its label file, looked at.

    Attributes:
        image: Path of the picture.
        label: Path of the label file.
        size: `(H, W)` of the upright picture.
        turn: Orientation by which the label file's pixels are turned.
        seen: What is in it.
    """

    image: str
    label: str
    size: tuple[int, int]
    turn: int
    seen: SeenMap


def looked_at(pairs: Sequence[tuple[str, str]], findings: Findings, channels: int | None = None) -> list[SeenPair]:
    """Decode label files and read the heads of pictures; what does not fit is noted and left out.

    Args:
        pairs: Picture and label file.
        findings: What was wrong is noted here.
        channels: Pictures are numbers of so many channels; None for 8-bit RGB.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        parts = [pairs[i : i + _AT_ONCE] for i in range(0, len(pairs), _AT_ONCE)]
        both = [one for part in threads.map(partial(_both, channels=channels), parts) for one in part]
    kept = []
    for (image, label), (header, seen) in zip(pairs, both, strict=True):
        if not isinstance(header, Header):
            findings.add("image_unreadable", f"{printable(image)}: {header}")
        elif not isinstance(seen, SeenMap):
            findings.add(seen[0], f"{printable(label)}: {seen[1]}")
        elif (turn := fitting_turn(header, seen.size, seen.turn)) is None:
            (height, width), (rows, columns) = header.upright, seen.size
            findings.add("size_differs", f"{printable(label)}: {columns} x {rows}, its image {width} x {height}")
        else:
            if turn != seen.turn:
                findings.add("turned", f"{printable(image)}: orientation {header.orientation}")
            elif header.orientation != 1 and seen.turn == 1 and header.stored == header.upright:
                findings.add("turn_unclear", f"{printable(image)}: orientation {header.orientation}")
            if seen.format in _LOSSY:
                findings.add("label_lossy", printable(label))
            kept.append(SeenPair(image, label, header.upright, turn, seen))
    return kept


def fitting_turn(header: Header, size: tuple[int, int], turn: int) -> int | None:
    """The orientation by which pixels of a map are turned to lie upright on a picture; None if they do not fit.

    Args:
        header: Of the picture.
        size: `(H, W)` of the map, turned by its own orientation.
        turn: That orientation.
    """
    if size == header.upright:
        return turn
    return header.orientation if size == header.stored and turn == 1 else None


def _both(
    pairs: Sequence[tuple[str, str]], channels: int | None
) -> list[tuple[Header | str, SeenMap | tuple[str, str]]]:
    return [(_header(image, channels), look_at(label)) for image, label in pairs]


def _header(path: str, channels: int | None) -> Header | str:
    try:
        return read_header(path) if channels is None else read_channels_header(path, channels)
    except FileNotFoundError:
        return "the file is gone"
    except UnreadableImage as error:
        return error.reason


def table_of(
    seen: Mapping[str, Sequence[SeenPair]], given: ClassTable | None, reduce_zero_label: bool | None, findings: Findings
) -> ClassTable:
    """What label files mean: as a class file says, else every value that is seen in some file is a class.

    Files of 0 and 255 alone are masks, in which 255 is the second of two classes.

    Args:
        seen: The files of all splits.
        given: What the class file or the layout says.
        reduce_zero_label: 0 stands for nothing, and 1 is the first class; None for what `given` says.
        findings: Noted here if 255 is a class.

    Raises:
        ValueError: The files need a table of colours or have too many values, or no class file can be meant.
    """
    files = [pair for pairs in seen.values() for pair in pairs]
    valued = [pair for pair in files if not pair.seen.are_colours]
    values = sorted({value for pair in valued for value in pair.seen.codes.tolist()})
    if given is None:
        if files and not valued:
            colours = ", ".join(map(_colour_text, files[0].seen.codes.tolist()[:3]))
            raise ValueError(
                f"{printable(files[0].label)} and other label files hold colours ({colours} ...): write a "
                "label_colors.txt with a line 'red green blue name' for each class"
            )
        _check_unnamed(valued, values)
        table = _by_values(values, bool(reduce_zero_label), files)
    else:
        table = given
        if reduce_zero_label is not None and reduce_zero_label != given.reduce_zero_label:
            if not given.names_alone:
                raise ValueError("reduce_zero_label goes with class files that give names alone")
            table = value_table(
                given.names, reduce_zero_label=reduce_zero_label, ignored=given.ignored, display=given.display
            )
    if table.colours:
        return _with_colours(table, [pair.seen for pair in files])
    if values == [0, 255] and len(table.names) == 2 and not table.reduce_zero_label and 255 in table.ignored:
        findings.add_all("zero_and_255", [pair.label for pair in valued if 255 in pair.seen.codes], printable)
        return replace(table, values={0: 0, 255: 1}, ignored=table.ignored - {255})
    if IGNORED in table.ignored:
        _note_ignored_masks(valued, values, given is not None, findings)
    return table


def _note_ignored_masks(files: Sequence[SeenPair], values: Sequence[int], named: bool, findings: Findings) -> None:
    """Notes label files in which 255, which is ignored, may well be a class."""
    masks = [pair.label for pair in files if set(pair.seen.codes.tolist()) == {0, IGNORED}]
    findings.add_all("mask_255", masks, printable)
    # As pictures for eyes have classes: 0, 128 and 255, for example.
    steps = len(values) - 1
    spread = all(abs(value - 255 * place / max(1, steps)) < 1 for place, value in enumerate(values))
    if not named and spread and 2 <= steps <= _LEVELS:
        findings.add_all("levels_255", [pair.label for pair in files if IGNORED in pair.seen.codes], printable)


def _with_colours(table: ClassTable, files: Sequence[SeenMap]) -> ClassTable:
    """A table of colours that says what files in no colour mean: the colours that they show, or values.

    A map that is all black is stored as others of its set. Files of three channels are colours if another one is in
    colour, or if they have what is no value of a class; files of one channel if they show nothing else than colours of
    classes, of which strays are excused beside files in colour.
    """
    in_colour = [seen for seen in files if seen.are_colours]
    grey = [seen for seen in files if not seen.are_colours and seen.in_rgb]
    flat = [seen for seen in files if not seen.in_rgb]
    unvalued = any((table.labels(seen.codes, False) < 0).any() for seen in grey)
    grey_colours = bool(in_colour) or bool(grey and (unvalued or not _strange(table, grey)))
    excused = _STRAYS * sum(int(seen.counts.sum()) for seen in flat) if in_colour else 0
    by_palette = _strange(table, flat) <= excused if flat else grey_colours
    return replace(table, by_palette=by_palette, grey_colours=grey_colours if grey or in_colour else by_palette)


def _strange(table: ClassTable, files: Sequence[SeenMap]) -> int:
    """Pixels of files in no colour that show as a colour of no class."""
    strange = 0
    for seen in files:
        unknown = np.ones(len(seen.codes), bool) if seen.shown is None else table.labels(seen.shown, True) < 0
        strange += int(seen.counts[unknown].sum())
    return strange


def _check_unnamed(files: Sequence[SeenPair], values: Sequence[int]) -> None:
    """Refuses label files whose values cannot all be classes, where no class file says which are."""
    blurred = [pair for pair in files if pair.seen.format in ("JPEG", "MPO")]
    if blurred:
        raise ValueError(
            f"{printable(blurred[0].label)} is a JPEG, which blurs values, so that they cannot be told from classes: "
            "save label files as PNG, or name the classes in a classes.txt"
        )
    if len(values) <= _MANY:
        return
    ends = sum(int(pair.seen.counts[np.isin(pair.seen.codes, (0, 255))].sum()) for pair in files)
    if ends > _MOSTLY * sum(int(pair.seen.counts.sum()) for pair in files):
        raise ValueError(
            f"{printable(files[0].label)} and other label files are nearly all 0 and 255, with {len(values) - 2} "
            "values between, as smoothed masks are: make them 0 and 255 alone, or name the classes in a classes.txt"
        )


def _by_values(values: Sequence[int], reduce_zero_label: bool, files: Sequence[SeenPair]) -> ClassTable:
    if list(values) == [0, 255]:
        return value_table(["background", "foreground"])
    nothing = {IGNORED, 0} if reduce_zero_label else {IGNORED}
    classes = [value for value in values if value not in nothing]
    if not classes:
        raise ValueError("label files hold nothing but ignored values: write a classes.txt with a name on each line")
    if len(classes) > MAX_CLASSES or classes[0] < 0:
        raise ValueError(
            f"the label files hold {len(classes):,} different values from {classes[0]:,} to {classes[-1]:,}, as of "
            f"{printable(files[0].label)}: expected the number of a class in each pixel, at most {MAX_CLASSES} classes"
        )
    table = value_table([f"class {value}" for value in classes], values=classes)
    if not reduce_zero_label:
        return table
    return replace(table, ignored=table.ignored | {0}, reduce_zero_label=True)


def source_of(pairs: Sequence[SeenPair], table: ClassTable, root: str, findings: Findings) -> MapSource:
    """The images of a split.

    Args:
        pairs: Pictures and label files.
        table: What the latter mean.
        root: Folder of the data set.
        findings: What is not declared is noted here.
    """
    kept, rows = [], []
    for pair in pairs:
        seen = pair.seen
        if seen.are_colours and not table.colours:
            findings.add("colour_without_table", f"{printable(pair.label)}: {_colour_text(int(seen.codes[-1]))}")
            continue
        by_colour = seen.are_colours or (table.mean_colours(seen.in_rgb) and seen.shown is not None)
        codes = seen.shown if by_colour and not seen.are_colours and seen.shown is not None else seen.codes
        labels = table.labels(codes, by_colour)
        if (labels < 0).any():
            unknown, pixels = codes[labels < 0].tolist(), int(seen.counts[labels < 0].sum())
            texts = [_colour_text(code) if by_colour else str(code) for code in unknown[:_LISTED]]
            more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
            findings.add(
                "colour_undeclared" if by_colour else "value_undeclared",
                f"{printable(pair.label)}: {', '.join(texts)}{more}, {pixels:,} of {seen.counts.sum():,} pixels",
            )
        if not by_colour and not table.reduce_zero_label and _as_if_zero_were_none(codes.tolist(), table):
            findings.add("zero_label", f"{printable(pair.label)}: {len(table.names)}, where there are as many classes")
        row = np.bincount(np.where((labels < 0) | (labels == IGNORED), len(table.names), labels), seen.counts)
        rows.append(np.pad(row.astype(np.int64), (0, len(table.names) + 1 - len(row))))
        kept.append(pair)
    groups = [roboflow_group(pair.image.rsplit("/", 1)[-1]) or "" for pair in kept]
    return MapSource(
        classes=table.names,
        colours=table.display,
        root=root,
        paths=PackedNames.pack([pair.image for pair in kept]),
        sizes=np.array([pair.size for pair in kept], np.int32).reshape(-1, 2),
        maps=FileMaps(
            PackedNames.pack([pair.label for pair in kept]), np.array([pair.turn for pair in kept], np.uint8), table
        ),
        pixels=np.array(rows, np.int64).reshape(-1, len(table.names) + 1),
        digests=np.array([pair.seen.digest for pair in kept], np.uint64),
        groups=PackedNames.pack([printable(group) for group in groups]) if any(groups) else None,
    )


def _as_if_zero_were_none(codes: Sequence[int], table: ClassTable) -> bool:
    number = len(table.names)
    return number in codes and number not in table.values and table.values == {i: i for i in range(number)}


def _colour_text(code: int) -> str:
    return f"({code >> 16}, {code >> 8 & 255}, {code & 255})"
