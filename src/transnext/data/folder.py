"""Image folders: one sub-folder per class, optionally inside `train` and `val`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transnext.data.images import image_extensions

_VAL_NAMES = ("val", "valid", "validation")
_LISTED = 5


@dataclass(frozen=True)
class FolderIndex:
    """The images of a folder and their classes.

    Attributes:
        classes: Class names, sorted.
        samples: Pairs `(path, class_index)`, sorted by class and then by path.
        root: The folder that holds the class folders, with which all paths begin.
    """

    classes: tuple[str, ...]
    samples: tuple[tuple[str, int], ...]
    root: str = ""

    def __len__(self) -> int:
        return len(self.samples)


def scan_image_folder(root: str | os.PathLike[str]) -> FolderIndex:
    """List the images under `root`, whose sub-folders are the classes.

    Class folders are searched recursively and through links. Hidden files and folders and files whose extension is not
    that of an image are ignored; files are not opened.

    Args:
        root: The folder that holds the class folders.

    Returns:
        Classes sorted by name; paths start with `root` as given.

    Raises:
        FileNotFoundError: If `root` does not exist.
        ValueError: If it is a file, has no class folders, or a class folder has no images.
    """
    folders = class_folders(os.fspath(root))
    return index_classes(os.fspath(root), tuple(folders), folders)


def image_folder_splits(
    root: str | os.PathLike[str], val_fraction: float = 0.2, seed: int = 0
) -> dict[str, FolderIndex]:
    """Return the training and validation images under `root`.

    If `root` has a sub-folder `train` and one of `val`, `valid`, `validation` or `test`, these are used as they are, in
    upper or lower case. `test` is the validation set if there is no other, else a third split. All splits have the
    classes of `train`, in its order; the others may lack some of them but have no class of their own.

    Otherwise `root`, or the folder `train` that is all it holds, has class folders, and of each class about
    `val_fraction` of the images, chosen at random, become the validation set. The choice for an image depends only on
    its path below that folder and on `seed`, so that it stays when other images come and go. One exception keeps small
    classes usable: a class of two or more images has at least one in each split. A class of one image has it in
    `train`.

    Args:
        root: The folder.
        val_fraction: Share of the images that validate, 0 <= `val_fraction` < 1. Not used if there is a `train` folder.
        seed: Another seed gives another split.

    Returns:
        `train`, then `val` and `test` as far as they are not empty.

    Raises:
        FileNotFoundError: If `root` does not exist.
        ValueError: If `val_fraction` is out of range, `root` is laid out in another way, or splits disagree on classes.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and less than 1, got {val_fraction}")
    root = os.fspath(root)
    folders = _split_folders(root)
    train_folder = folders.pop("train", root)
    train = scan_image_folder(train_folder)
    if not folders:
        return _random_split(train_folder, train, val_fraction, seed)
    held_out = {name: _scan_like(folder, name, train.classes, train_folder) for name, folder in folders.items()}
    return {"train": train, **held_out}


def _split_folders(root: str) -> dict[str, str]:
    """Return the folder of each split; without any if `root` holds class folders itself."""
    found = {entry.name.lower(): entry.path for entry in _sub_folders(root)}
    if "train" not in found:
        return {}
    val_names = [name for name in _VAL_NAMES if name in found]
    if len(val_names) > 1:
        raise ValueError(f"{root} has more than one validation folder ({', '.join(val_names)}); keep one of them")
    folders = {"train": found["train"]}
    if val_names:
        folders["val"] = found[val_names[0]]
    if "test" in found:
        folders["test" if val_names else "val"] = found["test"]
    # A lone `train` beside other folders is a class: trains.
    return folders if len(folders) > 1 or len(found) == 1 else {}


def _scan_like(folder: str, split: str, classes: tuple[str, ...], train_folder: str) -> FolderIndex:
    present = class_folders(folder)
    extra = sorted(set(present) - set(classes))
    if extra:
        raise ValueError(f"{folder} has classes that {train_folder} lacks: {_listing(extra)}; rename or remove them")
    index = index_classes(folder, classes, present, allow_empty=True)
    if not index.samples:
        raise ValueError(f"there are no images in the {split} folder {folder}; add images or remove it")
    return index


def index_classes(
    root: str, classes: tuple[str, ...], folders: dict[str, str], allow_empty: bool = False
) -> FolderIndex:
    """List the images of class folders.

    Args:
        root: Where the folders are, for messages.
        classes: Class names; labels index them.
        folders: The folder of each class that has one.
        allow_empty: Whether folders without images, even all of them, are no mistake.

    Raises:
        ValueError: If a folder has no images and must have some.
    """
    extensions = image_extensions()
    label_of = {name: label for label, name in enumerate(classes)}
    samples: list[tuple[str, int]] = []
    empty: list[str] = []
    for name, folder in folders.items():
        paths = sorted(_images_below(folder, extensions))
        samples += [(path, label_of[name]) for path in paths]
        if not paths:
            empty.append(name)
    if not samples and not allow_empty:
        raise ValueError(f"there are no images in the sub-folders of {root} ({_listing(empty)}); add images")
    if empty and not allow_empty:
        raise ValueError(f"no images in class folder {_listing(empty)} of {root}; add images or remove the folder")
    return FolderIndex(classes, tuple(samples), root)


def class_folders(root: str) -> dict[str, str]:
    """Return the sub-folders of `root` by name, sorted; at least one.

    Raises:
        FileNotFoundError: If `root` does not exist.
        ValueError: If it is a file or has no sub-folders.
    """
    folders = {entry.name: entry.path for entry in sorted(_sub_folders(root), key=lambda entry: entry.name)}
    if folders:
        return folders
    with os.scandir(root) as entries:
        images = sum(_is_image(entry, image_extensions()) for entry in entries)
    if images:
        raise ValueError(
            f"{root} has no class folders: {images} image(s) lie directly in it; move them to one sub-folder per class"
        )
    raise ValueError(f"{root} has no class folders; it must hold one sub-folder of images per class")


def _sub_folders(root: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no folder {root}") from None
    except NotADirectoryError:
        raise ValueError(f"{root} is a file; give a folder that holds one sub-folder of images per class") from None


def _images_below(folder: str, extensions: frozenset[str], above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    status = Path(folder).stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link back to one of its own parents
        return
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_image(entry, extensions):
                yield entry.path
            elif not entry.name.startswith(".") and entry.is_dir():
                folders.append(entry.path)
    for path in folders:
        yield from _images_below(path, extensions, (*above, identity))


def _is_image(entry: os.DirEntry[str], extensions: frozenset[str]) -> bool:
    name = entry.name
    # os.path, not Path: this runs once per file, a million times for ImageNet.
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions and entry.is_file()  # noqa: PTH122


def _random_split(root: str, index: FolderIndex, val_fraction: float, seed: int) -> dict[str, FolderIndex]:
    by_class: list[list[tuple[float, str]]] = [[] for _ in index.classes]
    for path, label in index.samples:
        by_class[label].append((_uniform(path[len(root) :].lstrip(os.sep), seed), path))
    train: list[tuple[str, int]] = []
    val: list[tuple[str, int]] = []
    for label, draws in enumerate(by_class):
        threshold = val_fraction
        if val_fraction > 0 and len(draws) > 1:
            ordered = sorted(draw for draw, _ in draws)
            threshold = min(max(threshold, ordered[1]), ordered[-1])
        elif len(draws) == 1:
            threshold = 0.0
        for draw, path in draws:
            (val if draw < threshold else train).append((path, label))
    splits = {"train": train, "val": val}
    return {name: FolderIndex(index.classes, tuple(samples), root) for name, samples in splits.items() if samples}


def _uniform(relative_path: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on nothing but the arguments, on any machine."""
    key = f"{seed}:{relative_path.replace(os.sep, '/')}"
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(repr(name) for name in names[:_LISTED]) + more
