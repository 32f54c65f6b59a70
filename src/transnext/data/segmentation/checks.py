"""Checking a data set as a whole, with all that takes too long for each opening."""

from __future__ import annotations

import os
from dataclasses import replace

from transnext.data.file_checks import check_files
from transnext.data.segmentation.findings import Findings, MapReport
from transnext.data.segmentation.opening import open_checked


def check_segmentation(
    data: str | os.PathLike[str],
    val_fraction: float = 0.2,
    seed: int = 0,
    pixels: bool = True,
    *,
    reduce_zero_label: bool | None = None,
    in_chans: int | None = None,
) -> MapReport:
    """Check pictures with maps of classes.

    Args:
        data: As in `open_segmentation`, and so are the next two, `reduce_zero_label` and `in_chans`.
        val_fraction: Share held out where the data come without splits.
        seed: Chooses what is held out.
        pixels: Whether to decode every picture, which finds damaged ones, and to compare their files, which finds
            duplicates. Label files are decoded in any case.
        reduce_zero_label: 0 stands for nothing.
        in_chans: Channels of the pictures.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: There is something that cannot be left out; see `open_segmentation`.
        OSError: A file cannot be read.
    """
    sources, report = open_checked(data, val_fraction, seed, reduce_zero_label=reduce_zero_label, in_chans=in_chans)
    if not pixels:
        return report
    more = Findings()
    channels = next(iter(sources.values())).channels
    check_files({split: source.paths for split, source in sources.items()}, more, channels)
    return replace(report, findings=more.listed() + report.findings)
