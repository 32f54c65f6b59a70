"""Many shards as one sequence of images."""

from __future__ import annotations

import hashlib
import posixpath
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from transnext.data.images import UnreadableImage, read_image
from transnext.data.shards.classes import ClassList
from transnext.data.shards.files import ShardError


class ShardRecord(NamedTuple):
    """An image as it lies in a shard.

    Attributes:
        image: The bytes of an image file; None if there are none.
        label: A class by number or name; empty if there is none.
        problem: Why `image` is None.
    """

    image: bytes | memoryview | None
    label: str
    problem: str = ""


class ShardContents(NamedTuple):
    """Images of one shard, as far as they are known without reading it.

    Attributes:
        name: File name.
        size: Size of the file, bytes, as text.
        images: Number of images, of those that were chosen.
        chosen: Hash of the places of these in the file.
    """

    name: str
    size: str
    images: int
    chosen: str


class Shard(Protocol):
    """One file of images, which are read in blocks of neighbours. Cheap to pickle."""

    @property
    def url(self) -> str:
        """Path or URL."""

    @property
    def version(self) -> str:
        """A text that changes when the file does; it begins with the size."""

    @property
    def block_sizes(self) -> npt.NDArray[np.int64]:
        """Images of each block."""

    @property
    def labelled(self) -> bool:
        """True if it has labels, as far as that is known without reading all of it."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classes that labels stand for, if the file has them."""

    @property
    def known_labels(self) -> npt.NDArray[np.str_] | None:
        """The labels, empty where there is none; None if they must be read."""

    def read_labels(self) -> npt.NDArray[np.str_]:
        """Return the labels, empty where there is none.

        Raises:
            ShardError: If they cannot be read.
        """

    def read_block(self, block: int) -> Sequence[ShardRecord]:
        """Return the images of a block.

        Raises:
            ShardError: If they cannot be read.
        """

    def name(self, index: int) -> str:
        """Return what to call image `index` of the shard in a message."""


class ShardedImages:
    """The images of some shards, or some of these images, as an `ImageSource`.

    Any image can be asked for, but each time its whole block is read, unless that is still at hand. So those of a block
    should be asked for soon after one another.

    Args:
        shards: The shards.
        classes: What labels mean.
        chosen: Places of the images among those of all shards, int64, increasing; None for all.

    Attributes:
        kept_images: Of the blocks that were read last, so many are kept that they have this number of images.
    """

    def __init__(
        self, shards: Sequence[Shard], classes: ClassList, chosen: npt.NDArray[np.int64] | None = None
    ) -> None:
        self.kept_images = 0
        self._shards = list(shards)
        self._class_list = classes
        self._chosen = chosen
        sizes = [shard.block_sizes for shard in shards]
        self._shard_starts = _starts([blocks.sum() for blocks in sizes])
        self._first_blocks = _starts([len(blocks) for blocks in sizes])
        self._block_starts = _starts([size for blocks in sizes for size in blocks.tolist()])
        # The same, counting chosen images only.
        self._chosen_starts = self._block_starts if chosen is None else np.searchsorted(chosen, self._block_starts)
        self._kept: OrderedDict[int, Sequence[ShardRecord]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}

    @property
    def classes(self) -> Sequence[str]:
        """Class names; labels index them."""
        return self._class_list.names

    @property
    def block_ends(self) -> npt.NDArray[np.int64]:
        """Ends of the blocks that have images in the sequence, int64, increasing; the last is `len(self)`."""
        ends = np.unique(self._chosen_starts)
        return ends[ends > 0]

    def __len__(self) -> int:
        return int(self._shard_starts[-1]) if self._chosen is None else len(self._chosen)

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Read image `index`; see `ImageSource`.

        Raises:
            UnreadableImage: If it is broken or has no label.
            ShardError: If its shard cannot be read.
        """
        record = self._record(index)
        if record.image is None or not record.label:
            raise UnreadableImage(self.name(index), record.problem or "it has no label")
        try:
            return read_image(bytes(record.image), min_side)
        except UnreadableImage as error:
            raise UnreadableImage(self.name(index), error.reason) from None

    def target(self, index: int) -> int:
        """Return the class of image `index`.

        Raises:
            ShardError: If its shard cannot be read, or it is none of the classes.
        """
        shard, place = self._place(index)
        labels = self._shards[shard].known_labels
        try:
            return self._class_list.number(self._record(index).label if labels is None else str(labels[place]))
        except ValueError as error:
            raise ShardError(f"{self.name(index)} has the {error}") from None

    def name(self, index: int) -> str:
        """Return the shard and what the image is called in it."""
        shard, place = self._place(index)
        return self._shards[shard].name(place)

    def contents(self) -> list[ShardContents]:
        """Return what each shard has to this sequence, wherever the shards lie."""
        chosen = np.arange(len(self)) if self._chosen is None else self._chosen
        ends = np.searchsorted(chosen, self._shard_starts)
        parts = [chosen[ends[i] : ends[i + 1]] - self._shard_starts[i] for i in range(len(self._shards))]
        return [
            ShardContents(
                posixpath.basename(shard.url),
                shard.version.split()[0],
                len(places),
                hashlib.blake2b(places.astype("<i8").tobytes(), digest_size=16).hexdigest(),
            )
            for shard, places in zip(self._shards, parts, strict=True)
        ]

    def version(self, index: int) -> str:
        """Return the version of the shard; see `transnext.data.decoded.VersionedSource`."""
        return self._shards[self._place(index)[0]].version

    def _place(self, index: int) -> tuple[int, int]:
        """Return the shard of an image and the image's place in it."""
        position = self._position(index)
        shard = int(np.searchsorted(self._shard_starts, position, "right")) - 1
        return shard, position - int(self._shard_starts[shard])

    def _position(self, index: int) -> int:
        index = range(len(self))[index]
        return index if self._chosen is None else int(self._chosen[index])

    def _record(self, index: int) -> ShardRecord:
        position = self._position(index)
        block = int(np.searchsorted(self._block_starts, position, "right")) - 1
        if block not in self._kept:
            shard = self._place(index)[0]
            records = self._shards[shard].read_block(block - int(self._first_blocks[shard]))
            assert len(records) == self._block_starts[block + 1] - self._block_starts[block]
            self._kept[block] = records
            while len(self._kept) > 1 and sum(map(self._chosen_in, self._kept)) > self.kept_images:
                self._kept.popitem(last=False)
        self._kept.move_to_end(block)
        return self._kept[block][position - int(self._block_starts[block])]

    def _chosen_in(self, block: int) -> int:
        return int(self._chosen_starts[block + 1] - self._chosen_starts[block])


def _starts(sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return where each of some parts starts, and at last where all end."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
