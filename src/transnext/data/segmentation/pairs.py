"""Pictures and the label files that belong to them, in folders of the customary names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transnext.data.image_files import FolderListing, is_ignored, is_image
from transnext.data.names import printable
from transnext.data.segmentation.cityscapes import cityscapes_table
from transnext.data.segmentation.findings import Findings
from transnext.data.segmentation.table import ClassTable
from transnext.data.splits import add_split, split_of_folder

IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img", "jpegimages", "photos", "pictures"})
LABEL_FOLDERS = frozenset(
    {
        "labels", "label", "masks", "mask", "annotations", "annotation", "annots", "annot", "semantic", "segmentation",
        "segmentations", "seg", "segs", "gt", "groundtruth", "ground_truth", "labelmaps", "segmentationclass",
        "semantic_labels", "label_maps", "semantic_masks",
    }
)  # fmt: skip
_LABEL_END = re.compile(r"(?i)[_.\-](masks?|labels?|labelids|labeltrainids|seg|segmentation|semantic|gt|annotation|l)$")
_IMAGE_END = re.compile(r"(?i)[_.\-](image|img|sat|rgb|photo|leftimg8bit)$")


@dataclass(frozen=True)
class Paired:
    """Pictures with label files.

    Attributes:
        format: What a user calls the layout.
        pairs: Picture and label file, of each split.
        table: What label files mean, where the layout says it.
        reduce_zero_label: The layout says that 0 is no class.
    """

    format: str
    pairs: Mapping[str, list[tuple[str, str]]]
    table: ClassTable | None = None
    reduce_zero_label: bool | None = None


def find_cityscapes(root: Path, findings: Findings) -> Paired | None:
    """Return the pairs of Cityscapes' folders, None if these are others."""
    images = root / "leftImg8bit"
    folder = next((root / name for name in ("gtFine", "gtCoarse") if (root / name).is_dir()), None)
    if not images.is_dir() or folder is None:
        return None
    endings = [f"_{folder.name}_{kind}.png" for kind in ("labelTrainIds", "labelIds")]
    splits = _splits_of(images, folder)
    files = {split: listed(below) for split, (_, below) in splits.items()}
    train_ids = all(any(path.endswith(endings[0]) for path in paths) for paths in files.values())
    ending = endings[0] if train_ids else endings[1]
    pairs = {}
    for split, (pictures, labels) in splits.items():
        shown = by_key(listed(pictures), pictures, findings)
        pairs[split] = _paired(
            {key.removesuffix("_leftImg8bit"): path for key, path in shown.items()},
            {key_of(path, labels) + ".png": path for path in files[split] if path.endswith(ending)},
            findings,
            ending=ending,
        )
        if not pairs[split]:
            findings.add("split_unlabelled", split)
    return Paired("Cityscapes", {s: found for s, found in pairs.items() if found}, cityscapes_table(train_ids))


def find_folders(root: Path, findings: Findings) -> Paired | None:
    """Return the pairs of folders of pictures and of label files, None if there are none.

    Known are `images/<split>` with `labels/<split>`, `<split>/images` with `<split>/labels`, `<split>` with
    `labels/<split>`, `<split>` with `<split>_labels`, `images` or the folder itself with `labels`, and pictures beside
    files with the same name and `_mask`.

    Raises:
        ValueError: There are two folders of label files, or of the same split.
    """
    splits = _found_splits(root)
    pairs: dict[str, list[tuple[str, str]]] = {}
    for split, (pictures, labels) in splits.items():
        files = listed(labels) if labels.is_dir() else []
        if not files:
            findings.add("split_unlabelled", split)
            continue
        recursive = pictures != root and not labels.is_relative_to(pictures)
        shown = listed(pictures) if recursive else _listed_flat(pictures)
        if pictures == labels:
            files = [path for path in shown if _is_mask(path)]
            shown = [path for path in shown if not _is_mask(path)]
        keyed = by_key(shown, pictures, findings), by_key(files, labels, findings)
        pairs[split] = _paired(*keyed, findings, shorten=(_IMAGE_END, _LABEL_END))
    if not any(pairs.values()):
        return None
    first = next(path for found in pairs.values() for path, _ in found)
    ade = os.path.basename(first).startswith("ADE_")  # noqa: PTH119
    return Paired("ADE20K" if ade else "image and label folders", pairs, reduce_zero_label=True if ade else None)


def _found_splits(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of pictures and of label files of each split."""
    labels = _only(root, LABEL_FOLDERS)
    images = _only(root, IMAGE_FOLDERS)
    if labels is not None:
        if images is not None:
            return _splits_of(images, labels) or {"train": (images, labels)}
        splits = {name: pair for name, pair in _splits_of(root, labels).items() if pair[0] != labels}
        return splits or {"train": (root, labels)}
    splits = {}
    taken: dict[str, Path] = {}
    for folder in _folders(root):
        split = split_of_folder(folder.name)
        if split is None:
            continue
        own = _only(folder, LABEL_FOLDERS)
        if own is not None:
            add_split(taken, split, folder)
            splits[split] = (_only(folder, IMAGE_FOLDERS) or folder, own)
            continue
        beside = [
            other
            for other in _folders(root)
            if other.name.lower().startswith(folder.name.lower())
            and other.name.lower()[len(folder.name) :].lstrip("_-. ") in LABEL_FOLDERS
        ]
        if len(beside) == 1:
            add_split(taken, split, folder)
            splits[split] = (folder, beside[0])
        elif not beside and any(map(_is_mask, _listed_flat(folder))):
            add_split(taken, split, folder)
            splits[split] = (folder, folder)
    if not splits and any(map(_is_mask, _listed_flat(root))):
        splits["train"] = (root, root)
    return splits


def _splits_of(images: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    """The sub-folders of both that are splits; none if none of them has a customary name.

    Raises:
        ValueError: Two are of the same split.
    """
    below = {folder.name.lower(): folder for folder in _folders(labels)}
    by_split = {split_of_folder(folder.name): folder for folder in reversed(_folders(labels))}
    found: dict[str, tuple[Path, Path]] = {}
    taken: dict[str, Path] = {}
    for folder in _folders(images):
        split = split_of_folder(folder.name)
        other = below.get(folder.name.lower()) or (by_split.get(split) if split else None)
        if split is not None:
            add_split(taken, split, folder)
            found[split] = (folder, other or labels / folder.name)
        elif other is not None:
            found[printable(folder.name)] = (folder, other)
    known = any(split_of_folder(folder.name) and other.is_dir() for folder, other in found.values())
    return found if known else {}


def _only(root: Path, names: frozenset[str]) -> Path | None:
    """The folder of one of some names that has pictures in it."""
    found = [folder for folder in _folders(root) if folder.name.lower() in names and _has_images(folder)]
    if len(found) > 1:
        names_found = " and ".join(printable(folder.name) for folder in found)
        raise ValueError(f"{printable(root)} has {names_found}: remove or rename one, so that it is clear which counts")
    return found[0] if found else None


def _has_images(folder: Path) -> bool:
    listing = FolderListing(str(folder))
    return bool(listing.below(str(folder), given=True))


def _paired(
    images: Mapping[str, str],
    labels: Mapping[str, str],
    findings: Findings,
    *,
    ending: str = "",
    shorten: tuple[re.Pattern[str], re.Pattern[str]] | None = None,
) -> list[tuple[str, str]]:
    """Pairs by key, in the order of the pictures.

    Args:
        images: Pictures by key.
        labels: Label files by key.
        findings: Notes what has no partner.
        ending: What a label's key has beyond that of its picture.
        shorten: Endings of pictures and of label files that count for nothing where keys are not the same.
    """
    short: dict[str, list[str]] = {}
    if shorten is not None:
        for key in labels:
            short.setdefault(shorten[1].sub("", key), []).append(key)
    pairs, used = [], set()
    for key, path in images.items():
        names = [key] if shorten is None else [key, shorten[0].sub("", key)]
        found = [name + ending for name in names if name + ending in labels][:1]
        found = found or next((short[name] for name in names if name in short), [])
        if len(found) > 1:
            findings.add("labels_two", f"{printable(path)}: {', '.join(sorted(printable(n) for n in found))}")
            used.update(found)
        elif not found:
            findings.add("label_missing", printable(path))
        else:
            pairs.append((path, labels[found[0]]))
            used.update(found)
    findings.add_all("image_missing", [path for key, path in labels.items() if key not in used], printable)
    return pairs


def by_key(paths: list[str], folder: Path, findings: Findings) -> dict[str, str]:
    """Files by their path from a folder without extension; of two that differ in that alone the first."""
    found: dict[str, str] = {}
    for path in paths:
        if found.setdefault(key_of(path, folder), path) != path:
            findings.add("name_twice", printable(path))
    return found


def _is_mask(path: str) -> bool:
    return os.path.splitext(path)[0].lower().endswith("_mask")  # noqa: PTH122


def key_of(path: str, folder: Path) -> str:
    """The path of a file from a folder, without extension."""
    return os.path.splitext(os.path.relpath(path, folder))[0]  # noqa: PTH122 - per image


def listed(folder: Path) -> list[str]:
    """The images in a folder and below, sorted."""
    return sorted(FolderListing(str(folder)).below(str(folder), given=True))


def _listed_flat(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if is_image(entry))


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not is_ignored(path.name))
