"""Checking the image files of a data set: damaged ones, and the same picture more than once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from transnext.data.channels import read_channels
from transnext.data.findings import Findings
from transnext.data.images import UnreadableImage, read_image
from transnext.data.names import printable


def check_files(paths_of: Mapping[str, Sequence[str]], findings: Findings, channels: int | None = None) -> None:
    """Decode all images and compare their files.

    Args:
        paths_of: The files of each split.
        findings: Takes `image_damaged`, `image_repeated` and `content_in_two_splits`.
        channels: Images are numbers of so many channels; None for 8-bit RGB.
    """
    first: dict[bytes, tuple[str, str]] = {}
    digest_of = partial(_digest, channels=channels)
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for split, paths in paths_of.items():
            for path, (digest, reason) in zip(paths, threads.map(digest_of, paths), strict=True):
                name = printable(path)
                if reason:
                    findings.add("image_damaged", f"{name}: {reason}")
                if not digest:
                    continue
                other_split, other = first.setdefault(digest, (split, path))
                if other != path:
                    kind = "image_repeated" if other_split == split else "content_in_two_splits"
                    findings.add(kind, f"{name} and {printable(other)}")


def _digest(path: str, channels: int | None) -> tuple[bytes, str]:
    """Return a hash of a file, and why it is no image; empty if it is one."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        return b"", (error.strerror or "cannot be read").lower()
    try:
        if channels is None:
            read_image(content)
        else:
            read_channels(path, channels)
    except UnreadableImage as error:
        return hashlib.blake2b(content, digest_size=16).digest(), error.reason
    return hashlib.blake2b(content, digest_size=16).digest(), ""
