"""Outlines as compressed run lengths: checked, made from polygons, turned, and many of them in little memory.

pycocotools reads run lengths without looking: wrong ones make it read or write beyond its memory. So nothing gets there
that was not checked here. Polygons become run lengths when a data set is opened, by the same code as in every COCO
evaluation, without rounding corners: 30 us each, a twentieth of what decoding a mask takes once, in as many bytes as
their corners would need, and one kind of outline is all that the rest has to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transnext.data.mask_parts import Part, decoded, run_lengths

_CHUNK = 4096
_MAX_DIGITS = 6  # of 5 bits each: pycocotools shifts a 32-bit integer, and no picture has more than 2**29 pixels
_MOST_AT_ONCE = 255  # masks of which pycocotools 2.0.11 gives the areas together; with more it fails
_FAR = 4
"""Corners farther from the picture than this many of its sides are refused: rasterising them would take for ever."""


class RunLengths(NamedTuple):
    """A mask as it is written in a file.

    Attributes:
        size: `(H, W)`.
        counts: Compressed, as pycocotools has them. Not yet checked.
    """

    size: tuple[int, int]
    counts: bytes


def parsed(value: Any) -> list[npt.NDArray[np.float64]] | RunLengths | None:
    """An outline as COCO JSON has it: polygons, or run lengths, compressed or not; None without corners.

    Raises:
        ValueError: It is neither.
    """
    if value is None or value == [] or value == {}:
        return None
    if isinstance(value, dict):
        return _run_lengths(value)
    if not isinstance(value, list):
        raise ValueError("neither polygons nor run lengths")
    parts = value if isinstance(value[0], list) else [value]
    polygons = [_polygon(part) for part in parts]
    if not any(map(len, polygons)):
        return None
    areal = [polygon for polygon in polygons if len(polygon) >= 6]  # a point or a line beside them has no area
    if not areal:
        raise ValueError("no polygon has three or more corners")
    return areal


def _polygon(values: Any) -> npt.NDArray[np.float64]:
    if not isinstance(values, list):
        raise ValueError("a polygon is not a list of numbers")
    try:
        corners = np.array(values)
    except (ValueError, OverflowError):
        raise ValueError("a polygon is not a list of numbers") from None
    if corners.size == 0:
        return np.zeros(0)
    if corners.ndim != 1 or corners.dtype.kind not in "iuf":
        raise ValueError("a polygon is not a list of numbers")
    if len(corners) % 2:
        raise ValueError(f"a polygon has {len(corners)} numbers, where x and y come in pairs")
    return corners.astype(np.float64)


def _run_lengths(value: dict[Any, Any]) -> RunLengths:
    size, counts = value.get("size"), value.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side < 2**31 for side in size)):
        raise ValueError("the size of a mask is not two positive whole numbers")
    shape = (size[0], size[1])
    if isinstance(counts, str):
        try:
            return RunLengths(shape, counts.encode("ascii"))
        except UnicodeEncodeError:
            raise ValueError("run lengths are no ASCII") from None
    if not isinstance(counts, list):
        raise ValueError("there are no run lengths")
    return RunLengths(shape, compressed(counts))


def compressed(counts: Sequence[Any]) -> bytes:
    """Compresses run lengths.

    Raises:
        ValueError: They are not all whole numbers from 0 to 2**31.
    """
    if not all(type(count) is int and 0 <= count < 2**31 for count in counts):
        raise ValueError("run lengths are not whole numbers of at least 0")
    out = bytearray()
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            digit, value = value & 0x1F, value >> 5
            last = value == (-1 if digit & 0x10 else 0)
            out.append(48 + (digit if last else digit | 0x20))
            if last:
                break
    return bytes(out)


def checked_areas(counts: Sequence[bytes], pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pixels inside of each mask of a file; -1 where compressed run lengths are malformed.

    Args:
        counts: `N` masks, compressed.
        pixels: `[N]`: pixels of the picture, which run lengths must add up to.
    """
    parts = [_areas(counts[i : i + _CHUNK], pixels[i : i + _CHUNK]) for i in range(0, len(counts), _CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _areas(counts: Sequence[bytes], pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """All masks at once: digits to values by their ends, values to masks by theirs."""
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    digits = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - 48
    mask_of = np.repeat(np.arange(len(counts)), lengths)
    wrong = lengths == 0
    wrong[mask_of[(digits < 0) | (digits > 63)]] = True
    last = (digits & 0x20) == 0
    ends = np.cumsum(lengths) - 1
    wrong[lengths > 0] |= ~last[ends[lengths > 0]]
    # Values of a broken mask may not run into the next one.
    last[ends[lengths > 0]] = True
    value_ends = np.flatnonzero(last)
    num_digits = np.diff(value_ends, prepend=-1)
    owner = mask_of[value_ends]
    wrong[owner[num_digits > _MAX_DIGITS]] = True
    place = np.arange(len(digits)) - np.repeat(value_ends - num_digits + 1, num_digits)
    shift = 5 * np.minimum(place, _MAX_DIGITS)
    starts = value_ends - num_digits + 1
    values = np.add.reduceat((digits & 0x1F) << shift, starts) if len(digits) else np.zeros(0, np.int64)
    negative = (digits[value_ends] & 0x10) != 0
    values -= np.where(negative, np.int64(1) << (5 * np.minimum(num_digits, _MAX_DIGITS)), 0)
    # From the fourth on, a run is given as the difference from the one before the last: two sums over every other one.
    per_mask = np.bincount(owner, minlength=len(counts))
    nth = np.arange(len(values)) - np.repeat(np.cumsum(per_mask) - per_mask, per_mask)
    values[wrong[owner]] = 0  # keeps the sums in range
    runs = np.empty_like(values)
    for parity in (0, 1):
        chosen = np.flatnonzero(nth % 2 == parity)
        sums = np.cumsum(values[chosen])
        first = nth[chosen] == (2 if parity == 0 else 1)
        before = np.where(first, sums - values[chosen], 0)
        start_of = np.maximum.accumulate(np.where(first, np.arange(len(chosen)), 0))
        runs[chosen] = sums - before[start_of]
    runs[nth == 0] = values[nth == 0]
    wrong[owner[(runs < 0) | (runs > pixels[owner])]] = True
    runs[wrong[owner]] = 0  # so that sums are exact as float64
    total = np.bincount(owner, runs, len(counts)).astype(np.int64)
    inside = np.bincount(owner, np.where(nth % 2 == 1, runs, 0), len(counts)).astype(np.int64)
    return np.where(wrong | (total != pixels), -1, inside)


def rasterised(shapes: Sequence[Sequence[npt.NDArray[np.float64]]], size: tuple[int, int]) -> list[bytes | None]:
    """Masks of polygons of one picture.

    Args:
        shapes: The polygons of each object, finite, in pixels.
        size: `(H, W)`.

    Returns:
        Compressed run lengths; None for objects with corners too far from the picture.
    """
    from pycocotools import mask

    height, width = size
    limit = (_FAR + 1) * max(height, width)
    near = [all(np.abs(part).max() <= limit for part in parts) for parts in shapes]
    flat = [part for parts, is_near in zip(shapes, near, strict=True) if is_near for part in parts]
    masks = iter(mask.frPyObjects(flat, height, width) if flat else [])
    out: list[bytes | None] = []
    for parts, is_near in zip(shapes, near, strict=True):
        if not is_near:
            out.append(None)
            continue
        own = [next(masks) for _ in parts]
        out.append((own[0] if len(own) == 1 else mask.merge(own))["counts"])
    return out


def rectangle(box: Sequence[float], size: tuple[int, int]) -> bytes:
    """The mask of a box `x0, y0, x1, y1` that lies in the picture, at least one pixel."""
    x0, y0, x1, y1 = (int(value) for value in (np.floor(box[0]), np.floor(box[1]), np.ceil(box[2]), np.ceil(box[3])))
    return _encoded(Part(np.ones((y1 - y0, x1 - x0), np.bool_), x0, y0), size)


def _encoded(part: Part, size: tuple[int, int]) -> bytes:
    counts: bytes = run_lengths([part], size)[0]["counts"]
    return counts


def bounds(
    counts: Sequence[bytes], sizes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Boxes `[N, 4]` of checked masks, x0, y0, x1, y1, and their areas `[N]`.

    Args:
        counts: `N` masks.
        sizes: `[N, 2]`: height and width of their pictures.
    """
    from pycocotools import mask

    boxes = np.zeros((len(counts), 4))
    areas = np.zeros(len(counts), np.int64)
    for start in range(0, len(counts), _MOST_AT_ONCE):
        chunk = slice(start, start + _MOST_AT_ONCE)
        masks = [{"size": size, "counts": c} for size, c in zip(sizes[chunk].tolist(), counts[chunk], strict=True)]
        boxes[chunk] = mask.toBbox(masks)
        areas[chunk] = mask.area(masks)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, areas


def turned(counts: bytes, size: tuple[int, int], orientation: int) -> bytes:
    """A checked mask of a picture as it is stored, upright.

    Args:
        counts: The mask.
        size: `(H, W)` as stored.
        orientation: Of EXIF, 1 to 8.
    """
    height, width = size
    pixels, x, y = decoded(counts, height)
    if orientation >= 5:
        pixels, x, y, height, width = pixels.T, y, x, width, height
    flip_x, flip_y = _FLIPS[orientation]
    if flip_x:
        pixels, x = pixels[:, ::-1], width - x - pixels.shape[1]
    if flip_y:
        pixels, y = pixels[::-1], height - y - pixels.shape[0]
    return _encoded(Part(pixels, x, y), (height, width))


# After x and y have changed places, from orientation 5 on: whether each is counted from the other side.
_FLIPS = {
    1: (False, False),
    2: (True, False),
    3: (True, True),
    4: (False, True),
    5: (False, False),
    6: (True, False),
    7: (True, True),
    8: (False, True),
}


def turned_boxes(boxes: npt.NDArray[np.float64], size: tuple[int, int], orientation: int) -> npt.NDArray[np.float64]:
    """Boxes `[N, 4]` of a picture as it is stored, upright; arguments as in `turned`."""
    height, width = size
    x0, y0, x1, y1 = boxes.T
    if orientation >= 5:
        x0, y0, x1, y1 = y0, x0, y1, x1
        height, width = width, height
    flip_x, flip_y = _FLIPS[orientation]
    if flip_x:
        x0, x1 = width - x1, width - x0
    if flip_y:
        y0, y1 = height - y1, height - y0
    return np.stack([x0, y0, x1, y1], 1)
