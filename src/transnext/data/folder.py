"""Image folders: one sub-folder per class, optionally inside `train` and `val`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transnext.data.image_files import FolderListing, is_ignored, is_image, log
from transnext.data.names import printable
from transnext.data.splits import KNOWN_SPLITS, SPLITS, split_of_folder

_FULL = {"train": "training", "val": "validation", "test": "test"}
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

    Class folders are searched recursively and through links; `transnext.data.image_files` says which files count.

    Args:
        root: The folder that holds the class folders.

    Returns:
        Classes sorted by name, printable; paths start with `root` as given.

    Raises:
        FileNotFoundError: If `root` does not exist.
        ValueError: If it is a file, has no class folders, or a class folder has no images.
    """
    return index_classes(os.fspath(root), class_folders(os.fspath(root)))


def image_folder_splits(
    root: str | os.PathLike[str], val_fraction: float = 0.2, seed: int = 0, known: Collection[str] | None = None
) -> dict[str, FolderIndex]:
    """Return the training and validation images under `root`.

    If `root` has sub-folders with customary names of splits (see `split_of_folder`) that hold class folders, these are
    used as they are. `test` is the validation set if there is `train` and no other, else a split of its own. All splits
    have the classes of `train`, in its order; the others may lack some of them but have no class of their own. Without
    `train` they have the classes that any of them has.

    Otherwise `root`, or the folder `train` that is all it holds, has class folders, and of each class about
    `val_fraction` of the images, chosen at random, become the validation set. The choice for an image depends only on
    its path below that folder and on `seed`, so that it stays when other images come and go. One exception keeps small
    classes usable: a class of two or more images has at least one in each split. A class of one image has it in
    `train`.

    Args:
        root: The folder.
        val_fraction: Share of the images that validate, 0 <= `val_fraction` < 1. Not used if there are given splits.
        seed: Another seed gives another split.
        known: For evaluation, what a classifier knows its classes by: some of these may have no images or no folder,
            in any split.

    Returns:
        `train`, then `val` and `test` as far as they are not empty.

    Raises:
        FileNotFoundError: If `root` does not exist.
        ValueError: If `val_fraction` is out of range, `root` is laid out in another way, there is one class alone, or
            splits disagree on classes.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and less than 1, got {val_fraction}")
    root = os.fspath(root)
    folders = _split_folders(root)
    if folders.keys() <= {"train"}:
        folder = folders.get("train", root)
        return _random_split(folder, _scan_all([folder], known)[0], val_fraction, seed)
    if known is None and "train" in folders:
        train = _scan_all([folders["train"]], None)[0]
        held_out = {name: _scan_like(path, train) for name, path in folders.items() if name != "train"}
        return {"train": train, **held_out}
    return dict(zip(folders, _scan_all(list(folders.values()), known), strict=True))


def _split_folders(root: str) -> dict[str, str]:
    """Return the folder of each split; without any if `root` holds class folders itself.

    Raises:
        ValueError: If it cannot be told, or there are two folders for one split.
    """
    folders = class_folders(root)
    found = {name: path for name, path in folders.items() if split_of_folder(name)}
    others = {name: path for name, path in folders.items() if name not in found}
    flat = [name for name, path in found.items() if _has_images(path)]
    by_split: dict[str, list[str]] = {}
    for name in found:
        by_split.setdefault(split_of_folder(name) or "", []).append(name)
    if len(flat) == len(found):  # classes, if anything
        if found and (len(by_split) > 1 or not others):
            raise ValueError(
                f"{printable(root)} has {_listing(flat)}, named as splits are, but with images in place of one "
                "sub-folder per class: sort them into such folders or, if these are classes, give them other names"
            )
        return {}
    if flat:
        nested = [name for name in found if name not in flat]
        raise ValueError(
            f"{printable(root)} has {_listing(list(found))}, named as splits are, but {_listing(flat)} with images and "
            f"{_listing(nested)} with sub-folders: give each of them one sub-folder per class, or other names"
        )
    beside = [name for name, path in others.items() if FolderListing(path).below(path)]
    if beside and len(by_split) == 1:
        raise ValueError(
            f"{printable(root)} has {_listing(list(found))}, named as a split is, beside {_listing(beside)}: if these "
            f"are splits, call them one of {KNOWN_SPLITS}; if {_listing(list(found))} is a class, give it another name"
        )
    if beside:
        log(root, f"folders beside the splits {', '.join(found)} left out: {_listing(beside)}")
    for split, names in by_split.items():
        if len(names) > 1:
            raise ValueError(
                f"{printable(root)} has more than one {_FULL[split]} folder ({', '.join(names)}); keep one"
            )
    folders = {split: found[by_split[split][0]] for split in SPLITS if split in by_split}
    if folders.keys() == {"train", "test"}:
        folders["val"] = folders.pop("test")
    return folders


def _scan_all(roots: Sequence[str], known: Collection[str] | None) -> list[FolderIndex]:
    """List the images of folders with the same classes: those that any of them has.

    Raises:
        ValueError: If there is one class alone, unless it is one of `known`; or a folder is empty.
    """
    present = [class_folders(root) for root in roots]
    every = known is None and len(roots) == 1
    indexes = [index_classes(*args, allow_empty=not every) for args in zip(roots, present, strict=True)]
    for root, index in zip(roots, indexes, strict=True):
        if not index.samples:
            raise ValueError(f"there are no images in {printable(root)}; add images or remove it")
    classes = tuple(sorted({name for index in indexes for name in index.classes}))
    if len(classes) < 2 and not (known is not None and len(known) > 1 and classes[0] in known):
        raise ValueError(_one_class_alone(roots[0], classes[0], present[0].get(classes[0], roots[0])))
    for index in indexes:
        _check_depth(index, known)
    return [_with_classes(index, classes) for index in indexes]


def _scan_like(folder: str, train: FolderIndex) -> FolderIndex:
    index = index_classes(folder, class_folders(folder), allow_empty=True)
    if not index.samples:
        raise ValueError(f"there are no images in {printable(folder)}; add images or remove it")
    extra = sorted(set(index.classes) - set(train.classes))
    if extra:
        raise ValueError(
            f"{printable(folder)} has classes that {printable(train.root)} lacks: {_listing(extra)}; "
            "rename or remove them"
        )
    return _with_classes(index, train.classes)


def _with_classes(index: FolderIndex, classes: tuple[str, ...]) -> FolderIndex:
    number = {name: i for i, name in enumerate(classes)}
    samples = tuple((path, number[index.classes[label]]) for path, label in index.samples)
    return index if index.classes == classes else FolderIndex(classes, samples, index.root)


def index_classes(
    root: str, folders: Mapping[str, str], classes: Sequence[str] | None = None, allow_empty: bool = False
) -> FolderIndex:
    """List the images of class folders, and log which files were left out.

    Args:
        root: Where the folders are.
        folders: The folder of each class that has one.
        classes: Class names; labels index them. Those of folders that have images by default.
        allow_empty: Whether folders without images, even all of them, are no mistake.

    Raises:
        ValueError: If a folder has no images and must have some. One that holds nothing but run folders and the like
            need not, and is no class.
    """
    listing = FolderListing(root)
    paths: dict[str, list[str]] = {}
    empty: list[str] = []
    for name, folder in folders.items():
        outputs = len(listing.outputs)
        paths[name] = sorted(listing.below(folder))
        if not paths[name] and len(listing.outputs) == outputs:
            empty.append(name)
    account = "".join(f" ({line})" for line in listing.account())
    where = printable(root)
    if not any(paths.values()) and not allow_empty:
        raise ValueError(
            f"there are no images in the sub-folders of {where} ({_listing(list(paths))}){account}; add images"
        )
    if empty and not allow_empty:
        raise ValueError(
            f"no images in class folder {_listing(empty)} of {where}{account}; add images or remove the folder"
        )
    for path in _loose_images(root):
        listing.leave_out(path, "outside of the class folders")
    listing.log()
    if classes is None:
        classes = [name for name in folders if paths[name]]
    label_of = {name: label for label, name in enumerate(classes)}
    return FolderIndex(tuple(classes), tuple((path, label_of[n]) for n in folders for path in paths[n]), root)


def class_folders(root: str) -> dict[str, str]:
    """Return the sub-folders of `root` by printable name, sorted; at least one.

    Raises:
        FileNotFoundError: If `root` does not exist.
        ValueError: If it is a file or has no sub-folders, or two have the same printable name.
    """
    found = sorted(_sub_folders(root), key=lambda entry: printable(entry.name))
    folders = {printable(entry.name): entry.path for entry in found}
    if len(folders) < len(found):
        raise ValueError(f"{printable(root)} has class folders whose names look the same: {_listing(list(folders))}")
    if folders:
        return folders
    images = len(_loose_images(root))
    if images:
        raise ValueError(
            f"{printable(root)} has no class folders: {images} image(s) lie directly in it; move them to one "
            "sub-folder per class"
        )
    raise ValueError(f"{printable(root)} has no class folders; it must hold one sub-folder of images per class")


def _sub_folders(root: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root) as entries:
            return [entry for entry in entries if not is_ignored(entry.name) and entry.is_dir()]
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no folder {printable(root)}") from None
    except NotADirectoryError:
        raise ValueError(
            f"{printable(root)} is a file; give a folder that holds one sub-folder of images per class"
        ) from None


def _loose_images(root: str) -> list[str]:
    with os.scandir(root) as entries:
        return [entry.path for entry in entries if is_image(entry)]


def _has_images(folder: str) -> bool:
    """Return whether images lie directly in a folder."""
    with os.scandir(folder) as entries:
        return any(is_image(entry) for entry in entries)


def _one_class_alone(root: str, name: str, folder: str) -> str:
    """Return the message, with the folder that was probably meant."""
    text = f"{printable(root)} has one class alone, {name!r}, where a classifier needs two or more"
    inner = {entry.name: entry.path for entry in _sub_folders(folder)}
    while not _has_images(folder) and inner:
        if len(inner) > 1:
            return f"{text}; did you mean {printable(folder)}, which holds {_listing(sorted(map(printable, inner)))}?"
        folder = next(iter(inner.values()))
        inner = {entry.name: entry.path for entry in _sub_folders(folder)}
    return f"{text}: put the images of each class into a sub-folder of their own"


def _check_depth(index: FolderIndex, known: Collection[str] | None) -> None:
    """Say what the classes are if it may be a mistake, because no class folder has images of its own.

    Raises:
        ValueError: If there are splits inside a class folder.
    """
    inside: dict[str, set[str]] = {}
    flat: set[int] = set()
    for path, label in index.samples:
        if label not in flat:
            name, *folders = Path(path[len(index.root) :].lstrip(os.sep)).parts[:-1]
            inside.setdefault(name, set()).update(folders[:1])
            if not folders:
                flat.add(label)
                del inside[name]
    for name, below in inside.items():
        if len(set(map(split_of_folder, below)) - {None}) > 1 and all(map(split_of_folder, below)):
            raise ValueError(
                f"{printable(index.root)} has the splits {_listing(sorted(below))} inside the class folder "
                f"{printable(name)!r}: it must be the other way round, {min(below)}/{printable(name)}"
            )
    if inside and not flat and known is None:
        deeper = sorted({printable(folder) for below in inside.values() for folder in below})
        log(
            index.root,
            f"the classes are {_listing(index.classes)}; if you meant their sub-folders {_listing(deeper)}, give a "
            "folder that holds these",
        )


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
