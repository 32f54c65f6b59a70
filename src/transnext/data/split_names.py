"""Customary names of splits."""

import re

SPLITS = ("train", "val", "test")

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
KNOWN_SPLITS = "train, training, trn; val, valid, validation, dev, eval; test, testing, holdout"
"""The names that are known, for messages."""


def split_of_word(word: str) -> str | None:
    """Return `train`, `val` or `test` for a word in lower case that stands for it, else None."""
    return _SPLIT_OF.get(word)


def split_of_folder(name: str) -> str | None:
    """Return the split that the name of a folder stands for, None if it stands for none.

    Upper and lower case are the same, and so are `train`, `train_images`, `images-train` and `train2017`.
    """
    words = re.findall("[a-z]+", name.lower().replace("hold_out", "holdout").replace("hold-out", "holdout"))
    roles = [_SPLIT_OF[word] for word in words if word in _SPLIT_OF]
    return roles[0] if len(roles) == 1 and len(set(words) & _BESIDE) == len(words) - 1 else None
