"""Checking an image folder as a whole: what its splits hold, damaged images, and those that are there twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transnext.data.file_checks import check_files
from transnext.data.findings import CLASSES_SHOWN, Finding, Findings, Kind, finding_lines
from transnext.data.folder import image_folder_splits
from transnext.data.names import printable

KINDS: Mapping[str, Kind] = {
    "image_damaged": Kind("damaged images", "skipped in training"),
    "image_repeated": Kind("images with the same content as another", "kept"),
    "content_in_two_splits": Kind("images with the same content as one of another split", "kept"),
    "class_empty": Kind("classes without images in a split", "kept"),
}
"""What may be found, in the order of a report."""


@dataclass(frozen=True)
class FolderReport:
    """What a check has found.

    Attributes:
        data: The folder.
        splits: Images of each class, by split.
        findings: In the order of `KINDS`.
    """

    data: str
    splits: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...] = ()

    def text(self) -> str:
        """Lines for a terminal."""
        lines = [f"{self.data}: image folder, a class each"]
        width = max(map(len, self.splits), default=0)
        for split, counts in self.splits.items():
            classes = sorted(counts.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{name} {count:,}" for name, count in classes[:CLASSES_SHOWN])
            more = f" and {len(classes) - CLASSES_SHOWN} more" if len(classes) > CLASSES_SHOWN else ""
            lines.append(f"  {split:{width}}  {sum(counts.values()):,} images: {shown}{more}")
        return "\n".join([*lines, *finding_lines(self.findings)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def check_folder(
    data: str | os.PathLike[str], val_fraction: float = 0.2, seed: int = 0, pixels: bool = True
) -> FolderReport:
    """Check a folder whose sub-folders are classes.

    Args:
        data: As in `image_folder_splits`, and so are the next two.
        val_fraction: Share held out where there are no given splits.
        seed: Chooses what is held out.
        pixels: Whether to decode every image, which finds damaged ones, and to compare their files, which finds
            duplicates.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is laid out in another way.
    """
    splits = image_folder_splits(data, val_fraction, seed)
    findings = Findings(KINDS)
    counts: dict[str, dict[str, int]] = {}
    for split, index in splits.items():
        of_class = Counter(label for _, label in index.samples)
        counts[split] = {name: of_class[label] for label, name in enumerate(index.classes)}
        findings.add_all("class_empty", [f"{name} in {split}" for name, n in counts[split].items() if not n], str)
    if pixels:
        check_files({split: [path for path, _ in index.samples] for split, index in splits.items()}, findings)
    return FolderReport(printable(os.fspath(data)), counts, findings.listed())
