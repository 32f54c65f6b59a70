"""Image files of a folder: one rule for all that lists folders, and no file left out without a word."""

from __future__ import annotations

import functools
import logging
import mimetypes
import os
from collections.abc import Iterable
from pathlib import Path

from transnext.data.images import image_extensions, recognise, unreadable_extensions, why_not_readable
from transnext.data.names import printable
from transnext.data.splits import split_of_folder

OUTPUT_MARK = ".transnext"
"""A file in folders that this package makes and that hold pictures, so that these are not taken for data."""
CACHE_MARK = "CACHEDIR.TAG"
"""The same in caches; backup programs know it, too (https://bford.info/cachedir)."""
_RUN_FILES = frozenset({"metrics.jsonl", "checkpoints", "best.safetensors", "last.safetensors"})
# What systems put into folders of their users, with copies of the images in some of them.
_SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
_PARTS = frozenset({"annotations", "images", "labels", "jpegimages"})
"""Folders in data sets, beside those with the name of a split."""
_MAX_KINDS = 5
_HEAD = 32
_logger = logging.getLogger("transnext")


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """Return the paths of all images below a folder, sorted; logs what was left out.

    Files count as images by their extension or, where that is unknown or missing, by how they begin. Hidden files and
    folders, those of the system, run folders and caches are passed over; links are followed.
    """
    found = FolderListing(os.fspath(folder))
    images = sorted(found.below(os.fspath(folder), given=True))
    found.log()
    return images


def log(folder: str, line: str) -> None:
    """Log a line about a folder, in the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        _logger.warning("%s: %s", printable(folder), line)


def file_version(path: str) -> str:
    """Return size and time of a file; see `transnext.data.decoded.VersionedSource`.

    Raises:
        FileNotFoundError: It is gone.
    """
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        raise
    except (OSError, ValueError):  # the reader says it better
        return "unknown"
    return f"{status.st_size} {status.st_mtime_ns}"


def below_wrappers(path: Path) -> Path:
    """Return a folder itself, or the only one in it, as archives often have it."""
    for _ in range(3):
        entries = [entry for entry in path.iterdir() if not is_ignored(entry.name)]
        if len(entries) != 1 or not entries[0].is_dir():
            break
        if split_of_folder(entries[0].name) or entries[0].name.lower() in _PARTS:
            break
        path = entries[0]
    return path


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is hidden or belongs to the system."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_image(entry: os.DirEntry[str]) -> bool:
    """Return whether a file is an image, by the same rule."""
    if is_ignored(entry.name):
        return False
    return (_kind(entry.name) in image_extensions() and entry.is_file()) or _content(entry) is not None


class FolderListing:
    """Images of some folders, and an account of the other files in them.

    Args:
        root: The folder that all lie in; messages name files from there.

    Attributes:
        outputs: Folders that were passed over because this package made them.
    """

    def __init__(self, root: str) -> None:
        self.outputs: list[str] = []
        self._root = root
        self._num_images = 0
        self._by_content: dict[str, list[str]] = {}
        self._left_out: dict[str, list[str]] = {}
        self._hints: set[str] = set()

    def below(self, folder: str, *, given: bool = False) -> list[str]:
        """Return the images in a folder and its sub-folders, in no order.

        Args:
            folder: The folder.
            given: It was named by the user, and is searched whoever made it.
        """
        images = list(self._below(folder, (), given))
        self._num_images += len(images)
        return images

    def leave_out(self, path: str, why: str) -> None:
        """Note an image that is not used, and why."""
        self._left_out.setdefault(why, []).append(path)

    def account(self) -> list[str]:
        """Return what is to be said, a line for each matter."""
        lines = []
        if self._by_content:
            lines.append(f"{_count(self._by_content)} are images by their content: {self._kinds(self._by_content)}")
        if self._left_out:
            n = sum(map(len, self._left_out.values()))
            lines.append(f"{n} of {n + self._num_images} files left out: {self._kinds(self._left_out)}")
            lines[-1] += "".join(f"; {hint}" for hint in sorted(self._hints))
        if self.outputs:
            names = [self._below_root(path) for path in sorted(self.outputs)]
            lines.append(f"passed over what transnext itself has written: {_some(names)}")
        return lines

    def log(self) -> None:
        """Log the account."""
        for line in self.account():
            log(self._root, line)

    def _below(self, folder: str, above: tuple[tuple[int, int], ...], given: bool) -> Iterable[str]:
        status = Path(folder).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a link back to one of its own parents
            return
        with os.scandir(folder) as listed:
            entries = list(listed)
        if not given and _is_output({entry.name for entry in entries}):
            self.outputs.append(folder)
            return
        folders = []
        for entry in entries:
            if is_ignored(entry.name):
                continue
            if _kind(entry.name) in image_extensions() and entry.is_file():
                yield entry.path
            elif entry.is_dir():
                folders.append(entry.path)
            elif self._is_image(entry):
                yield entry.path
        for path in folders:
            yield from self._below(path, (*above, identity), given=False)

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        """Return whether a file of another extension is an image all the same; note it in any case."""
        kind = _kind(entry.name)
        content = _content(entry)
        missing = why_not_readable(content) if content else unreadable_extensions().get(kind, "")
        if missing:
            self._hints.add(missing)
        used = content is not None and not missing
        (self._by_content if used else self._left_out).setdefault(kind, []).append(entry.path)
        return used

    def _kinds(self, paths: dict[str, list[str]]) -> str:
        by_number = sorted(paths.items(), key=lambda item: (-len(item[1]), item[0]))
        texts = [
            f"{len(some)} {printable(kind) or 'without extension'} ({self._below_root(min(some))})"
            for kind, some in by_number
        ]
        return _some(texts)

    def _below_root(self, path: str) -> str:
        return printable(os.path.relpath(path, self._root))


def _count(paths: dict[str, list[str]]) -> str:
    n = sum(map(len, paths.values()))
    return f"{n} file{'s' if n > 1 else ''} of unknown extension"


def _is_output(names: set[str]) -> bool:
    is_run = "config.json" in names and not _RUN_FILES.isdisjoint(names)
    return is_run or OUTPUT_MARK in names or CACHE_MARK in names


def _kind(path: str) -> str:
    # os.path, not Path: this runs once per file, a million times for ImageNet.
    return os.path.splitext(path)[1].lower()  # noqa: PTH122


@functools.cache
def _is_something_else(extension: str) -> bool:
    """Return whether an extension is that of texts, films, archives ..., so that the file need not be opened."""
    kind, _ = mimetypes.MimeTypes().guess_type(f"x{extension}")
    return kind is not None and not kind.startswith("image/")


def _content(entry: os.DirEntry[str]) -> str | None:
    """Return the image format of a file of unknown extension, None if it is none."""
    if _is_something_else(_kind(entry.name)) or not entry.is_file():  # not a broken link, a pipe, a device
        return None
    try:
        with Path(entry).open("rb") as file:
            return recognise(file.read(_HEAD))
    except OSError:
        return None


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _MAX_KINDS} more" if len(texts) > _MAX_KINDS else ""
    return ", ".join(texts[:_MAX_KINDS]) + more
