"""Reading files that may be far away."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from transnext.errors import reason_of

T = TypeVar("T")

ATTEMPTS = 3
"""Times that a remote file is tried before its error counts."""
_PAUSES = (1.0, 5.0)
_READ_AHEAD = 2**23

# What the file systems of fsspec call the sign of a change.
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "generation", "blob_id", "created")


class ShardError(ValueError):
    """A shard that cannot be used.

    It stops the run, other than a broken image inside a shard. When a worker raises it, PyTorch makes a new one from
    its traceback; the message stays the one line that it was.
    """

    def __init__(self, message: str) -> None:
        last = message.strip().splitlines()[-1]
        super().__init__(last.rpartition(f"{type(self).__qualname__}: ")[2])


def is_remote(url: str) -> bool:
    """Return whether reading can fail for reasons that pass."""
    return "://" in url and not url.startswith(("file://", "local://", "memory://"))


def filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of a URL or path, and the path on it.

    Never keep it: connections do not survive a fork. fsspec remembers it for the process.

    Raises:
        ShardError: If fsspec does not know the protocol or lacks a package for it.
    """
    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(url))
    except (ImportError, ValueError) as error:
        raise ShardError(f"{url} cannot be opened: {reason_of(error)}") from None


def fetch(url: str, start: int, end: int) -> bytes:
    """Return bytes `start` to `end` of a file.

    Raises:
        ShardError: If that fails or they are not all there.
    """

    def read() -> bytes:
        fs, path = filesystem(url)
        data: bytes = fs.cat_file(path, start=start, end=end)
        if len(data) > end - start:
            raise OSError("the server gives whole files only, not parts of them")
        if len(data) < end - start:
            raise OSError(f"it gave {len(data)} bytes instead of {end - start}, it may have been cut off")
        return data

    return attempt(url, read)


def fetch_if_there(url: str) -> bytes | None:
    """Return the contents of a small file, None if there is no such file.

    Raises:
        ShardError: If it cannot be read.
    """

    def read() -> bytes | None:
        fs, path = filesystem(url)
        try:
            return cast(bytes, fs.cat_file(path))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        except Exception as error:
            # Some servers say so of what is not there; the error is of a package that need not be installed.
            if getattr(error, "status", None) in (401, 403):
                return None
            raise

    return attempt(url, read)


def open_file(url: str) -> BinaryIO:
    """Open a file to be read from beginning to end."""
    fs, path = filesystem(url)
    options = {"block_size": _READ_AHEAD, "cache_type": "readahead"} if is_remote(url) else {}
    return cast(BinaryIO, fs.open(path, "rb", **options))


def version(url: str) -> str:
    """Return a text that changes when the file does, as far as its file system tells; it begins with the size, bytes.

    Raises:
        ShardError: If there is no such file.
    """
    if "://" not in url:
        status = attempt(url, Path(url).stat)
        return f"{status.st_size} {status.st_mtime_ns}"

    def read() -> dict[str, Any]:
        fs, path = filesystem(url)
        return cast(dict[str, Any], fs.info(path))

    info = attempt(url, read)
    return " ".join([str(info.get("size")), *(f"{key}={info[key]}" for key in _VERSIONS if info.get(key))])


def attempt(url: str, read: Callable[[], T]) -> T:
    """Return what `read` returns, trying again where `url` is remote.

    Raises:
        ShardError: If it fails.
    """
    attempts = ATTEMPTS if is_remote(url) else 1
    for left in reversed(range(attempts)):
        try:
            return read()
        except ShardError:
            raise
        except FileNotFoundError:
            raise ShardError(f"there is nothing at {url}") from None
        except Exception as error:  # each file system has errors of its own
            if not left:
                often = f" in {attempts} attempts" if attempts > 1 else ""
                raise ShardError(f"{url} cannot be read{often}: {reason_of(error)}") from None
            time.sleep(_PAUSES[-left])
    raise AssertionError("unreachable")
