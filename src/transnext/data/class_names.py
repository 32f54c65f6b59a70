"""Classes of data and of a model, matched by name."""

from __future__ import annotations

from collections.abc import Sequence


def matched_names(own: Sequence[str], classes: Sequence[str]) -> dict[int, int]:
    """Return the place in the classes of a model for the places of those of data, whether in upper or lower case.

    Args:
        own: Names in the data.
        classes: Names in the model.

    Raises:
        ValueError: No class of the data is one of the model's.
    """
    place = {name: i for i, name in reversed(list(enumerate(classes)))}
    folded = {_folded(name): i for name, i in place.items()}
    taken: dict[int, int] = {}
    for old in sorted(range(len(own)), key=lambda i: own[i] not in place):  # exact ones first
        new = place.get(own[old], folded.get(_folded(own[old])))
        if new is not None and new not in taken.values():
            taken[old] = new
    if not taken:
        raise ValueError(f"none of the classes of the data ({listing(own)}) is one of the model's ({listing(classes)})")
    return taken


def kept_places(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Return the place among old classes for the places of those of new ones that were there, as names match elsewhere.

    Args:
        old: Names that a model knows; of equal ones the first counts.
        new: Names that it is to know.
    """
    place = {_folded(name): i for i, name in reversed(list(enumerate(old)))}
    return {i: place[_folded(name)] for i, name in enumerate(new) if _folded(name) in place}


def listing(names: Sequence[str]) -> str:
    """Return a text of the first names and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _folded(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())
