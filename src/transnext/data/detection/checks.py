"""Checking a data set as a whole, with all that takes too long for each opening."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from transnext.data.detection.findings import DataReport, Findings
from transnext.data.detection.opening import open_checked
from transnext.data.detection.source import DetectionSource
from transnext.data.images import UnreadableImage, read_image
from transnext.data.names import printable


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
    _check_files(sources, more)
    return replace(report, findings=more.listed() + report.findings)


def _check_files(sources: Mapping[str, DetectionSource], findings: Findings) -> None:
    first: dict[bytes, tuple[str, str]] = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for split, source in sources.items():
            for path, (digest, reason) in zip(source.paths, threads.map(_digest, source.paths), strict=True):
                name = printable(path)
                if reason:
                    findings.add("image_damaged", f"{name}: {reason}")
                if not digest:
                    continue
                other_split, other = first.setdefault(digest, (split, path))
                if other != path:
                    kind = "image_repeated" if other_split == split else "content_in_two_splits"
                    findings.add(kind, f"{name} and {printable(other)}")


def _digest(path: str) -> tuple[bytes, str]:
    """Return a hash of a file, and why it is no image; empty if it is one."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        return b"", (error.strerror or "cannot be read").lower()
    try:
        read_image(content)
    except UnreadableImage as error:
        return hashlib.blake2b(content, digest_size=16).digest(), error.reason
    return hashlib.blake2b(content, digest_size=16).digest(), ""
