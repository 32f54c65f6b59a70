"""The validation set of ImageNet-1K and the sets that came after it, as they are unpacked."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from timm.data import ImageNetInfo

from transnext.data.datasets import FolderImages
from transnext.data.folder import class_folders, index_classes

NUM_CLASSES = 1000
NUM_VAL_IMAGES = 50_000

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "val": ("imagenet/val", "val"),
    "v2": ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"),
    "a": ("imagenet-a",),
    "r": ("imagenet-r",),
    "sketch": ("sketch", "imagenet-sketch"),
    "c": ("imagenet-c",),
}
"""Folders in which each set is looked for, below the root."""
SUBSETS = ("a", "r")
"""Sets of 200 of the classes, scored among those alone."""


@functools.cache
def wnids(subset: str | None = None) -> tuple[str, ...]:
    """WordNet identifiers of the classes, in the order of the classifier's outputs.

    Args:
        subset: "a" or "r" for the 200 classes of ImageNet-A or ImageNet-R; None for all 1000.
    """
    if subset is None:
        return tuple(ImageNetInfo("imagenet-1k").label_names())
    return tuple(_timm_file(f"imagenet_{subset}_synsets.txt").split())


@functools.cache
def subset_indices(subset: str) -> tuple[int, ...]:
    """Places of the classes of `wnids(subset)` among the 1000."""
    place = {wnid: i for i, wnid in enumerate(wnids())}
    return tuple(place[wnid] for wnid in wnids(subset))


def find_folder(root: str | os.PathLike[str], name: str) -> Path | None:
    """The folder of a set below `root`, or None.

    Args:
        root: Where the sets are.
        name: A key of `FOLDERS`.
    """
    return next((path for place in FOLDERS[name] if (path := Path(root) / place).is_dir()), None)


def open_imagenet(folder: str | os.PathLike[str], subset: str | None = None) -> FolderImages:
    """The images of a folder whose sub-folders are classes of ImageNet, any number of them.

    Sub-folders are WordNet identifiers; or all of them numbers 0 to 999, as ImageNet-V2 has them, which are taken as
    numbers: as text, 10 would come before 2.

    Args:
        folder: Holds the class folders.
        subset: "a" or "r": labels are places in `wnids(subset)`, and other classes are mistakes.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: A sub-folder is no class, or there are no images.
    """
    classes = wnids(subset)
    folders = class_folders(os.fspath(folder))
    if all(name.isdecimal() and int(name) < NUM_CLASSES for name in folders):
        present = {wnids()[int(name)]: path for name, path in folders.items()}
    else:
        present = folders
    unknown = [path for wnid, path in present.items() if wnid not in classes]
    if unknown:
        kind = "ImageNet-1K" if subset is None else f"ImageNet-{subset.upper()}"
        raise ValueError(f"{unknown[0]} is the folder of no class of {kind}: remove it")
    index = index_classes(os.fspath(folder), present, classes, allow_empty=True)
    if not index.samples:
        raise ValueError(f"there are no images in the class folders of {folder}")
    return FolderImages(index)


def find_corruptions(folder: str | os.PathLike[str], names: Sequence[str]) -> dict[str, dict[int, Path]]:
    """Folders of ImageNet-C by corruption and severity.

    Args:
        folder: Holds `<corruption>/<severity>`, also one level deeper (`noise/gaussian_noise/1`).
        names: Corruptions to look for.

    Returns:
        Those that are there, in the order of `names`, with the severities that are there.
    """
    found: dict[str, dict[int, Path]] = {}
    for name in names:
        place = next((p for p in (Path(folder) / name, *sorted(Path(folder).glob(f"*/{name}"))) if p.is_dir()), None)
        severities = {s: place / str(s) for s in range(1, 6) if (place / str(s)).is_dir()} if place else {}
        if severities:
            found[name] = severities
    return found


def real_labels(file: str | os.PathLike[str] | None = None) -> dict[str, list[int]]:
    """The labels of "Are we done with ImageNet?" (Beyer et al. 2020) by file name; images may have several or none.

    Args:
        file: `real.json` as published; the copy in timm if None.

    Raises:
        ValueError: The file is something else.
    """
    text = _timm_file("imagenet_real_labels.json") if file is None else Path(file).read_text(encoding="utf-8")
    try:
        labels = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(labels, list) or len(labels) != NUM_VAL_IMAGES:
        raise ValueError(f"{file} is not the real.json of ImageNet: expected a list of {NUM_VAL_IMAGES:,} lists")
    return {f"ILSVRC2012_val_{i:08d}": label for i, label in enumerate(labels, start=1)}


def _timm_file(name: str) -> str:
    return (resources.files("timm.data") / "_info" / name).read_text(encoding="utf-8")
