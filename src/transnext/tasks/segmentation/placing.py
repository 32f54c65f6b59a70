"""From scores over a canvas to the pixels of the picture."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

VALUES_AT_ONCE = 2**24
"""Of scores that are brought to the size of the picture together."""
Rows = Iterator[tuple[slice, Tensor]]
"""Rows of a picture, from top to bottom, and their scores, float32 `[classes, rows, W]`."""


def resize_scores(
    scores: Tensor,
    canvas: tuple[int, int],
    size: tuple[int, int],
    original: tuple[int, int],
    *,
    values_at_once: int = VALUES_AT_ONCE,
) -> Rows:
    """Scores of every pixel of a picture, some rows at a time, so that memory does not grow with its height.

    As the released code has it: bilinear between the centres of pixels, first to the canvas, then, without the padding,
    to the picture.

    Args:
        scores: `[classes, h, w]`, over the canvas, of one image.
        canvas: `(H, W)` of what the network saw.
        size: `(H, W)` of what was image in it, in its top left corner.
        original: `(H, W)` of the picture.
        values_at_once: About how many numbers are made at once; one row at least.

    Yields:
        Rows of the picture, from top to bottom, and their scores, float32 `[classes, rows, W]`.

    Raises:
        ValueError: The image is larger than the canvas, or something is empty.
    """
    check_places(canvas, size, original)
    step = rows_at_once(len(scores), canvas, size, original, values_at_once)
    for start in range(0, original[0], step):
        rows = slice(start, min(start + step, original[0]))
        yield rows, scores_of_rows(scores, canvas, size, original, rows)


def scores_of_rows(
    scores: Tensor, canvas: tuple[int, int], size: tuple[int, int], original: tuple[int, int], rows: slice
) -> Tensor:
    """Scores of some rows of a picture, float32 `[classes, rows, W]`; see `resize_scores`.

    Args:
        scores: See there.
        canvas: See there.
        size: See there.
        original: See there.
        rows: Of the picture, with a start and a stop.
    """
    scores = scores.float()
    above, below, share = _neighbours(rows, size[0], original[0])
    first, last = int(above[0]), int(below[-1]) + 1
    if tuple(scores.shape[1:]) == canvas:
        on_canvas = scores[:, first:last]
    else:
        upper, lower, part = _neighbours(slice(first, last), scores.shape[1], canvas[0])
        on_canvas = _columns(_between(scores, upper, lower, part), canvas[1])
    on_canvas = on_canvas[..., : size[1]]
    if size[0] == original[0]:  # the rows are those of the picture, and the next one
        return _columns(on_canvas[:, : rows.stop - rows.start], original[1])
    return _columns(_between(on_canvas, above - first, below - first, share), original[1])


def check_places(canvas: tuple[int, int], size: tuple[int, int], original: tuple[int, int]) -> None:
    """Refuses sizes that cannot be; see `resize_scores`.

    Raises:
        ValueError: The image is larger than the canvas, or something is empty.
    """
    if not all(1 <= inner <= outer for inner, outer in zip(size, canvas, strict=True)) or min(original) < 1:
        raise ValueError(f"an image of {size} on a canvas of {canvas}, for a picture of {original} pixels")


def rows_at_once(
    classes: int,
    canvas: tuple[int, int],
    size: tuple[int, int],
    original: tuple[int, int],
    values_at_once: int = VALUES_AT_ONCE,
) -> int:
    """Rows of a picture whose scores are made of about so many numbers, one at least; see `resize_scores`."""
    shrunk = max(1.0, size[0] / original[0])
    values_of_row = classes * (shrunk * canvas[1] + original[1])
    return max(1, int(values_at_once / values_of_row))


def class_map(
    scores: Tensor,
    canvas: tuple[int, int],
    size: tuple[int, int],
    original: tuple[int, int],
    *,
    values_at_once: int = VALUES_AT_ONCE,
) -> Tensor:
    """The likeliest class of every pixel of a picture, uint8 `[H, W]`; see `resize_scores`.

    Raises:
        ValueError: See `resize_scores`; or there are more classes than a byte tells apart.
    """
    return map_of_rows(resize_scores(scores, canvas, size, original, values_at_once=values_at_once))[0]


def map_of_rows(rows: Rows) -> tuple[Tensor, bool]:
    """The likeliest class of every pixel of a picture, uint8 `[H, W]`, and whether all of their scores are finite.

    Raises:
        ValueError: There are more classes than a byte tells apart.
    """
    parts, finite = [], True
    for _, scores in rows:
        _check_classes(scores)
        best, places = scores.max(0)  # argmax takes twice as long
        parts.append(places.to(torch.uint8))
        finite = finite and bool(torch.isfinite(best).all())  # NaN is the largest of all
    return torch.cat(parts), finite


def likeliest(scores: Tensor) -> Tensor:
    """Classes with the highest of scores `[classes, ...]`, uint8 `[...]`.

    Raises:
        ValueError: A score is not finite, or there are more classes than a byte tells apart.
    """
    _check_classes(scores)
    best, places = scores.max(0)  # NaN is the largest of all
    if not torch.isfinite(best).all():
        raise ValueError("what the model says is not finite: its weights are not usable")
    return places.to(torch.uint8)


def _check_classes(scores: Tensor) -> None:
    if len(scores) > 256:
        raise ValueError(f"{len(scores)} classes do not fit a map of bytes: expected 256 at most")


def _neighbours(rows: slice, source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rows above and below each of some rows of a resized map in its source, and the share of the lower one.

    Args:
        rows: Of the resized map.
        source: Rows of the source.
        target: Rows of the resized map.
    """
    places = (torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5) * (source / target) - 0.5
    places = places.clamp(0, source - 1)
    above = places.long()
    return above, (above + 1).clamp(max=source - 1), (places - above).float()


def _between(x: Tensor, above: Tensor, below: Tensor, share: Tensor) -> Tensor:
    """Rows of `[C, h, w]` between two others each."""
    above, below, share = (t.to(x.device) for t in (above, below, share))
    return torch.lerp(x[:, above], x[:, below], share[:, None])


def _columns(x: Tensor, width: int) -> Tensor:
    """`[C, h, w]` with another number of columns."""
    if x.shape[2] == width:
        return x
    resized: Tensor = F.interpolate(x[None], size=(x.shape[1], width), mode="bilinear", align_corners=False)[0]
    return resized
