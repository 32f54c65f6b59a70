"""Meaning of the labels in shards."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transnext.data.names import printable
from transnext.data.shards.files import ShardError, fetch_if_there

_CLASS_FILE = "classes.txt"
_INFO_FILE = "dataset_info.json"
_LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")


class ClassList:
    """Class names, and which of them a label means.

    Args:
        names: In order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._number_of = {name: number for number, name in enumerate(names)}

    @classmethod
    def of_labels(cls, labels: Iterable[npt.NDArray[np.str_]]) -> ClassList:
        """Return the classes that occur: all numbers up to the largest one, or all names, sorted."""
        found = set().union(*(np.unique(some).tolist() for some in labels)) - {""}
        numbers = [int(label) for label in found if _is_number(label)]
        return cls([str(i) for i in range(max(numbers) + 1)] if len(numbers) == len(found) != 0 else sorted(found))

    def number(self, label: str) -> int:
        """Return the number of a class, which `label` is itself if it consists of digits.

        Raises:
            ValueError: If there is no such class.
        """
        number = int(label) if _is_number(label) else self._number_of.get(label, len(self.names))
        if number >= len(self.names):
            there = f"are {len(self.names)} classes" if _is_number(label) else "is no such class"
            raise ValueError(f"label {label!r}, but there {there}")
        return number


def names_beside(url: str) -> list[str] | None:
    """Return the class names that a file beside a shard, or one folder above it, lists; None if there is none.

    Raises:
        ShardError: If the file is not as it should be.
    """
    folder = posixpath.dirname(url)
    for place in (folder, posixpath.dirname(folder)):
        listed = posixpath.join(place, _CLASS_FILE)
        if (text := fetch_if_there(listed)) is not None:
            names = [
                printable(line.strip())
                for line in text.decode("utf-8-sig", "backslashreplace").splitlines()
                if line.strip()
            ]
            if len(set(names)) != len(names) or not names:
                raise ShardError(f"{listed} must have one class name on each line, none of them twice")
            return names
        info = posixpath.join(place, _INFO_FILE)
        if (text := fetch_if_there(info)) is not None:
            try:
                names_of = class_features(json.loads(text)["features"])
            except (ValueError, KeyError, TypeError):
                raise ShardError(f"{info} is not the description of a Hugging Face data set") from None
            if names_of:
                return names_of[label_column(list(names_of)) or next(iter(names_of))]
    return None


def class_features(features: dict[str, Any]) -> dict[str, list[str]]:
    """Return the class names of each column of classes in the features of a Hugging Face data set."""
    return {
        column: feature["names"]
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def label_column(columns: Sequence[str]) -> str | None:
    """Return the column that has a usual name for labels, None if there is none."""
    return next((name for name in _LABEL_COLUMNS if name in columns), None)


def clean_label(label: str) -> str:
    """Return a label without spaces around it, printable; a number without leading zeros, empty if below zero."""
    label = printable(label.strip())
    if not re.fullmatch("[+-]?[0-9]+", label):
        return label
    return str(int(label)) if int(label) >= 0 else ""


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit()
