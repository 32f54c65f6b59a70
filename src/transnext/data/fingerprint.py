"""Fingerprint of a data set, by which a run that goes on can tell whether it is still the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from transnext.data.datasets import FolderImages
from transnext.data.decoded import CachedImages
from transnext.data.detection.source import DetectionSource
from transnext.data.names import printable
from transnext.data.sample import Source
from transnext.data.segmentation.source import MapSource
from transnext.data.shards import ShardedImages

MAX_NAMES = 10_000
"""Data sets of more images keep no names, lest every checkpoint holds megabytes of them."""
_SHOWN = 3


@dataclass(frozen=True)
class SplitFingerprint:
    """The images of a split.

    Attributes:
        counts: Images of each class that has some, or, where labels are inside shards, of each shard.
        digest: Hash of all names and classes in order, 32 hexadecimal digits.
        names: The names, printable; None if they are too many or, in shards, not known without reading all of them.
        objects: Objects of each class, where targets are objects; `counts` is then of images alone.
    """

    counts: Mapping[str, int]
    digest: str
    names: tuple[str, ...] | None = None
    objects: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DataFingerprint:
    """Names, classes and number of the images of a data set; not the pixels.

    It is the same wherever the data lie, however their path is written, and on every file system. Of shards it holds
    the name, size and number of images of each file.

    Attributes:
        classes: Class names, in order.
        splits: By name.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, SplitFingerprint]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataFingerprint:
        """From what `to_dict` gave, lists for tuples allowed."""
        splits = {
            name: SplitFingerprint(
                dict(split["counts"]),
                split["digest"],
                None if split["names"] is None else tuple(split["names"]),
                dict(split.get("objects", {})),
            )
            for name, split in values["splits"].items()
        }
        return cls(tuple(values["classes"]), splits)

    def difference(self, new: DataFingerprint) -> str:
        """Return in one line what has changed from this one to `new`; empty if nothing has."""
        if self == new:
            return ""
        changes = [*_classes_changed(self.classes, new.classes)]
        for split in dict.fromkeys([*self.splits, *new.splits]):
            before, after = self.splits.get(split), new.splits.get(split)
            if before is None or after is None:
                changes.append(f"there is {'no' if after is None else 'now a'} split {split}")
            elif before.digest != after.digest or before.counts != after.counts:
                changes.append(f"{split} has {_images_changed(before, after)}")
        return "; ".join(changes)


def fingerprint(splits: Mapping[str, Source]) -> DataFingerprint:
    """Return the fingerprint of a data set, as `open_dataset` gives it; a few seconds for a million images.

    Args:
        splits: At least one; all have the same classes.
    """
    splits = {name: source.source if isinstance(source, CachedImages) else source for name, source in splits.items()}
    keep_names = sum(map(len, splits.values())) <= MAX_NAMES
    classes = tuple(getattr(next(iter(splits.values())), "classes", ()))
    return DataFingerprint(classes, {name: _split(source, keep_names) for name, source in splits.items()})


def _split(source: Any, keep_names: bool) -> SplitFingerprint:
    if isinstance(source, ShardedImages):
        files = source.contents()
        counts: Counter[str] = Counter()
        for file in files:
            counts[printable(file.name)] += file.images
        return SplitFingerprint(dict(counts), _digest([repr(file) for file in files], b""))
    names = list(_names(source))
    if isinstance(source, DetectionSource):
        return SplitFingerprint(
            {"images": len(names)},
            _digest(names, source.annotation_bytes()),
            tuple(map(printable, names)) if keep_names else None,
            source.object_counts(),
        )
    if isinstance(source, MapSource):
        return SplitFingerprint(
            {"images": len(names)},
            _digest(names, source.annotation_bytes()),
            tuple(map(printable, names)) if keep_names else None,
        )
    if not hasattr(source, "classes"):
        return SplitFingerprint(
            {"images": len(names)}, _digest(names, b""), tuple(map(printable, names)) if keep_names else None
        )
    labels = np.fromiter((source.target(i) for i in range(len(source))), np.int32, len(source))
    classes, images = np.unique(labels, return_counts=True)
    return SplitFingerprint(
        {source.classes[c]: n for c, n in zip(classes.tolist(), images.tolist(), strict=True)},
        _digest(names, labels.astype("<i4").tobytes()),
        tuple(map(printable, names)) if keep_names else None,
    )


def _names(source: Source) -> Iterator[str]:
    return (
        source.names_below()
        if isinstance(source, (FolderImages, DetectionSource, MapSource))
        else map(source.name, range(len(source)))
    )


def _digest(names: Sequence[str], more: bytes) -> str:
    names_hash = hashlib.blake2b("\0".join(names).encode("utf-8", "surrogateescape"), digest_size=16)
    return hashlib.blake2b(names_hash.digest() + more, digest_size=16).hexdigest()


def _classes_changed(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    if removed := sorted(set(before) - set(after)):
        yield f"there is no class {_listing(removed)}"
    if added := sorted(set(after) - set(before)):
        yield f"there is a new class {_listing(added)}"
    if not removed and not added and before != after:
        yield "the classes come in another order"


def _images_changed(before: SplitFingerprint, after: SplitFingerprint) -> str:
    old, new = sum(before.counts.values()), sum(after.counts.values())
    text = f"{new} images instead of {old}" if old != new else f"{new} images as before"
    changed = _counts_changed(before.counts, after.counts)
    if changed and not after.objects:
        text += f" ({_listing(changed)})"
    objects = _counts_changed(before.objects, after.objects)
    if objects:
        text += f" with other numbers of objects ({_listing(objects)})"
    removed: list[str] = []
    added: list[str] = []
    if before.names is not None and after.names is not None:
        removed, added = _without(before.names, after.names), _without(after.names, before.names)
    if removed:
        text += f", without {_listing(removed)}"
    if added:
        text += f", with the new {_listing(added)}"
    if changed or objects or removed or added:
        return text
    annotated = after.objects and before.names is not None and before.names == after.names
    return f"{text}, but {'annotated in another way' if annotated else 'not the same ones'}"


def _counts_changed(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    counts = {g: (before.get(g, 0), after.get(g, 0)) for g in dict.fromkeys([*before, *after])}
    return [f"{group} {b} instead of {a}" for group, (a, b) in counts.items() if a != b]


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    known = set(others)
    return [name for name in names if name not in known]


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
