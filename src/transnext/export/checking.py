"""Comparison of a file with the network in PyTorch: both are run on images of several sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_DIFFERENCE = 1e-4
"""By how much an output in float32 may differ, absolute."""


@dataclass(frozen=True, kw_only=True)
class SizeCheck:
    """A comparison.

    Attributes:
        shape: Of the images, `(B, C, H, W)`.
        difference: Largest absolute difference of any output; of boxes in sides of the image.
        objects: Objects that were compared; None of a model that finds none.
    """

    shape: tuple[int, int, int, int]
    difference: float
    objects: int | None = None


def shapes_to_check(channels: int, size: tuple[int, int], multiple: int | None) -> list[tuple[int, int, int, int]]:
    """Shapes of images that a file is checked with: several batch sizes, and several sizes if it takes them.

    Args:
        channels: Channels of an image.
        size: `(H, W)` that the model was trained with.
        multiple: What sides must be multiples of; None if they are always those of `size`.
    """
    H, W = size
    shapes = [(1, channels, H, W), (3, channels, H, W)]
    if multiple is not None:
        shapes += [(2, channels, H + multiple, W + 2 * multiple), (1, channels, 2 * H, max(2 * multiple, W - multiple))]
    return shapes


def check(
    run: Callable[[Tensor], Tensor | list[Tensor]],
    expected: Callable[[Tensor], Tensor | Sequence[Tensor]],
    shapes: Sequence[tuple[int, int, int, int]],
    name: str,
    limit: float = MAX_DIFFERENCE,
) -> list[SizeCheck]:
    """Compares a file with the network on random images.

    Args:
        run: Runs the file.
        expected: Runs the network.
        shapes: Shapes of the images.
        name: What to call the file in the error.
        limit: Largest difference allowed.

    Raises:
        ValueError: A difference is larger, or the file fails where the network does not.
    """
    generator = torch.Generator().manual_seed(0)
    checks = []
    for shape in shapes:
        images = torch.randn(shape, generator=generator)
        with torch.no_grad():
            wanted = _as_list(expected(images))
        at = "x".join(map(str, shape))
        try:
            found = _as_list(run(images))
        except Exception as error:  # every runtime has errors of its own
            raise ValueError(f"{name} fails on images {at}, where PyTorch does not: {error}") from error
        if [tuple(t.shape) for t in found] != [tuple(t.shape) for t in wanted]:
            raise ValueError(f"{name} gives {[tuple(t.shape) for t in found]} for images {at}: not what PyTorch gives")
        difference = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
        if not difference <= limit:
            raise ValueError(f"{name} differs from PyTorch by {difference:.1e} on images {at}: {limit:.0e} is allowed")
        checks.append(SizeCheck(shape=shape, difference=difference))
    return checks


def _as_list(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
