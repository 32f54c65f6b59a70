"""Files for pictures that commands write beside the images of a user."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Console

if TYPE_CHECKING:
    from transnext.data import Skipped

_MAX_STEM = 133
"""Longest name of a picture before its ending, bytes: file systems take names of 255, some of 143."""


def existing_files(given: Sequence[str]) -> list[list[str]]:
    """The images, or videos, that each of some paths, patterns, folders and addresses stands for.

    Raises:
        FileNotFoundError: One is not there.
    """
    from transnext.inputs import files_of, is_url

    found = [files_of(one) for one in given]
    for file in (file for group in found for file in group):
        if not is_url(file) and not Path(file).exists():
            raise FileNotFoundError(f"no file {file}")
    return found


def picture_files(
    folder: Path,
    given: Sequence[str],
    found: Sequence[Sequence[str]],
    ending: Callable[[str], str],
    others: Iterable[Path] = (),
) -> list[Path]:
    """A file for the picture of each image, no two the same and none an image itself.

    They lie below the folder as the images lie below what all that was given has in common.

    Args:
        folder: Where pictures go.
        given: Paths, patterns, folders and addresses that were given.
        found: The images of each.
        ending: From an image to the end of the name of its picture, with its suffix.
        others: Files that will be written, too.
    """
    from transnext.inputs import is_url

    files = [Path(os.path.abspath(f)) for group in found for f in group if not is_url(f)]  # noqa: PTH100
    folders = [os.path.abspath(f) for f in given if Path(f).is_dir()]  # noqa: PTH100
    try:
        root = os.path.commonpath([*folders, *(file.parent for file in files)])
    except ValueError:  # web addresses alone, or drives of Windows
        root = ""
    taken = {str(file).casefold() for file in files}
    taken |= {os.path.abspath(file).casefold() for file in others}  # noqa: PTH100
    pictures = []
    for name in (name for group in found for name in group):
        file = Path(urlsplit(name).path if is_url(name) else os.path.abspath(name))  # noqa: PTH100
        below = Path() if is_url(name) or not root else file.parent.relative_to(root)
        for more in itertools.chain(("", file.suffix), (f"{file.suffix}-{i}" for i in itertools.count(2))):
            picture = folder / below / f"{_shortened(file.stem + more)}{ending(name)}"
            key = os.path.abspath(picture).casefold()  # noqa: PTH100 - some file systems do not tell cases apart
            if key not in taken:
                break
        taken.add(key)
        pictures.append(picture)
    return pictures


def check_read(files: int, read: int, skipped: Sequence["Skipped"]) -> None:
    """Refuses files of which none could be read.

    Args:
        files: How many there were.
        read: How many of them could be read.
        skipped: The others.

    Raises:
        ValueError: It is all of them.
    """
    if skipped and not read:
        first = skipped[0]
        raise ValueError(f"nothing could be read of {files} files; the first: {first.name}: {first.reason}")


def tell_skipped(skipped: Iterable["Skipped"]) -> None:
    """Lists what could not be read, and why."""
    for problem in skipped:
        line = f"skipped {problem.name}: {problem.reason}"
        Console(stderr=True, soft_wrap=True).print(line, style="yellow", markup=False)


def marked_folder(folder: Path) -> None:
    """Makes a folder for pictures, marked as ours, so that they are not taken for images later."""
    if not folder.exists():
        from transnext.data.image_files import OUTPUT_MARK

        folder.mkdir(parents=True)
        (folder / OUTPUT_MARK).touch()


def _shortened(stem: str) -> str:
    """A name that any disk takes: a long one is cut off, with a hash that keeps it apart from others."""
    encoded = os.fsencode(stem)
    if len(encoded) <= _MAX_STEM:
        return stem
    return f"{encoded[: _MAX_STEM - 17].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:16]}"
