"""Checking the image files of a data set: damaged ones, and the same picture more than once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transnext.data.findings import Findings
from transnext.data.images import UnreadableImage, read_image
from transnext.data.names import printable


def check_files(paths_of: Mapping[str, Sequence[str]], findings: Findings) -> None:
    """Decode all images and compare their files.

    Args:
        paths_of: The files of each split.
        findings: Takes `image_damaged`, `image_repeated` and `content_in_two_splits`.
    """
    first: dict[bytes, tuple[str, str]] = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for split, paths in paths_of.items():
            for path, (digest, reason) in zip(paths, threads.map(_digest, paths), strict=True):
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
