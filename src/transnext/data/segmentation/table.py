"""From what the pixels of label files hold to classes: values, palettes and colours, and what is ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

IGNORED = 255
"""Value of the pixels of a map that are neither trained on nor judged."""
MAX_CLASSES = 255
"""Classes that a map of bytes can tell apart, beside what is ignored."""
MAX_VALUES = 4096
"""A file with more values or colours than this is no map of classes."""
Colour = tuple[int, int, int]
_WEIGHTS = np.array([1 << 16, 1 << 8, 1], np.int32)
_GREYS = np.arange(256, dtype=np.int32) * 0x010101


class Stored(NamedTuple):
    """Pixels of a label file.

    Attributes:
        codes: int32 `[H, W]`: values, or colours as `red << 16 | green << 8 | blue`.
        are_colours: They are colours.
        palette: The colour of each value, as colours are in `codes`, int32 `[256]`: of a palette, or greys.
        in_rgb: The file has three channels or more, and may hold values because they are equal.
    """

    codes: npt.NDArray[np.int32]
    are_colours: bool
    palette: npt.NDArray[np.int32]
    in_rgb: bool = False

    def shown(self, values: npt.NDArray[np.integer]) -> npt.NDArray[np.int32] | None:
        """The colours that values show as; None if one has none."""
        in_range = len(values) == 0 or (int(values.min()) >= 0 and int(values.max()) < len(self.palette))
        return self.palette[values] if in_range else None


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """What label files mean. Cheap to pickle.

    Attributes:
        names: Of the classes.
        values: The class of each value that has one.
        ignored: Values that are neither trained on nor judged.
        colours: The class of each colour, as in `Stored`, `IGNORED` for those that are ignored.
        display: A colour of each class, RGB, 0..255; None if none is given.
        reduce_zero_label: 0 stands for nothing, and 1 is the first class.
        by_palette: Files of values with a palette, or grey ones, mean the colours that they show.
        grey_colours: Files of three equal channels mean colours.
    """

    names: tuple[str, ...]
    values: Mapping[int, int]
    ignored: frozenset[int] = frozenset({IGNORED})
    colours: Mapping[int, int] = field(default_factory=dict)
    display: tuple[Colour, ...] | None = None
    reduce_zero_label: bool = False
    by_palette: bool = False
    grey_colours: bool = False

    @property
    def convention(self) -> str:
        """What 0 and ignored values mean, in words."""
        if self.colours and (not self.values or (self.by_palette and self.grey_colours)):
            return "a colour is a class"
        if self.reduce_zero_label:
            zero = f"0 is ignored and 1 is {self.names[0]} (reduce_zero_label)"
        elif 0 in self.values:
            zero = f"0 is {self.names[self.values[0]]!r}"
        else:
            zero = "0 is ignored" if 0 in self.ignored else "0 is not declared"
        others = ", ".join(str(value) for value in sorted(self.ignored) if value)
        return f"{zero}; ignored: {others}" if others else zero

    @property
    def names_alone(self) -> bool:
        """Values follow from the order of the names."""
        counted = list(range(len(self.names)))
        return not self.colours and any(dict(self.values) == {i + n: i for i in counted} for n in (0, 1))

    def mean_colours(self, in_rgb: bool) -> bool:
        """Files that are in no colour, of three channels or of one, mean the colours that they show."""
        return self.grey_colours if in_rgb else self.by_palette

    def labels(self, codes: npt.NDArray[np.integer], colours: bool) -> npt.NDArray[np.int64]:
        """The class of each code, `IGNORED` for those that are ignored, -1 for those that nothing declares."""
        known = self.colours if colours else self.values
        ignored = frozenset() if colours else self.ignored
        return np.array([known.get(c, IGNORED if c in ignored else -1) for c in codes.tolist()], np.int64)

    def read(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The map of a label file, uint8 `[H, W]` as stored; what nothing declares is `IGNORED`.

        Raises:
            ValueError: The file is no map.
        """
        if image.mode in ("L", "P"):  # most label files: 256 values need no counting
            codes = _palette_of(image) if self.by_palette else np.arange(256)
            of_value = self.labels(codes, self.by_palette)
            return np.asarray(np.where(of_value < 0, IGNORED, of_value).astype(np.uint8)[np.asarray(image)])
        stored = stored_pixels(image)
        used, _ = code_counts(stored)
        shown = stored.shown(used) if self.mean_colours(stored.in_rgb) and not stored.are_colours else None
        labels = self.labels(used, stored.are_colours) if shown is None else self.labels(shown, True)
        labels = np.where(labels < 0, IGNORED, labels).astype(np.uint8)
        if len(used) and used[-1] < 2**16 and used[0] >= 0:
            lookup = np.full(int(used[-1]) + 1, IGNORED, np.uint8)
            lookup[used] = labels
            return np.asarray(lookup[stored.codes])
        return np.asarray(labels[np.searchsorted(used, stored.codes)])


def value_table(
    names: Sequence[str],
    *,
    reduce_zero_label: bool = False,
    values: Sequence[int] | None = None,
    ignored: Iterable[int] = (),
    display: Sequence[Colour] | None = None,
) -> ClassTable:
    """The table of files that hold values.

    Args:
        names: Of the classes.
        reduce_zero_label: 0 stands for nothing, and 1 is the first class.
        values: Of each class; by default 0, 1, 2, ..., or from 1 with `reduce_zero_label`.
        ignored: Values that are ignored beside 255 and, with `reduce_zero_label`, 0.
        display: A colour of each class.

    Raises:
        ValueError: There are no or too many classes, or two have one value.
    """
    if not 0 < len(names) <= MAX_CLASSES:
        raise ValueError(f"there are {len(names)} classes: expected 1 to {MAX_CLASSES}")
    first = 1 if reduce_zero_label else 0
    given = list(range(first, first + len(names))) if values is None else list(values)
    known = {value: label for label, value in enumerate(given)}
    if len(known) < len(names):
        twice = next(value for value in given if given.count(value) > 1)
        raise ValueError(f"two classes have the value {twice}")
    nothing = {IGNORED, *ignored, *({0} if reduce_zero_label else ())} - known.keys()
    return ClassTable(
        names=tuple(names),
        values=known,
        ignored=frozenset(nothing),
        display=None if display is None else tuple(display),
        reduce_zero_label=reduce_zero_label,
    )


def packed(colour: Sequence[int]) -> int:
    """A colour as one number, as in `Stored`."""
    return int(colour[0]) << 16 | int(colour[1]) << 8 | int(colour[2])


def stored_pixels(image: Image.Image) -> Stored:
    """The pixels of a label file.

    Grey pictures of three equal channels hold values, and so do transparent ones, whatever is transparent.

    Raises:
        ValueError: They are neither whole numbers nor colours.
    """
    if image.mode == "1":
        return Stored(np.asarray(image).astype(np.int32), False, _GREYS)
    if image.mode == "P":
        return Stored(np.asarray(image).astype(np.int32), False, _palette_of(image))
    if image.mode in ("LA", "La"):
        return Stored(np.asarray(image.convert("LA"))[..., 0].astype(np.int32), False, _GREYS)
    if image.mode == "F":
        numbers = np.asarray(image)
        if not (np.isfinite(numbers).all() and (numbers == np.round(numbers)).all() and np.abs(numbers).max() < 2**31):
            raise ValueError("its values are not whole numbers")
        return Stored(numbers.astype(np.int32), False, _GREYS)
    if image.mode == "L" or image.mode.startswith("I"):
        return Stored(np.asarray(image).astype(np.int32), False, _GREYS)
    rgb = np.asarray(image.convert("RGB"))
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all():
        return Stored(rgb[..., 0].astype(np.int32), False, _GREYS, True)
    return Stored(rgb.astype(np.int32) @ _WEIGHTS, True, _GREYS, True)


def _palette_of(image: Image.Image) -> npt.NDArray[np.int32]:
    """The colour of each value of a file in mode `L` or `P`, as in `Stored`."""
    if image.mode == "L":
        return _GREYS
    palette = np.zeros((256, 3), np.int32)
    entries = np.array(image.getpalette() or [], np.int32).reshape(-1, 3)[:256]
    palette[: len(entries)] = entries
    return palette @ _WEIGHTS


def code_counts(stored: Stored) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The codes of a file, rising, and how many pixels have each.

    Raises:
        ValueError: There are too many for a map of classes.
    """
    codes = stored.codes
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    if low >= 0 and high < 2**24:
        counts = np.bincount(codes.reshape(-1), minlength=1)
        used = np.flatnonzero(counts)
        counts = counts[used]
    else:
        used, counts = np.unique(codes, return_counts=True)
    if len(used) > MAX_VALUES:
        raise ValueError(f"it has {len(used):,} different {'colours' if stored.are_colours else 'values'}")
    return used.astype(np.int64), counts.astype(np.int64)
