"""Decoded images kept in files, so that each is decoded once and not once an epoch."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import secrets
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from transnext.choices import MEMORY
from transnext.data.image_files import CACHE_MARK
from transnext.data.sample import Source

# Left free for everything else on the file system of the cache: bytes, and of shared memory a share, because the data
# loader hands batches over in it and dies when it is full.
_SPARE_BYTES = 2**31
_SPARE_SHARE_OF_MEMORY = 0.5
_SHARED_MEMORY = Path("/dev/shm")

_CACHE_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds decoded images; it may be removed.\n"
_MAGIC = b"transnext image 1"
# Magic, width, height, length of the version, CRC-32 of the version and pixels that follow.
_HEADER = struct.Struct(f"<{len(_MAGIC)}sIIII")


@runtime_checkable
class VersionedSource(Protocol):
    """An `Source` whose images may be worth keeping, because decoding them takes time."""

    def version(self, index: int) -> str:
        """Return a text that changes when image `index` changes, such as size and time of its file.

        Raises:
            UnreadableImage: If it cannot be found out.
            FileNotFoundError: If the image is gone.
        """


def cached(source: Source, cache: str | os.PathLike[str] | None) -> Source:
    """Return `source`, or a copy of it that keeps decoded images.

    Args:
        source: The images.
        cache: None for no cache; `memory` for shared memory, which all processes of a user on this machine share; else
            a folder, which is made if it does not exist. A folder may be used by several runs and data sets at once.

    Returns:
        A source that gives the same images. Sources that are in memory anyway are returned as they are.

    Raises:
        ValueError: If the folder cannot be used.
    """
    if cache is None or not isinstance(source, VersionedSource):
        return source
    return CachedImages(source, _shared_memory() if os.fspath(cache) == MEMORY else _Folder(Path(cache)))


class CachedImages:
    """An `Source` that keeps the decoded images of another.

    An image is kept as it comes from the source: RGB, upright, and shrunk if `min_side` allows. One that has changed
    is decoded anew, and so is one whose file in the cache is damaged. Unreadable images are not kept. When the cache
    is full, what does not fit is decoded each time.

    Args:
        source: The images; it must be a `VersionedSource`.
        store: Where they are kept.
    """

    def __init__(self, source: Source, store: _Folder) -> None:
        self.source = source
        self._store = store
        if hasattr(source, "classes"):
            self.classes = source.classes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Return image `index`, from the cache if it is there; see `Source`."""
        assert isinstance(self.source, VersionedSource)
        version = self.source.version(index).encode("utf-8", "surrogateescape")
        key = f"{self.source.name(index)}\n{min_side}".encode("utf-8", "surrogateescape")
        path = self._store.path(key)
        image = _read(path, version)
        if image is None:
            image = self.source.load(index, min_side)
            if self._store.has_room(3 * image.width * image.height):
                _write(path, version, image)
        return image

    def target(self, index: int) -> Any:
        """Return the target of image `index`."""
        return self.source.target(index)

    def name(self, index: int) -> str:
        """Return the name that image `index` has in the source."""
        return self.source.name(index)

    def version(self, index: int) -> str:
        """Return the version that image `index` has in the source."""
        assert isinstance(self.source, VersionedSource)
        return self.source.version(index)


class _Folder:
    """Paths of cached images; they depend on nothing but the key, so that a changed image replaces the old one."""

    def __init__(self, root: Path, spare_share: float | None = None) -> None:
        self._spare_share = spare_share
        self._root = root.absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
            if not any(root.iterdir()):  # never mark what somebody has put there
                (root / CACHE_MARK).write_text(_CACHE_TAG)
            tempfile.TemporaryFile(dir=root).close()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ValueError(f"the cache folder {root} cannot be used: {reason}; choose another") from None

    def path(self, key: bytes) -> Path:
        name = hashlib.blake2b(key, digest_size=16).hexdigest()
        return self._root / name[:2] / f"{name[2:]}.rgb"

    def has_room(self, num_bytes: int) -> bool:
        try:
            usage = shutil.disk_usage(self._root)
        except OSError:  # somebody has cleaned up
            return False
        spare = _SPARE_BYTES if self._spare_share is None else self._spare_share * usage.total
        return usage.free - num_bytes > spare


@functools.cache
def _shared_memory() -> _Folder:
    """Return a folder in shared memory, which the last process that uses it removes."""
    if not _SHARED_MEMORY.is_dir():
        raise ValueError(f"cache {MEMORY!r} needs {_SHARED_MEMORY}, which this system lacks; give a folder instead")
    import fcntl  # not on Windows, which has no /dev/shm either

    root = _SHARED_MEMORY / f"transnext-{os.getuid()}"
    lock = os.open(root.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise ValueError(f"{root} belongs to another user; give a folder as cache instead of {MEMORY!r}")
    owner = os.getpid()

    def remove_if_last() -> None:
        if os.getpid() == owner:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)

    atexit.register(remove_if_last)
    return _Folder(root, _SPARE_SHARE_OF_MEMORY)


def _read(path: Path, version: bytes) -> Image.Image | None:
    """Return the image in a file; None if there is none, it is of another version, or damaged."""
    try:
        data = path.read_bytes()
        magic, width, height, version_length, checksum = _HEADER.unpack_from(data)
    except (OSError, struct.error):
        return None
    body = memoryview(data)[_HEADER.size :]
    if (
        magic != _MAGIC
        or len(body) != version_length + 3 * width * height
        or body[:version_length] != version
        or zlib.crc32(body) != checksum
    ):
        return None
    return Image.frombytes("RGB", (width, height), body[version_length:])


def _write(path: Path, version: bytes, image: Image.Image) -> None:
    body = version + image.tobytes()
    header = _HEADER.pack(_MAGIC, *image.size, len(version), zlib.crc32(body))
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    # A cache that cannot be written is slow, not wrong. No fsync: the checksum finds what a power cut has left.
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        try:
            temporary.write_bytes(header + body)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
