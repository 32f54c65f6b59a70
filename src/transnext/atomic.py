"""Writing files so that a reader or a crash sees the old one or the new one, never a part."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file beside `path`, to be written in the block; at its end it takes the place of `path`.

    If the block fails, it goes away and `path` stays as it was.

    Args:
        path: The file to write; there may be one already.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries make files that the owner alone can read
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Brings the entries of a folder to the disk, where the system can do that."""
    # Windows cannot open a folder, and some file systems cannot sync one; the files are in their place all the same.
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomically(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all.

    What is not Unicode, as in names of files that are not UTF-8, is written as `\\udcff`: the file can be read by all.

    Args:
        path: The file to write; there may be one already.
        text: Its contents.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
