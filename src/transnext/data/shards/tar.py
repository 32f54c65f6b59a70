"""Tar files in WebDataset's layout: members `KEY.jpg` and `KEY.cls` (or `KEY.json`), one after the other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transnext.atomic import replacing
from transnext.data.images import image_extensions, recognise, unreadable_extensions
from transnext.data.names import PackedNames, printable
from transnext.data.shards.classes import clean_label
from transnext.data.shards.files import ShardError, attempt, fetch, open_file, version
from transnext.data.shards.source import ShardRecord
from transnext.data.user_cache import user_cache

_BLOCK_IMAGES = 64
_LABEL_SUFFIXES = ("cls", "json")
_ODD_SUFFIX = re.compile("|(image|img|jpe?g|png|gif|webp|heic|avif)[^.]*")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


@dataclass(frozen=True)
class TarIndex:
    """Contents of a tar file of `n` images.

    Attributes:
        keys: What their members' names begin with.
        starts: int64 `[n]`, place of the image file, bytes.
        sizes: int64 `[n]`, size of the image file, bytes; -1 if there is none.
        labels: str `[n]`, empty where there is none.
    """

    keys: PackedNames
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.starts)

    def save(self, path: Path) -> None:
        """Write the index to a file, which replaces one that is there."""
        arrays: dict[str, Any] = {"starts": self.starts, "sizes": self.sizes, "labels": self.labels}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, keys=self.keys.data, key_ends=self.keys.ends, **arrays)

    @classmethod
    def load(cls, path: Path) -> TarIndex | None:
        """Read a file that `save` wrote; None if there is none or it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                keys = PackedNames(arrays["keys"], arrays["key_ends"])
                return cls(keys, arrays["starts"], arrays["sizes"], arrays["labels"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


class TarShard:
    """A tar file as a `Shard`.

    What is in it is found by reading it once from beginning to end, and remembered in the user's cache.

    Args:
        url: Path or URL.
        num_images: How many images it has, if that is known; the tar file is then not opened before one is needed.

    Raises:
        ShardError: If it cannot be read.
    """

    class_names = None

    def __init__(self, url: str, num_images: int | None = None) -> None:
        self.url = url
        self.version = version(url)
        self._index: TarIndex | None = None
        self._num_images = num_images
        n = len(self.index) if num_images is None else num_images
        self.block_sizes = np.diff([*range(0, n, _BLOCK_IMAGES), n]).astype(np.int64)

    @property
    def index(self) -> TarIndex:
        """Its contents."""
        if self._index is None:
            path = index_path(self.url, self.version)
            index = TarIndex.load(path)
            if index is None:
                index = attempt(self.url, lambda: scan(self.url))
                with contextlib.suppress(OSError):  # no room for it: it is found anew each time
                    index.save(path)
            if self._num_images not in (None, len(index)):
                raise ShardError(f"{self.url} has {len(index)} images, but is listed with {self._num_images}")
            self._index = index
        return self._index

    @property
    def labelled(self) -> bool:
        """True if it has labels, as far as is known; see `Shard`."""
        return self._index is None or bool((self._index.labels != "").any())

    @property
    def known_labels(self) -> npt.NDArray[np.str_] | None:
        """The labels; None if it has not been opened yet."""
        return None if self._index is None else self._index.labels

    def read_labels(self) -> npt.NDArray[np.str_]:
        """Return the labels; see `Shard`."""
        return self.index.labels

    def read_block(self, block: int) -> list[ShardRecord]:
        """Return the images of a block; see `Shard`."""
        part = slice(block * _BLOCK_IMAGES, (block + 1) * _BLOCK_IMAGES)
        index = self.index
        starts, sizes = index.starts[part], index.sizes[part]
        there = sizes >= 0
        first = int(starts[there].min(initial=2**62))
        last = int((starts + sizes)[there].max(initial=0))
        data = memoryview(fetch(self.url, first, last) if last > first else b"")
        return [
            ShardRecord(data[start - first : start - first + size], label)
            if size >= 0
            else ShardRecord(None, label, "there is no image with this name")
            for start, size, label in zip(starts.tolist(), sizes.tolist(), index.labels[part].tolist(), strict=True)
        ]

    def name(self, index: int) -> str:
        """Return `SHARD/KEY`."""
        return printable(f"{self.url}/{self.index.keys[index]}")


def index_path(url: str, version: str) -> Path:
    """Return where the index of a tar file is remembered."""
    where = url if "://" in url else os.path.realpath(url)
    name = hashlib.blake2b(f"{where}\n{version}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return user_cache() / "tar-index-2" / f"{name}.npz"


def scan(url: str) -> TarIndex:
    """Find out what is in a tar file.

    Raises:
        ShardError: If it is no tar file, compressed, or damaged.
    """
    samples: list[_Sample] = []
    with open_file(url) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member, key, suffix in _members(tar):
                    if not samples or samples[-1].key != key:
                        samples.append(_Sample(key))
                    samples[-1].add(suffix, member, tar)
                end = tar.offset
            file.seek(end)
            whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        except tarfile.ReadError as error:
            file.seek(0)
            if file.read(6).startswith(_COMPRESSED):
                raise ShardError(f"{url} is compressed, so that it cannot be read from the middle: unpack it") from None
            raise ShardError(f"{url} is no tar file, or damaged ({error})") from None
    if not whole:
        raise ShardError(f"{url} is cut off or damaged after {len(samples)} images: copy it again")
    return TarIndex(
        PackedNames.pack([sample.key for sample in samples]),
        np.array([sample.start for sample in samples], np.int64),
        np.array([sample.size for sample in samples], np.int64),
        np.array([sample.label for sample in samples], np.str_),
    )


@dataclass
class _Sample:
    key: str
    start: int = 0
    size: int = -1
    label: str = ""
    certain: bool = False

    def add(self, suffix: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        extension = f".{suffix}"
        if suffix in _LABEL_SUFFIXES:
            self.label = self.label or (_label_in_json if suffix == "json" else _label_in_text)(_read(tar, member))
        elif extension in image_extensions() or extension in unreadable_extensions():  # the reader says what is missing
            if not self.certain:
                self.start, self.size, self.certain = member.offset_data, member.size, True
        # Not what else WebDataset knows, such as KEY.seg.png and KEY.mask, unless it is called an image.
        elif self.size < 0 and _ODD_SUFFIX.fullmatch(suffix) and recognise(_read(tar, member, 32)):
            self.start, self.size = member.offset_data, member.size


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, size: int = -1) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None
    return stream.read(size)


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """Yield the files in a tar file that belong to an image, with key and suffix as WebDataset splits them."""
    for member in tar:
        folder, name = posixpath.split(member.name)
        key, _, suffix = name.partition(".")
        if member.isreg() and key and not key.startswith("__"):
            yield member, posixpath.join(folder, key).removeprefix("./"), suffix.lower()


def _label_in_text(data: bytes) -> str:
    return clean_label(data.decode(errors="backslashreplace"))


def _label_in_json(data: bytes) -> str:
    try:
        fields = json.loads(data)
    except ValueError:
        return ""
    label = fields.get("label", fields.get("cls")) if isinstance(fields, dict) else None
    return clean_label(str(label)) if isinstance(label, (int, str)) else ""
