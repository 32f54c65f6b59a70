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
from torch import Tensor, nn

from transnext.data.channels import Channels, Picture
from transnext.data.joint import canvas_of, normalised_canvas, place
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
    picture: Picture | Tensor,
    preprocessing: Preprocessing,
    *,
    ratios: Sequence[float] = RATIOS,
    flip: bool = True,
    sums: bool = False,
    device: torch.device | str = "cpu",
    values_at_once: int = VALUES_AT_ONCE,
) -> Iterator[tuple[slice, Tensor]]:
    """Mean probabilities of the pixels of a picture over several looks, some rows at a time.

    Each size is made of the picture itself. The network is asked in the call; what it says is held as it gives it.

    Args:
        ask: Gives scores: a network in evaluation mode, or `partial(sliding_scores, network)`.
        picture: In mode `RGB`; or a tensor of its bytes, uint8 `[3, H, W]`, 0..255. Where the preprocessing has them,
            numbers, or a tensor of them, float32 `[C, H, W]`.
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
    if not ratios:
        raise ValueError("no ratio is given: 1 is the size in evaluation")
    sizes = [scaled(preprocessing, ratio) for ratio in ratios]
    shown = _picture(picture, preprocessing.numbers) if isinstance(picture, Tensor) else picture
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
    picture: Picture | Tensor,
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


def _picture(image: Tensor, numbers: bool) -> Picture:
    """A picture of its bytes, or of its numbers.

    Raises:
        ValueError: The tensor is none of such a picture.
    """
    if numbers and image.dtype == torch.float32 and image.ndim == 3 and image.numel():
        return Channels.of(image.cpu().numpy())
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
