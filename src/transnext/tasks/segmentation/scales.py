"""Pictures looked at in several sizes and mirrored, and what all looks say together.

As the released UPerNets are tested so: six sizes, each also mirrored, as a whole; the scores of each look are brought
to the picture and become probabilities, whose mean decides.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from transnext.data.joint import canvas_of, normalised_canvas, place, seen_size
from transnext.data.preprocessing import Preprocessing
from transnext.data.preprocessing import picture as from_bytes
from transnext.limits import MAX_SIDE, check_number
from transnext.models.attention import Mixer
from transnext.models.position_bias import BiasMode
from transnext.models.transnext import TransNeXt, size_pair
from transnext.tasks.segmentation.placing import (
    VALUES_AT_ONCE,
    check_places,
    likeliest,
    rows_at_once,
    scores_of_rows,
)

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Released sizes, relative to the one in evaluation."""
Looks = Callable[[Tensor, Tensor], Iterable[Tensor]]
"""Images float32 `[B, C, H, W]`, normalised, and their sizes int64 `[B, 2]`, to the scores of each over its canvas: a
network, or `partial(sliding_scores, network)`."""
Net = TypeVar("Net", bound=nn.Module)


class _View(NamedTuple):
    """What one look said.

    Attributes:
        scores: `[classes, h, w]` over the canvas.
        canvas: `(H, W)` of what the network saw.
        size: `(H, W)` of what was picture in it.
        mirrored: Left and right are exchanged.
    """

    scores: Tensor
    canvas: tuple[int, int]
    size: tuple[int, int]
    mirrored: bool


def with_bias_mode(net: Net, mode: BiasMode, trained_size: int | tuple[int, int] | None = None) -> Net:
    """A network whose position bias follows the image size in another way; it shares the weights, and `net` stays.

    Args:
        net: With a TransNeXt in it.
        mode: "interpolate", as the released segmenters were trained, or "extrapolate".
        trained_size: Image size from which "interpolate" resizes the bias, pixels, one number or `(H, W)`; that of the
            network by default. The released UPerNets are asked in several sizes with 800.

    Raises:
        ValueError: There is no TransNeXt in it, or no such mode.
    """
    if not any(isinstance(module, TransNeXt) for module in net.modules()):
        raise ValueError("bias_mode: the backbone has no position bias that follows the image size; leave it out")
    own = [*net.parameters(), *net.buffers()]
    other = copy.deepcopy(net, {id(tensor): tensor for tensor in own})
    for body in (module for module in other.modules() if isinstance(module, TransNeXt)):
        body.bias_mode = mode
        if trained_size is None:
            continue
        body.img_size = size_pair(trained_size, "trained_size")
        for stage, info in zip(body.stages, body.feature_info, strict=False):
            rows, columns = (-(-side // info["reduction"]) for side in body.img_size)
            for mixer in stage.modules():
                if isinstance(mixer, Mixer):
                    mixer.geometry = replace(mixer.geometry, trained_size=(rows, columns))
    return other


def scaled(preprocessing: Preprocessing, ratio: float) -> Preprocessing:
    """The same for pictures so many times as large; as the released code rounds, downwards.

    Raises:
        ValueError: The ratio is not positive, or a side would be longer than `MAX_SIDE`.
    """
    check_number("ratio", ratio, 0, above=True)
    channels, height, width = preprocessing.input_size
    rows, columns = (max(1, int(side * ratio)) for side in (height, width))
    shorter = rows if preprocessing.crop_mode == "shortest" else max(rows, columns)
    check_number(f"image side at ratio {ratio:g}", shorter, 1, MAX_SIDE)
    return replace(preprocessing, input_size=(channels, rows, columns))


def multi_scale_probabilities(
    ask: Looks,
    picture: Image.Image | Tensor,
    preprocessing: Preprocessing,
    *,
    ratios: Sequence[float] = RATIOS,
    flip: bool = True,
    sums: bool = False,
    device: torch.device | str = "cpu",
    values_at_once: int = VALUES_AT_ONCE,
) -> Iterator[tuple[slice, Tensor]]:
    """Mean probabilities of the pixels of a picture over several looks, some rows at a time.

    Each size is made of the picture itself. Scores of all looks are held as the network gives them.

    Args:
        ask: Gives scores: a network in evaluation mode, or `partial(sliding_scores, network)`.
        picture: In mode `RGB`; or a tensor of its bytes, uint8 `[3, H, W]`, 0..255.
        preprocessing: With a `crop_mode` that keeps all of a picture; what ratio 1 stands for.
        ratios: Sizes, relative to that of the preprocessing.
        flip: Also look at the mirror image in each size.
        sums: Scores are sums of masks, as Mask2Former's, whose mean is taken as they are; else logits.
        device: Where the network is.
        values_at_once: See `resize_scores`.

    Yields:
        Rows of the picture, from top to bottom, and for them float32 `[classes, rows, W]`.

    Raises:
        ValueError: There is no ratio, or one is out of range; or see `place`.
    """
    sizes = _sizes(ratios, preprocessing)
    shown = picture if isinstance(picture, Image.Image) else _picture(picture)
    normalise = preprocessing.normalise(device)

    def inputs() -> Iterator[tuple[Tensor, tuple[int, int]]]:
        for one in sizes:
            image, _ = place(shown, one)
            size = (image.shape[1], image.shape[2])
            rows_columns = torch.tensor([size], device=device)
            yield normalised_canvas(image[None].to(device), rows_columns, normalise, least=canvas_of(size, one)), size

    with torch.inference_mode():
        views = _views(ask, inputs(), flip)
    return _mean(views, (shown.height, shown.width), sums, values_at_once)


def multi_scale_map(
    ask: Looks,
    picture: Image.Image | Tensor,
    preprocessing: Preprocessing,
    *,
    ratios: Sequence[float] = RATIOS,
    flip: bool = True,
    sums: bool = False,
    device: torch.device | str = "cpu",
) -> npt.NDArray[np.uint8]:
    """The likeliest class of every pixel of a picture, uint8 `[H, W]`; see `multi_scale_probabilities`."""
    parts = multi_scale_probabilities(ask, picture, preprocessing, ratios=ratios, flip=flip, sums=sums, device=device)
    return np.concatenate([likeliest(probabilities).cpu().numpy() for _, probabilities in parts])


def multi_scale_scores(
    ask: Looks,
    images: Tensor,
    sizes: Tensor,
    *,
    ratios: Sequence[float] = RATIOS,
    flip: bool = True,
    sums: bool = False,
) -> Iterator[Tensor]:
    """Mean probabilities over several looks at pictures that are at their size already, one picture after the other.

    Other sizes are made of what the network would see alone: bilinear, smoothed where they are smaller. Larger ones
    than 1 so show no more than that; `multi_scale_probabilities` begins with the picture.

    Args:
        ask: See there.
        images: float32 `[B, C, H, W]`, normalised, 0 beyond the size of each.
        sizes: int64 `[B, 2]`: rows and columns that are image.
        ratios: See there.
        flip: See there.
        sums: See there.

    Yields:
        float32 `[classes, H', W']` over the canvas, whose sides are the next multiples of 32; 0 beyond the size. Their
        logarithms are scores again, where those of the network are logits.

    Raises:
        ValueError: There is no ratio, or one is not positive.
    """
    _check_ratios(ratios)
    return _scores_of_inputs(ask, images, sizes, ratios, flip, sums)


def _scores_of_inputs(
    ask: Looks, images: Tensor, sizes: Tensor, ratios: Sequence[float], flip: bool, sums: bool
) -> Iterator[Tensor]:
    canvas = seen_size((images.shape[2], images.shape[3]))
    for image, (rows, columns) in zip(images, sizes.tolist(), strict=True):
        with torch.inference_mode():
            views = _views(ask, _in_sizes(image[None, :, :rows, :columns], ratios), flip)
            whole = torch.zeros(len(views[0].scores), *canvas, device=image.device)
            for part, mean in _mean(views, (rows, columns), sums, VALUES_AT_ONCE):
                whole[:, part, :columns] = mean
        yield whole


def _in_sizes(image: Tensor, ratios: Sequence[float]) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """An image `[1, C, h, w]` in several sizes, each on its canvas, and what of that is image."""
    rows, columns = image.shape[2:]
    for ratio in ratios:
        size = (max(1, int(rows * ratio + 0.5)), max(1, int(columns * ratio + 0.5)))
        one = image
        if size != (rows, columns):
            one = F.interpolate(one, size=size, mode="bilinear", align_corners=False, antialias=True)
        height, width = seen_size(size)
        yield F.pad(one, (0, width - size[1], 0, height - size[0])), size


def _views(ask: Looks, inputs: Iterable[tuple[Tensor, tuple[int, int]]], flip: bool) -> list[_View]:
    """What is said about an image in several sizes `[1, C, H, W]`, 0 beyond the size of each, and about their mirror
    images."""
    views: list[_View] = []
    for one, size in inputs:
        canvas = (one.shape[2], one.shape[3])
        other = torch.zeros_like(one)
        other[..., : size[0], : size[1]] = one[..., : size[0], : size[1]].flip(-1)
        both = torch.cat([one, other]) if flip else one
        said = ask(both, torch.tensor([size] * len(both), device=both.device))
        views += [_View(scores, canvas, size, bool(i)) for i, scores in enumerate(said)]
    return views


def _picture(image: Tensor) -> Image.Image:
    """A picture of its bytes.

    Raises:
        ValueError: The tensor is none of a picture in RGB.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"a tensor of {image.dtype} {list(image.shape)} is no picture: expected torch.uint8 [3, H, W]")
    return from_bytes(image)


def _mean(
    views: Sequence[_View], original: tuple[int, int], sums: bool, values_at_once: int
) -> Iterator[tuple[slice, Tensor]]:
    classes = len(views[0].scores)
    for view in views:
        check_places(view.canvas, view.size, original)
    step = min(rows_at_once(classes, view.canvas, view.size, original, values_at_once) for view in views)
    for start in range(0, original[0], step):
        rows = slice(start, min(start + step, original[0]))
        with torch.inference_mode():
            total = torch.zeros((), device=views[0].scores.device)
            for view in views:
                scores = scores_of_rows(view.scores, view.canvas, view.size, original, rows)
                said = scores if sums else scores.softmax(0)
                total = total + (said.flip(-1) if view.mirrored else said)
            total /= len(views)
        yield rows, total


def _sizes(ratios: Sequence[float], preprocessing: Preprocessing) -> list[Preprocessing]:
    _check_ratios(ratios)
    return [scaled(preprocessing, ratio) for ratio in ratios]


def _check_ratios(ratios: Sequence[float]) -> None:
    if not ratios:
        raise ValueError("no ratio is given: 1 is the size in evaluation")
    for ratio in ratios:
        check_number("ratio", ratio, 0, above=True)
