"""Splits: their customary names, and images held out by groups that belong together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from transnext.data.names import printable

SPLITS = ("train", "val", "test")
NEEDED = ("train", "val")
"""Splits without which there is no training: if one is unusable, so is the data set."""
Read = TypeVar("Read")

_SPLIT_OF = {
    **dict.fromkeys(("train", "training", "trainset", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "valset", "dev", "devset", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "tst", "holdout"), "test"),
}
SPLIT_WORDS = frozenset(_SPLIT_OF)
_BESIDE = frozenset({"image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "data", "dataset"}) | {
    "set",
    "split",
    "folder",
}
_BESIDE_IN_FILES = _BESIDE | {"annotation", "annotations", "label", "labels", "instances", "coco", "lvis", "v"}
KNOWN_SPLITS = "train, training, trn; val, valid, validation, dev, eval; test, testing, holdout"
"""The names that are known, for messages."""


def split_of_word(word: str) -> str | None:
    """Return `train`, `val` or `test` for a word in lower case that stands for it, else None."""
    return _SPLIT_OF.get(word)


def split_of_folder(name: str) -> str | None:
    """Return the split that the name of a folder stands for, None if it stands for none.

    Upper and lower case are the same, and so are `train`, `train_images`, `images-train` and `train2017`.
    """
    return _split_of(name, _BESIDE)


def split_of_file(stem: str) -> str | None:
    """Return the split that the name of an annotation file stands for, None if it stands for none.

    As of folders, and `val_annotations`, `coco_val` and `lvis_v1_val` are `val`, too: folders of such names hold no
    images.
    """
    return _split_of(stem, _BESIDE_IN_FILES)


def split_in(name: str) -> str | None:
    """Return the only split that words of a name stand for, whatever else is in it; None without or with several."""
    roles = {_SPLIT_OF[word] for word in _words(name) if word in _SPLIT_OF}
    return roles.pop() if len(roles) == 1 else None


def add_split(found: dict[str, Path], split: str, place: Path) -> None:
    """Note the file or folder of a split.

    Raises:
        ValueError: There is another one.
    """
    if found.setdefault(split, place) != place:
        raise ValueError(f"{split} is both {printable(found[split])} and {printable(place)}: remove or rename one")


def read_splits(names: Iterable[str], read: Callable[[str], Read], note: Callable[[str], None]) -> dict[str, Read]:
    """Read splits, and leave out those that cannot be read if they are neither `train` nor `val`.

    Args:
        names: Of the splits.
        read: From a name to what the split has.
        note: Takes a line for each that is left out.

    Raises:
        ValueError: `train`, `val` or every split cannot be read.
    """
    splits: dict[str, Read] = {}
    why: list[ValueError] = []
    for name in names:
        try:
            splits[name] = read(name)
        except ValueError as error:
            if name in NEEDED:
                raise
            why.append(error)
            note(f"{name}: {error}")
    if not splits and why:
        raise why[0]
    return splits


def held_out(keys: Sequence[str], val_fraction: float, seed: int, full: Sequence[bool] | None = None) -> list[bool]:
    """Return which images are held out.

    The choice for a group depends only on its key and on `seed`, so that it stays when other images come and go; but
    where there are two groups or more, at least one is in each part, and so it is of those with something in them.

    Args:
        keys: Of each image: its group, or its path if it is by itself.
        val_fraction: Share of the groups that is held out, 0 <= `val_fraction` < 1.
        seed: Another seed gives another choice.
        full: Of each image whether it has anything by which it can be judged; by default all have.
    """
    draws = {key: _uniform(key, seed) for key in keys}
    ordered = sorted(draws.values())
    threshold = 0.0
    if len(ordered) > 1 and val_fraction > 0:
        threshold = min(max(val_fraction, ordered[1]), ordered[-1])
    out = {key: draw < threshold for key, draw in draws.items()}
    if full is not None and threshold:
        useful = sorted({key for key, has in zip(keys, full, strict=True) if has}, key=draws.__getitem__)
        out.update(dict.fromkeys(useful[:1], True))
        out.update(dict.fromkeys(useful[-1:], False))
        if not any(out.values()):
            out[min((key for key in draws if key not in useful), key=draws.__getitem__)] = True
    return [out[key] for key in keys]


def ordered_names(names: Sequence[str]) -> list[str]:
    """Return names of splits in order: `train`, `val`, `test`, then others by name."""
    known = [name for name in SPLITS if name in names]
    return known + sorted(name for name in names if name not in SPLITS)


def _split_of(name: str, beside: frozenset[str]) -> str | None:
    words = _words(name)
    roles = [_SPLIT_OF[word] for word in words if word in _SPLIT_OF]
    return roles[0] if len(roles) == 1 and len(set(words) & beside) == len(words) - 1 else None


def _words(name: str) -> list[str]:
    return re.findall("[a-z]+", name.lower().replace("hold_out", "holdout").replace("hold-out", "holdout"))


def _uniform(key: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on nothing but the arguments, on any machine."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
