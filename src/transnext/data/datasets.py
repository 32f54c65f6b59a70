"""The sets of labelled images that there are, by name or by place."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from transnext.data.emoji import SPLITS, load_emoji
from transnext.data.fashion_mnist import fashion_mnist_splits
from transnext.data.folder import FolderIndex, image_folder_splits
from transnext.data.images import composite_on_white, read_image
from transnext.data.names import PackedNames, printable
from transnext.data.sample import ImageSource
from transnext.data.shards import holds_shards, open_shards


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

    def target(self, index: int) -> int:
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

    def target(self, index: int) -> int:
        """Return the class of image `index`."""
        return self._places[self.source.target(index)]

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

    def target(self, index: int) -> int:
        """Return the class of image `index`."""
        return int(load_emoji().labels[self._indices[index]])

    def name(self, index: int) -> str:
        """Return `emoji/<style>/<concept>`."""
        emoji, i = load_emoji(), self._indices[index]
        return f"emoji/{emoji.style_names[emoji.styles[i]]}/{emoji.concept_names[emoji.concepts[i]]}"


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
