"""Checking a data set as a whole, with all that takes too long for each opening."""

from __future__ import annotations

import os
from dataclasses import replace

from transnext.data.detection.findings import DataReport, Findings
from transnext.data.detection.opening import open_checked
from transnext.data.file_checks import check_files


def check_detection(
    data: str | os.PathLike[str], val_fraction: float = 0.2, seed: int = 0, masks: bool = True, pixels: bool = True
) -> DataReport:
    """Check images with annotated objects.

    Args:
        data: As in `open_detection`, and so are the next three.
        val_fraction: Share held out where the data come without splits.
        seed: Chooses what is held out.
        masks: Whether outlines are wanted.
        pixels: Whether to decode every image, which finds damaged ones, and to compare their files, which finds
            duplicates.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: There is something that cannot be left out; see `open_detection`.
        OSError: A file cannot be read.
    """
    sources, report = open_checked(data, val_fraction, seed, masks)
    if not pixels:
        return report
    more = Findings()
    check_files({split: source.paths for split, source in sources.items()}, more)
    return replace(report, findings=more.listed() + report.findings)
