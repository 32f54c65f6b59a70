"""What a check of annotated images has found, and what was done about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from transnext.data.names import printable

MAX_EXAMPLES = 5
"""So many of each kind are listed."""
_MAX_LENGTH = 160
_CLASSES_SHOWN = 8


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        text: What it is, in the plural.
        action: What is done about it.
    """

    text: str
    action: str


_IMAGES = {
    "image_entry": Kind("image entries without a usable id or file name", "dropped"),
    "image_id_repeated": Kind("image entries that share their id with another file", "dropped with their objects"),
    "image_listed_twice": Kind("files listed more than once", "taken as one image with all its objects"),
    "file_missing": Kind("images whose file is missing", "dropped"),
    "file_unreadable": Kind("files that are no readable image", "dropped"),
    "size_unusable": Kind("images whose stated size is not two positive whole numbers", "size of the file taken"),
    "size_differs": Kind("images of another size than the annotation says", "dropped"),
    "annotation_missing": Kind("images without an annotation file", "left out"),
    "annotation_broken": Kind("annotation files that cannot be read", "image dropped"),
    "turned": Kind("images annotated as stored, but shown turned (EXIF)", "objects turned with the picture"),
    "turn_unclear": Kind("images shown turned (EXIF) whose annotation fits both ways", "taken as upright"),
    "image_empty": Kind("images without objects", "kept as negatives"),
    "image_damaged": Kind("damaged images", "skipped in training"),
    "image_repeated": Kind("images with the same content as another", "kept"),
    "image_in_two_splits": Kind("files that are in more than one split", "kept"),
    "content_in_two_splits": Kind("images with the same content as one of another split", "kept"),
    "group_in_two_splits": Kind("groups of images that are in more than one split", "kept"),
}
_OBJECTS = {
    "object_entry": Kind("malformed annotations", "dropped"),
    "object_id_repeated": Kind("annotations that share their id with another", "kept"),
    "unknown_image": Kind("annotations of an image that is not listed", "dropped"),
    "unknown_category": Kind("annotations of a category that is not listed", "dropped"),
    "crowd_unclear": Kind("annotations whose iscrowd is neither 0 nor 1", "taken as 0"),
    "label_line": Kind("malformed lines in label files", "dropped"),
    "label_class": Kind("lines in label files whose class is not in the list of names", "dropped"),
    "label_range": Kind("lines in label files with values outside 0..1", "what lies in the picture is kept"),
    "difficult": Kind("objects marked as difficult", "kept like all others"),
    "box_missing": Kind("objects without box and outline", "dropped"),
    "not_finite": Kind("objects with numbers that are not finite", "dropped"),
    "box_zero": Kind("boxes of zero or negative size", "dropped"),
    "box_outside": Kind("boxes entirely outside of the picture", "dropped"),
    "box_clipped": Kind("boxes partly outside of the picture", "clipped"),
    "area_unusable": Kind("objects whose stated area is not a positive number", "computed"),
    "outline_malformed": Kind("objects whose outline cannot be read", "dropped"),
    "outline_size": Kind("masks of another size than their picture", "dropped"),
    "outline_empty": Kind("outlines that hold no pixel", "dropped"),
    "outline_missing": Kind("objects without outline where most have one", "ignored regions: neither found nor missed"),
    "outlines_unused": Kind("objects with an outline where most have none", "outlines left unused, boxes kept"),
    "outline_elsewhere": Kind("objects whose outline and box disagree (IoU < 0.5)", "kept"),
    "object_repeated": Kind("objects given twice", "kept once"),
    "box_of_two_classes": Kind("boxes given again with another class", "kept"),
}
_CLASSES = {
    "class_empty": Kind("classes without examples in train", "kept"),
    "class_parent": Kind("categories that only stand above the others, without objects", "left out"),
}
KINDS: Mapping[str, Kind] = {**_IMAGES, **_OBJECTS, **_CLASSES}
"""All kinds of findings, in the order in which they are reported."""


@dataclass(frozen=True)
class Finding:
    """Something found, how often, and what was done.

    Attributes:
        kind: Key of `KINDS`.
        count: How often, at least 1.
        examples: The first of them, one line each.
        action: What was done.
    """

    kind: str
    count: int
    examples: tuple[str, ...]
    action: str

    @property
    def text(self) -> str:
        """One line, without examples."""
        return f"{KINDS[self.kind].text}: {self.count:,}, {self.action}"


class Findings:
    """Gathers findings."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Notes one."""
        self.add_all(kind, (example,), str)

    def add_all(self, kind: str, items: Iterable[Any], example: Callable[[Any], str]) -> None:
        """Notes many of one kind.

        Args:
            kind: Key of `KINDS`.
            items: What was found.
            example: From one of them to its line; called for the first few alone.
        """
        examples = self._examples.setdefault(kind, [])
        for item in items:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            if len(examples) < MAX_EXAMPLES:
                examples.append(shortened(example(item)))

    def __getitem__(self, kind: str) -> int:
        return self._counts.get(kind, 0)

    def listed(self) -> tuple[Finding, ...]:
        """What was found, in the order of `KINDS`."""
        return tuple(
            Finding(kind, self._counts[kind], tuple(self._examples[kind]), KINDS[kind].action)
            for kind in KINDS
            if kind in self._counts
        )

    def worst(self) -> str:
        """The finding that cost most, with an example, for a message; empty if there is none."""
        costly = [found for found in self.listed() if "dropped" in found.action or found.action == "left out"]
        if not costly:
            return ""
        found = max(costly, key=lambda one: one.count)
        return f"{found.text} ({found.examples[0]})"


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds after the check.

    Attributes:
        images: Number of images.
        empty: Those of them without objects.
        objects: Objects of each class; ignored regions are not counted.
        crowd: Ignored regions: groups that are neither found nor missed.
    """

    images: int
    empty: int
    objects: Mapping[str, int]
    crowd: int


@dataclass(frozen=True)
class DataReport:
    """What a check has found.

    Attributes:
        data: The data set.
        format: `COCO`, `YOLO` or `Pascal VOC`.
        outlines: Whether objects have outlines beside boxes.
        splits: By name.
        findings: In the order of `KINDS`.
    """

    data: str
    format: str
    outlines: bool
    splits: Mapping[str, SplitSummary]
    findings: tuple[Finding, ...] = field(default=())

    def text(self) -> str:
        """Lines for a terminal."""
        kind = "boxes and outlines" if self.outlines else "boxes"
        lines = [f"{self.data}: {self.format}, {kind}"]
        width = max((len(name) for name in self.splits), default=0)
        for name, split in self.splits.items():
            classes = sorted(split.objects.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{label} {count:,}" for label, count in classes[:_CLASSES_SHOWN])
            more = f" and {len(classes) - _CLASSES_SHOWN} more" if len(classes) > _CLASSES_SHOWN else ""
            crowd = f", {split.crowd:,} ignored regions" if split.crowd else ""
            lines.append(
                f"  {name:{width}}  {split.images:,} images, {split.empty:,} without objects, "
                f"{sum(split.objects.values()):,} objects{crowd}: {shown}{more}"
            )
        if not self.findings:
            lines.append("nothing to complain about")
        for finding in self.findings:
            lines.append(finding.text)
            lines.extend(f"    {example}" for example in finding.examples)
            if finding.count > len(finding.examples):
                lines.append(f"    and {finding.count - len(finding.examples):,} more")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def shortened(text: str) -> str:
    """A text as one printable line of limited length."""
    text = printable(text)
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 4]} ..."


def shown(value: object) -> str:
    """A value of an annotation file for a message: short, whatever it holds."""
    if isinstance(value, str):
        return shortened(repr(value[:40]))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else "a huge number"
    if isinstance(value, float):
        return f"{value:g}"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__
