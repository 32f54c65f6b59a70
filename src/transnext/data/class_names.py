"""Classes of data and of a model, matched by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def matched_names(own: Sequence[str], classes: Sequence[str]) -> dict[int, int]:
    """Return the place in the classes of a model for the places of those of data, whether in upper or lower case.

    Args:
        own: Names in the data.
        classes: Names in the model.

    Raises:
        ValueError: No class of the data is one of the model's.
    """
    taken = places_by_name(own, classes)
    if not taken:
        raise ValueError(f"none of the classes of the data ({listing(own)}) is one of the model's ({listing(classes)})")
    return taken


def named_places(taken: Mapping[int, int], named: Sequence[int] | None) -> tuple[int, ...]:
    """Return the places of the classes of a model that data name, rising.

    Args:
        taken: See `matched_names`.
        named: Places of the classes of the data that these name themselves; all if None.
    """
    return tuple(sorted(new for old, new in taken.items() if named is None or old in named))


def not_named(classes: Sequence[str], named: Collection[int] | None) -> list[str]:
    """Return the note that data do not name some classes of a model, if it is so.

    Args:
        classes: Names in the model.
        named: Places of those that the data name; all if None.
    """
    absent = [] if named is None else [name for place, name in enumerate(classes) if place not in named]
    if not absent:
        return []
    return [f"the data do not name {listing(absent)}: whether such answers are right is not known, they do not count"]


def kept_places(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Return the place among old classes for the places of those of new ones that were there, as names match elsewhere.

    Args:
        old: Names that a model knows; of equal ones the first counts. Each is taken once, first by the very name.
        new: Names that it is to know.
    """
    return dict(sorted(places_by_name(new, old).items()))


def places_by_name(own: Sequence[str], classes: Sequence[str]) -> dict[int, int]:
    """Return the places among classes by the places of own ones of the same name, whether in upper or lower case.

    Each is taken once, by those of exactly that name first; classes that are not there have none.

    Args:
        own: Names.
        classes: Names; of equal ones the first counts.
    """
    place = {name: i for i, name in reversed(list(enumerate(classes)))}
    by_folded = {folded(name): i for name, i in place.items()}
    taken: dict[int, int] = {}
    for one in sorted(range(len(own)), key=lambda i: own[i] not in place):
        of_class = place.get(own[one], by_folded.get(folded(own[one])))
        if of_class is not None and of_class not in taken.values():
            taken[one] = of_class
    return taken


def listing(names: Sequence[str]) -> str:
    """Return a text of the first names and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def folded(name: str) -> str:
    """Return a name as names are compared: without case, underscores or repeated spaces."""
    return " ".join(name.casefold().replace("_", " ").split())
