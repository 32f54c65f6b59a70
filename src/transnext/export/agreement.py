"""Comparison of a detector in a file with the one in PyTorch, object by object."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from transnext.export.checking import MAX_DIFFERENCE, SizeCheck
from transnext.tasks.detection.net import Found

Detect = Callable[[Tensor, Tensor], list[Found]]
"""From images and sizes, see `DetectionNet.detect`, to the objects of each."""

_DRAWS = 3
"""Random batches of a shape that are tried. Which of two equally good candidates comes first, a rounding decides, and
other objects may depend on that; a file that is wrong is so for all."""


def check_detector(run: Detect, expected: Detect, shape: tuple[int, int, int, int], cut: float, name: str) -> SizeCheck:
    """Compares a file with the network on random images of several sizes on a canvas.

    Args:
        run: Runs the file.
        expected: Runs the network.
        shape: Of the images.
        cut: Score above which all objects are named.
        name: What to call the file in the error.

    Raises:
        ValueError: Scores, masks, or boxes in sides of the image differ by more than `MAX_DIFFERENCE`, or the file
            fails where the network does not.
    """
    generator = torch.Generator().manual_seed(0)
    at = "x".join(map(str, shape))
    largest = math.inf
    for _ in range(_DRAWS):
        images, sizes = random_batch(shape, generator)
        with torch.no_grad():
            wanted = expected(images, sizes)
        try:
            with torch.no_grad():
                found = run(images, sizes)
        except Exception as error:  # every runtime has errors of its own
            raise ValueError(f"{name} fails on images {at}, where PyTorch does not: {error}") from error
        pairs = zip(found, wanted, strict=True)
        largest = max(difference(a, b, max(shape[2:]), cut) for a, b in pairs)
        if largest <= MAX_DIFFERENCE:
            return SizeCheck(shape=shape, difference=largest, objects=sum(map(len, wanted)))
    raise ValueError(
        f"{name} differs from PyTorch on images {at}, "
        + (f"by {largest:.1e}" if math.isfinite(largest) else "in which objects there are")
        + f": {MAX_DIFFERENCE:.0e} is allowed"
    )


def random_batch(shape: tuple[int, int, int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise, and sizes of images in it from half the canvas up, the first of which fills it.

    There is noise in the padding, too: in zeros all places have the same score, and rounding says which come first.
    """
    batch, _, height, width = shape
    images = torch.randn(shape, generator=generator)
    sizes = torch.stack(
        [torch.randint(side // 2, side + 1, (batch,), generator=generator) for side in (height, width)], dim=1
    )
    sizes[0] = torch.tensor([height, width])
    return images, sizes


def difference(found: Found, wanted: Found, side: int, cut: float) -> float:
    """Largest difference of objects from the nearest among the others, infinite if one is missing.

    Those whose score is just the least that is named may be missing, and where as many are named as can be, those
    whose score is that of the last.

    Args:
        found: Objects in an image.
        wanted: Other objects in it.
        side: By which differences of boxes are divided, pixels.
        cut: Score above which all objects are named.
    """
    if (found.masks is None) != (wanted.masks is None):
        return math.inf
    if not len(found) and not len(wanted):
        return 0.0
    least = cut + MAX_DIFFERENCE
    if len(found) and len(wanted):
        least = max(least, min(float(found.scores.min()), float(wanted.scores.min())) + MAX_DIFFERENCE)
        apart = (found.boxes[:, None] - wanted.boxes).abs().amax(-1) / side
        apart = torch.maximum(apart, (found.scores[:, None] - wanted.scores).abs())
        apart = apart.masked_fill(found.labels[:, None] != wanted.labels, math.inf)
    else:
        apart = torch.full((len(found), len(wanted)), math.inf)
    largest = 0.0
    for these, those, table in ((found, wanted, apart), (wanted, found, apart.T)):
        if not len(these):
            continue
        if not len(those):
            nearest, place = torch.full((len(these),), math.inf), None
        else:
            nearest, place = table.min(1)
        counts = torch.isfinite(nearest) & (nearest <= MAX_DIFFERENCE) | (these.scores > least)
        if not counts.any():
            continue
        largest = max(largest, float(nearest[counts].max()))
        if place is not None and these.masks is not None and those.masks is not None and math.isfinite(largest):
            masks = (these.masks[counts] - those.masks[place[counts]]).abs()
            largest = max(largest, float(masks.max()))
    return largest
