"""Writing files so that a reader or a crash sees the old one or the new one, never a part.

`check_writable` is asked before the work of a command begins; `replacing` (one file), `json_list` (one of a list) and
`staged` (a folder, or files that belong together) write when it is done; `naming` puts what a library says of a full
disk into one line.
"""

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_PROBE_BYTES = 1 << 16
_SAID_WITHOUT_A_NAME = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def check_writable(
    path: str | Path, *, folder: bool = False, overwrite: bool = True, num_bytes: int = _PROBE_BYTES
) -> None:
    """Refuses an output that cannot be written, so that this is said before the work and not after it.

    A small file is written where the output will be, and removed.

    Args:
        path: The output. Its folder must be there; an output that is a folder is made with its parents.
        folder: Whether the output is a folder.
        overwrite: Whether the output may be there already.
        num_bytes: Size of the output as far as it is known, bytes.

    Raises:
        FileNotFoundError: There is no folder for a file.
        ValueError: There is a folder of the name of a file, a file of the name of a folder, or what may not be
            replaced.
        OSError: The place is read-only, full, or the name is not possible there.
    """
    path = Path(path)
    with naming(path):
        if not folder and not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}")
        if os.path.lexists(path) and not overwrite:
            raise ValueError(f"{path} exists: choose another name, or allow to overwrite it (--overwrite)")
        if not folder and path.is_dir():
            raise ValueError(f"{path} is a folder: give the name of a file")
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # the name may be too long
        if _is_device(path):
            return
        place = next(p for p in (path.absolute(), *path.absolute().parents) if os.path.lexists(p))
        if folder and not place.is_dir():
            raise ValueError(f"{place} is not a folder: choose another name for {path}")
        place = place if place.is_dir() else place.parent
        probe = _temporary(place / "probe")
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            with suppress(OSError):
                probe.unlink()
        if shutil.disk_usage(place).free < num_bytes:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {_size(num_bytes)}")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file beside `path`, to be written in the block; at its end it takes the place of `path`.

    If the block fails, it goes away and `path` stays as it was. A device or a pipe, as /dev/stdout may be, is written
    to as it is.

    Args:
        path: The file to write; there may be one already.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(path)
    if _is_device(path):
        yield path
        return
    temporary = _temporary(path)
    try:
        with _naming_disk(path):
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


def write_atomically(path: str | Path, text: str) -> None:
    """Writes a text file as UTF-8, whole or not at all.

    What file names hold that is not Unicode, as `os.fsdecode` gives it, becomes a backslash escape: in JSON that of the
    same string.

    Args:
        path: The file to write; there may be one already.
        text: What to write.

    Raises:
        OSError: It cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def json_list(path: str | Path) -> Iterator[Callable[[Any], None]]:
    """A JSON file of a list, to be written in the block one element after the other, so that none need be kept.

    Whole or not at all, as UTF-8, in the form of `json.dumps(..., ensure_ascii=False, indent=1)`; what is not Unicode
    as in `write_atomically`. A device gets it at the end of the block, in one piece.

    Args:
        path: The file to write; there may be one already.

    Yields:
        Function that takes an element.

    Raises:
        OSError: It cannot be written.
    """
    form: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    with replacing(path) as place:
        device = place == Path(path)
        with tempfile.TemporaryFile("w+", **form) if device else place.open("w", **form) as file:
            separator = "["

            def add(element: Any) -> None:
                nonlocal separator
                # Strings hold no line breaks there.
                text = json.dumps(element, ensure_ascii=False, indent=1).replace("\n", "\n ")
                file.write(f"{separator}\n {text}")
                separator = ","

            yield add
            file.write("[]\n" if separator == "[" else "\n]\n")
            if device:
                file.seek(0)
                with place.open("w", **form) as whole:
                    shutil.copyfileobj(file, whole)


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A path of the same name in a hidden folder beside `output`, to be written in the block.

    At its end what lies in the folder takes its place. If the block fails, that goes away and what was there stays.

    Args:
        output: The file or folder to write. Files that belong to it have its name with another suffix; files of a
            folder that is there already stay, if none of the same name is written.

    Raises:
        OSError: It cannot be written.
    """
    parent = output.absolute().parent
    folder = _temporary(output.absolute())
    try:
        with _naming_disk(output):
            folder.mkdir(parents=True)
            probe = folder / "mode"
            probe.touch()
            mode = probe.stat().st_mode
            probe.unlink()
            staging = folder / output.name
            yield staging
            files = [path for path in folder.rglob("*") if path.is_file()]
            for path in files:
                path.chmod(mode)  # some libraries make files that the owner alone can read
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
            # The named file comes last: who finds it finds the others.
            for made in sorted(folder.iterdir(), key=lambda path: path.name == output.name):
                target = parent / made.name
                if made.is_dir() and target.is_dir():
                    inside = sorted(made.rglob("*"))  # folders before what is in them
                    for path in inside:
                        place = target / path.relative_to(made)
                        if path.is_dir():
                            place.mkdir(exist_ok=True)
                        else:
                            path.replace(place)
                    for parent_of in {path.parent for path in inside}:
                        sync_folder(target / parent_of.relative_to(made))
                else:
                    made.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sync_folder(parent)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Says of an output that could not be written which one, why, and how much room there is.

    For blocks that do nothing but write: libraries raise errors of their own when a disk is full.

    Args:
        path: What is written in the block.

    Raises:
        OSError: Instead of any error of the block but ValueError, TypeError and FileNotFoundError, which say
            themselves what is wrong.
    """
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is None:  # said already
            raise
        raise _named(error, Path(path)) from error


@contextmanager
def _naming_disk(path: Path) -> Iterator[None]:
    """As `naming`, for blocks that may fail for other reasons: only errors of the system that name no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _SAID_WITHOUT_A_NAME:
            raise _named(error, path) from error
        raise


def _named(error: Exception, path: Path) -> OSError:
    existing = next((place for place in path.absolute().parents if place.is_dir()), Path.cwd())
    free = shutil.disk_usage(existing).free
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    elif free < _PROBE_BYTES:  # PyTorch speaks of positions in the archive then
        reason = os.strerror(errno.ENOSPC)
    else:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return OSError(f"cannot write {path}: {reason} ({_size(free)} free)")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _temporary(path: Path) -> Path:
    # Shortened: the longest name that a file may have leaves no room for more.
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def sync_folder(path: Path) -> None:
    """Brings the entries of a folder to the disk, where the system can do that."""
    # Windows cannot open a folder, and some file systems cannot sync one; the files are in their place all the same.
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
