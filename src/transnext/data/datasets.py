"""Labelled images as PyTorch datasets, in which an unreadable file costs one sample and not the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from transnext.data.emoji import SPLITS, load_emoji
from transnext.data.fashion_mnist import fashion_mnist_splits
from transnext.data.folder import FolderIndex, image_folder_splits
from transnext.data.images import UnreadableImage, composite_on_white, read_image
from transnext.data.names import PackedNames, printable
from transnext.data.shards import holds_shards, open_shards
from transnext.data.transforms import Transform


class ImageSource(Protocol):
    """A sequence of labelled images. Implementations are cheap to pickle: each data loader worker gets a copy."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names; labels index them."""

    def __len__(self) -> int: ...

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Return image `index` in mode `RGB`; `min_side` as in `read_image`, and may be ignored.

        Raises:
            UnreadableImage: If it cannot be read.
            FileNotFoundError: If it is gone.
        """

    def label(self, index: int) -> int:
        """Return the class of image `index`."""

    def name(self, index: int) -> str:
        """Return what to call image `index` in a message: its path, or for example `emoji/twemoji/red heart`."""


class FolderImages:
    """The images of a `FolderIndex`, as an `ImageSource`."""

    def __init__(self, index: FolderIndex) -> None:
        self.classes = index.classes
        self._root = index.root
        self._paths = PackedNames.pack([path for path, _ in index.samples])
        self._labels = np.array([label for _, label in index.samples], np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Read image `index`; see `ImageSource`."""
        return read_image(self._paths[index], min_side)

    def label(self, index: int) -> int:
        """Return the class of image `index`."""
        return int(self._labels[index])

    def name(self, index: int) -> str:
        """Return the path of image `index`, printable."""
        return printable(self._paths[index])

    def names_below(self) -> Iterator[str]:
        """Yield the path of each image from the folder that holds the class folders, with `/`, wherever that lies."""
        return (path[len(self._root) :].lstrip(os.sep).replace(os.sep, "/") for path in self._paths)

    def version(self, index: int) -> str:
        """Return size and time of the file of image `index`; see `transnext.data.decoded.VersionedSource`."""
        try:
            status = Path(self._paths[index]).stat()
        except FileNotFoundError:
            raise
        except (OSError, ValueError):  # the reader says it better
            return "unknown"
        return f"{status.st_size} {status.st_mtime_ns}"


class AlignedImages:
    """An `ImageSource` with the classes of another list.

    Args:
        source: The images.
        classes: Class names; labels index them.
        places: Which of them each class of the source is.
    """

    def __init__(self, source: ImageSource, classes: Sequence[str], places: Sequence[int]) -> None:
        self.source = source
        self.classes = tuple(classes)
        self._places = tuple(places)

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Return image `index`; see `ImageSource`."""
        return self.source.load(index, min_side)

    def label(self, index: int) -> int:
        """Return the class of image `index`."""
        return self._places[self.source.label(index)]

    def name(self, index: int) -> str:
        """Return the name that image `index` has in the source."""
        return self.source.name(index)


class EmojiImages:
    """One split of the bundled emoji, on white, 64x64, as an `ImageSource`."""

    def __init__(self, split: str) -> None:
        emoji = load_emoji()
        self.classes = emoji.class_names
        self._indices = np.flatnonzero(emoji.splits == SPLITS.index(split))

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Return image `index`; `min_side` is ignored."""
        return composite_on_white(Image.fromarray(load_emoji().images[self._indices[index]]))

    def label(self, index: int) -> int:
        """Return the class of image `index`."""
        return int(load_emoji().labels[self._indices[index]])

    def name(self, index: int) -> str:
        """Return `emoji/<style>/<concept>`."""
        emoji, i = load_emoji(), self._indices[index]
        return f"emoji/{emoji.style_names[emoji.styles[i]]}/{emoji.concept_names[emoji.concepts[i]]}"


@dataclass(frozen=True)
class Sample:
    """A transformed image.

    Attributes:
        image: float32 `[3, H, W]`, normalised.
        target: The class.
        index: Its place in the dataset.
    """

    image: torch.Tensor
    target: int
    index: int


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read.

    Attributes:
        name: Its path or other name.
        reason: One line.
    """

    name: str
    reason: str


class Batch(NamedTuple):
    """What `collate` makes of `B` images.

    Attributes:
        images: float32 `[B, 3, H, W]`; `[0, 3, 0, 0]` if no image could be read.
        targets: int64 `[B]`.
        indices: int64 `[B]`, places in the dataset.
        skipped: Pairs `(name, reason)` of images that are missing from the batch.
    """

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    skipped: list[tuple[str, str]]


class LabelledImages(Dataset[Sample | Skipped]):
    """The images of a source, transformed. To be used with `collate`.

    Args:
        source: The images.
        transform: From an `RGB` PIL image to a tensor `[3, H, W]`.
        min_side: As in `read_image`; `min_side_for` gives a value that suits the transform. None reads at full size.
    """

    def __init__(self, source: ImageSource, transform: Transform, min_side: int | None = None) -> None:
        self.source = source
        self.transform = transform
        self.min_side = min_side

    @property
    def classes(self) -> Sequence[str]:
        """Class names; targets index them."""
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample | Skipped:
        index = range(len(self))[index]
        try:
            image = self.source.load(index, self.min_side)
        except UnreadableImage as error:
            return Skipped(self.source.name(index), error.reason)
        except FileNotFoundError:
            return Skipped(self.source.name(index), "the file is gone")
        return Sample(self.transform(image), self.source.label(index), index)


def collate(batch: Sequence[Sample | Skipped]) -> Batch:
    """Stack what could be read and list what could not; see `Batch`."""
    samples = [item for item in batch if isinstance(item, Sample)]
    return Batch(
        images=torch.stack([sample.image for sample in samples]) if samples else torch.empty(0, 3, 0, 0),
        targets=torch.tensor([sample.target for sample in samples], dtype=torch.int64),
        indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
        skipped=[(item.name, item.reason) for item in batch if isinstance(item, Skipped)],
    )


def _emoji_splits(_: float) -> Mapping[str, ImageSource]:
    return {split: EmojiImages(split) for split in SPLITS}


NAMED_SETS: dict[str, Callable[[float], Mapping[str, ImageSource]]] = {
    "emoji": _emoji_splits,
    "fashion_mnist": fashion_mnist_splits,
}
"""Sets that are known by name: functions from the share of images that are to validate to the splits."""


def open_dataset(
    data: str | os.PathLike[str], val_fraction: float = 0.2, seed: int = 0, known: Collection[str] | None = None
) -> dict[str, ImageSource]:
    """Open a set by name, an image folder, or tar or Parquet shards.

    Args:
        data: A name in `NAMED_SETS`, the path of an image folder (see `image_folder_splits`), or the path, URL or
            pattern of shards (see `open_shards`). A name wins over a folder of that name in the current directory;
            write `./emoji` for the folder.
        val_fraction: Share of the images that validate, where the data do not come split.
        seed: Chooses these images.
        known: For evaluation, what a classifier knows its classes by: the data may lack some of them, see
            `image_folder_splits`.

    Returns:
        The splits in order, `train` first. `emoji` has `train`, `val`, `shift` and `both`; `fashion_mnist` has
        `train`, `val` and `test`; others have `train`, `val` and `test` as far as there are such images.

    Raises:
        FileNotFoundError: If `data` is none of these.
        ValueError: If the folder is not laid out as it should be, there is one class alone, or a shard cannot be read.
    """
    name = os.fspath(data)
    if name in NAMED_SETS:
        return dict(NAMED_SETS[name](val_fraction))
    if holds_shards(name):
        return dict(open_shards(name, val_fraction, seed, known))
    if not Path(name).exists():
        raise FileNotFoundError(
            f"{printable(name)!r} is neither a folder nor a set that is known by name; "
            f"give the path of an image folder or one of: {', '.join(NAMED_SETS)}"
        )
    splits = image_folder_splits(name, val_fraction, seed, known)
    return {split: FolderImages(index) for split, index in splits.items()}
