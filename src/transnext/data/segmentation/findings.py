"""What a check of maps of classes has found, and what was done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transnext.data.findings import CLASSES_SHOWN, Finding, Kind, finding_lines
from transnext.data.findings import Findings as AnyFindings

KINDS: Mapping[str, Kind] = {
    "split_unlabelled": Kind("splits without label files or pictures that can be used", "left out"),
    "split_boxes": Kind("splits that have boxes without outlines", "left out"),
    "image_unreadable": Kind("files that are no readable image", "dropped"),
    "image_damaged": Kind("damaged images", "skipped in training"),
    "image_repeated": Kind("images with the same content as another", "kept"),
    "image_in_two_splits": Kind("files that are in more than one split", "kept"),
    "content_in_two_splits": Kind("images with the same content as one of another split", "kept"),
    "name_twice": Kind("files with the name of another but for the extension", "left out"),
    "label_missing": Kind("images without a label file", "dropped"),
    "image_missing": Kind("label files without an image", "left out"),
    "listed_missing": Kind("names in a split's list without picture or label file", "left out"),
    "labels_two": Kind("images with more than one label file", "dropped"),
    "label_unreadable": Kind("label files that cannot be read", "image dropped"),
    "label_not_map": Kind("label files with too many colours or values for a map of classes", "image dropped"),
    "colour_without_table": Kind("label files of colours that no class file explains", "image dropped"),
    "size_differs": Kind("label files of another size than their image", "image dropped"),
    "turned": Kind("labels of pictures as stored, but shown turned (EXIF)", "labels turned with the picture"),
    "turn_unclear": Kind("images shown turned (EXIF) whose labels fit both ways", "taken as upright"),
    "label_lossy": Kind("label files in a format that blurs values (JPEG)", "taken as they are: save labels as PNG"),
    "zero_and_255": Kind("label files of 0 and 255, where other values mean classes", "255 taken as the second class"),
    "mask_255": Kind(
        "label files of 0 and 255 alone, where 255 is no class",
        "255 ignored: if it is foreground there, write them as the others",
    ),
    "levels_255": Kind(
        "label files of evenly spread grey levels up to 255",
        "255 ignored: if it is a class, name all values in a classes.json",
    ),
    "value_undeclared": Kind("label files with values that no class has", "these pixels ignored"),
    "colour_undeclared": Kind("label files with colours that no class has", "these pixels ignored"),
    "zero_label": Kind(
        "label files whose largest value is the number of classes, as if 0 were no class",
        'if so, put "reduce_zero_label": true into classes.json',
    ),
    "segment_unknown": Kind("segments that are not listed or of an unknown class", "these pixels ignored"),
    "map_unlabelled": Kind("maps without a labelled pixel", "kept: they train and tell nothing"),
    "map_mostly_ignored": Kind("maps of which more than half is ignored", "kept"),
    "class_empty": Kind("classes without a pixel in train", "kept"),
    "class_unjudged": Kind("classes of train without a pixel in another split", "kept: not judged there"),
    "class_rare": Kind("rare classes, below 0.1 % of the labelled pixels of train", "kept"),
    "object": Kind("annotations of objects with something wrong", "see a check of the objects"),
}
"""All kinds of findings, in the order in which they are reported."""


class Findings(AnyFindings):
    """Gathers findings of maps."""

    def __init__(self) -> None:
        super().__init__(KINDS)


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds after the check.

    Attributes:
        images: Number of images.
        pixels: Labelled pixels of each class.
        images_with: Images in which each class is.
        ignored: Share of all pixels that are ignored, 0..1.
    """

    images: int
    pixels: Mapping[str, int]
    images_with: Mapping[str, int]
    ignored: float


@dataclass(frozen=True)
class MapReport:
    """What a check has found.

    Attributes:
        data: The data set.
        format: For example `image and label folders`.
        convention: What 0 and ignored values mean, in words.
        splits: By name.
        findings: In the order of `KINDS`.
    """

    data: str
    format: str
    convention: str
    splits: Mapping[str, SplitSummary]
    findings: tuple[Finding, ...] = ()

    def text(self) -> str:
        """Lines for a terminal."""
        lines = [f"{self.data}: {self.format}, maps of classes", f"  {self.convention}"]
        width = max((len(name) for name in self.splits), default=0)
        for name, split in self.splits.items():
            total = max(1, sum(split.pixels.values()))
            classes = sorted(split.pixels.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{label} {count / total:.1%}" for label, count in classes[:CLASSES_SHOWN])
            more = f" and {len(classes) - CLASSES_SHOWN} more" if len(classes) > CLASSES_SHOWN else ""
            lines.append(f"  {name:{width}}  {split.images:,} images, {split.ignored:.1%} ignored: {shown}{more}")
        lines.extend(finding_lines(self.findings))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
