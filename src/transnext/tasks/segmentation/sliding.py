"""Pictures looked at in windows that slide over them, as the released UPerNets are tested.

Windows are 512 pixels wide and high and begin 341 after one another, the last at the end of the picture; their scores,
before any softmax, are added and divided by how many windows see a place (`slide_inference` of mmsegmentation, Apache
2.0, says the same).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from transnext.data.joint import seen_size
from transnext.limits import check_number
from transnext.tasks.segmentation.blending import Ask, asked, places, whole
from transnext.tasks.tiling import Grid

WINDOW = 512
"""Side of the released windows, pixels."""
STRIDE = 341
"""From one released window to the next, pixels."""
BATCH = 8
"""Windows that are asked about at once, unless another number is given."""


def sliding_scores(
    ask: Ask,
    images: Tensor,
    sizes: Tensor,
    *,
    window: int = WINDOW,
    stride: int = STRIDE,
    batch_size: int = BATCH,
) -> Iterator[Tensor]:
    """Scores of pictures of any size, one after the other; only the windows of the running batch lie ahead.

    Windows stay within what is image, so that a picture has the same scores beside whatever others. If a picture is no
    larger than a window they are those of the network asked about it on a canvas of its own, whose sides are the next
    multiples of 32: not those on a larger one, as the square of `fit`, of which networks see the padding. Gradients are
    not kept.

    Args:
        ask: The network, in evaluation mode.
        images: float32 `[B, C, H, W]`, normalised, 0 beyond the size of each.
        sizes: int64 `[B, 2]`: rows and columns that are image.
        window: Side of a window, pixels; best a multiple of 32, to which it is padded.
        stride: From one window to the next, pixels, at most `window`.
        batch_size: Windows that are asked about at once, of one picture or of several.

    Yields:
        For each picture float32 `[classes, H', W']` over the canvas, whose sides are the next multiples of 32 of
        those of `images`; 0 beyond its size.

    Raises:
        ValueError: A number is out of range.
    """
    check_number("batch_size", batch_size, 1)
    grids = [Grid.sliding((rows, columns), window, stride) for rows, columns in sizes.tolist()]
    return _scores(ask, images, grids, batch_size)


def _scores(ask: Ask, images: Tensor, grids: list[Grid], batch_size: int) -> Iterator[Tensor]:
    windows = (
        image[:, rows, columns] for image, grid in zip(images, grids, strict=True) for rows, columns in places(grid)
    )
    scores = asked(ask, windows, batch_size)
    canvas = seen_size((images.shape[2], images.shape[3]))
    for grid in grids:
        # Not around the whole loop: what takes the scores runs between two steps, and is to have its own mode.
        with torch.inference_mode():
            of_picture = whole(scores, grid, canvas)
        yield of_picture
