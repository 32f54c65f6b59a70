"""What a check of annotated images has found, and what was done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from transnext.data.findings import CLASSES_SHOWN, Finding, Kind, finding_lines
from transnext.data.findings import Findings as AnyFindings

_SPLITS = {
    "split_empty": Kind("splits without objects", "kept, but nothing can be judged on them"),
    "split_unusable": Kind("splits other than train and val that cannot be used", "left out"),
}
_IMAGES = {
    "image_entry": Kind("image entries without a usable id or file name", "dropped"),
    "image_id_repeated": Kind("image entries that share their id with another file", "dropped with their objects"),
    "image_listed_twice": Kind("files listed more than once", "taken as one image with all its objects"),
    "file_missing": Kind("images whose file is missing", "dropped"),
    "file_unreadable": Kind("files that are no readable image", "dropped"),
    "size_unusable": Kind("images whose stated size is not two positive whole numbers", "size of the file taken"),
    "size_differs": Kind("images of another size than the annotation says", "dropped"),
    "annotation_missing": Kind("images without an annotation file", "left out"),
    "image_unclear": Kind("annotation files that fit several image files", "dropped"),
    "image_missing": Kind("label files without an image", "left out"),
    "annotation_shared": Kind("images that share their label file with another", "taken with the same objects"),
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
    "class_parent": Kind("categories that only stand above the others, without objects", "no class"),
}
KINDS: Mapping[str, Kind] = {**_SPLITS, **_IMAGES, **_OBJECTS, **_CLASSES}
"""All kinds of findings, in the order in which they are reported."""


class Findings(AnyFindings):
    """Gathers findings of annotated objects."""

    def __init__(self) -> None:
        super().__init__(KINDS)


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
            shown = ", ".join(f"{label} {count:,}" for label, count in classes[:CLASSES_SHOWN])
            more = f" and {len(classes) - CLASSES_SHOWN} more" if len(classes) > CLASSES_SHOWN else ""
            crowd = f", {split.crowd:,} ignored regions" if split.crowd else ""
            lines.append(
                f"  {name:{width}}  {split.images:,} images, {split.empty:,} without objects, "
                f"{sum(split.objects.values()):,} objects{crowd}: {shown}{more}"
            )
        lines.extend(finding_lines(self.findings))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
