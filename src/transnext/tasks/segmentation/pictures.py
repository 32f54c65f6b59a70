"""Pictures for a report: what is there, what was said, and where they differ."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from transnext.data import Source, UnreadableImage
from transnext.data.channels import Channels, Picture
from transnext.data.joint import normalised_canvas, seen_size
from transnext.data.segmentation.maps import GROUP, classes_of
from transnext.explain.figures import on_white
from transnext.tasks.segmentation.draw import objects_as_classes, overlaid
from transnext.tasks.segmentation.images import Map, placed_sample, read_map
from transnext.tasks.segmentation.looking import Looking
from transnext.tasks.segmentation.metrics import told_segments
from transnext.tasks.segmentation.net import IGNORED
from transnext.tasks.segmentation.placing import class_map
from transnext.tasks.segmentation.results import SegmentationResult
from transnext.tasks.task import Look

SIDE = 280
"""Pixels that no picture exceeds."""
RIGHT, WRONG, UNKNOWN = (235, 235, 235), (215, 60, 10), (120, 120, 128)
WHOLE = Looking()
_LEFT = 0.55
"""Of the colour of a difference map over the picture."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """An image with its map and what a network says, at most `SIDE` pixels wide and high.

    Attributes:
        true: The picture with the map over it.
        predicted: The picture with the predicted map over it.
        difference: Where they differ in orange, where nothing is known dark.
        wrong: True and predicted class of the pair that most pixels are of; None if all are right.
    """

    true: Image.Image
    predicted: Image.Image
    difference: Image.Image
    wrong: tuple[int, int] | None


def chosen_images(result: SegmentationResult, count: int) -> tuple[list[int], list[int]]:
    """Places in the result of the images with the lowest and with the highest mean intersection over union.

    Args:
        result: Of a split.
        count: Images of each at most; none is in both.
    """
    known = np.flatnonzero(~np.isnan(result.image_iou))
    order = known[np.argsort(result.image_iou[known], kind="stable")].tolist()
    worst = order[: min(count, (len(order) + 1) // 2)]
    best = order[len(worst) :][::-1][:count]
    return worst, best


def compared(
    image: int, result: SegmentationResult, look: Look, colours: npt.NDArray[np.uint8], how: Looking = WHOLE
) -> Compared | None:
    """An image and its maps; None if it cannot be read any more.

    Args:
        image: Place in the result.
        result: Of a split.
        look: The network and the images.
        colours: RGB of each class, uint8 `[classes, 3]`.
        how: The network looked at pictures when the result was made.
    """
    things = result.things if result.images[image].segments is not None else None
    opened = _opened(look.splits[result.split], result.images[image].index, things)
    if opened is None:
        return None
    picture, there = opened
    shown = picture.shown() if isinstance(picture, Channels) else picture
    predicted, said = predicted_maps(picture, look, things, how)
    true = classes_of(there)
    if predicted.shape != true.shape:
        return None
    known = true != IGNORED
    differs = known & (predicted != true)
    wrong = None
    if differs.any():
        pairs = true[differs].astype(np.int64) * 256 + predicted[differs]
        wrong = divmod(int(np.bincount(pairs).argmax()), 256)
    verdict = np.where(known, np.where(differs, 1, 0), 2).astype(np.uint8)
    paint = np.array([RIGHT, WRONG, UNKNOWN], np.uint8)
    small = shown.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    grey = small.convert("L").convert("RGB")
    found: Map = np.where(known, predicted, np.uint8(IGNORED))
    if said is not None:
        found = np.where(known, said, np.int32(IGNORED))
    return Compared(
        true=_drawn(small, there, colours),
        predicted=_drawn(small, found, colours),
        difference=Image.blend(grey, Image.fromarray(paint[_shrunk(verdict, small.size)]), _LEFT),
        wrong=wrong,
    )


def predicted_maps(
    picture: Picture, look: Look, things: Collection[int] | None = None, how: Looking = WHOLE
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32] | None]:
    """What a network says of a picture: a map of classes, uint8 `[H, W]`, and one of segments, int32 `[H, W]`.

    Args:
        picture: The picture.
        look: The network.
        things: Classes that have objects; None for no segments.
        how: The network looks at pictures, in one size.
    """
    sample = placed_sample(picture, look.preprocessing, 0)
    device = next(look.net.parameters()).device
    size = (sample.image.shape[1], sample.image.shape[2])
    canvas = seen_size(sample.canvas or size)
    sizes = torch.tensor([size], device=device)
    with torch.inference_mode():
        x = normalised_canvas(sample.image[None].to(device), sizes, look.preprocessing.normalise(device), least=canvas)
        original = (picture.height, picture.width)
        if things is None:
            (scores,) = how.scores(look.net, x, sizes)
            assert isinstance(scores, Tensor)
            return np.asarray(class_map(scores, canvas, size, original).cpu().numpy()), None
        (told,) = look.net(x, sizes, told=True)
        labels = np.asarray(class_map(told.scores, canvas, size, original).cpu().numpy())
        return labels, told_segments(told, canvas, size, original, things)


def _drawn(picture: Image.Image, labels: Map, colours: npt.NDArray[np.uint8]) -> Image.Image:
    """A picture with a map of classes, or of segments, over it."""
    shown = classes_of(labels)
    if labels.dtype == np.int32:
        known = np.where(labels & GROUP, IGNORED, labels).astype(np.int32)
        shown, _, colours = objects_as_classes(known, [""] * len(colours), colours)
    return overlaid(picture, _shrunk(shown, picture.size), colours)


def _opened(source: Source, index: int, things: Collection[int] | None) -> tuple[Picture, Map] | None:
    try:
        picture: Picture = source.load(index)
        labels = read_map(source.target(index), things)
        return picture if isinstance(picture, Channels) else on_white(picture), labels
    except (UnreadableImage, FileNotFoundError):
        return None


def _shrunk(labels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A map at another size `(W, H)`, unmixed."""
    return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
