"""Pictures and what lies in them, brought to the input of a network together: boxes, outlines, maps.

Whatever is done to the geometry of a picture is one `View`: a rectangle of the picture that becomes a rectangle of the
input, perhaps mirrored. So a picture is resampled once, however many crops and scales were chosen before, each outline
where it lies alone, and every place of the input is known exactly in the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args, overload

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from transnext.choices import PlaceMode
from transnext.data.channels import Channels, Picture
from transnext.data.instances import InstanceBatch
from transnext.data.mask_parts import Part
from transnext.data.preprocessing import Preprocessing
from transnext.data.sample import Frame

MULTIPLE = 32
"""Sides of what a network sees are multiples of this, pixels."""

_HALF = 0.5 - 1e-6
"""Share of a pixel from which on it belongs to an object; what is left out is rounding."""

_Pixel = TypeVar("_Pixel", np.uint8, np.int32)
_RESAMPLINGS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class View:
    """Geometry by which an input is made of a picture.

    Coordinates are those of edges: the first pixel reaches from 0 to 1.

    Attributes:
        source: x0, y0, x1, y1: what is shown of the picture, in its pixels, within it.
        target: Left, top, width and height of where it is shown, pixels of the input, before it is mirrored.
        size: `(H, W)` of the input.
        mirrored: The input is mirrored left to right.
    """

    source: tuple[float, float, float, float]
    target: tuple[int, int, int, int]
    size: tuple[int, int]
    mirrored: bool = False

    @property
    def scales(self) -> tuple[float, float]:
        """Pixels of the input for one of the picture, along x and y."""
        x0, y0, x1, y1 = self.source
        return self.target[2] / (x1 - x0), self.target[3] / (y1 - y0)

    @property
    def shown(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the rectangle of the input in which there is something of the picture."""
        left, top, width, height = self.target
        if self.mirrored:
            left = self.size[1] - left - width
        return left, top, left + width, top + height

    def to_original(self) -> Tensor:
        """float64 `[2, 3]`: takes `(x, y, 1)` of the input to pixels of the picture."""
        (x0, y0, *_), (left, top, *_), (sx, sy) = self.source, self.target, self.scales
        along_x = [-1 / sx, 0.0, x0 + (self.size[1] - left) / sx] if self.mirrored else [1 / sx, 0.0, x0 - left / sx]
        return torch.tensor([along_x, [0.0, 1 / sy, y0 - top / sy]], dtype=torch.float64)

    def of_boxes(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Boxes `[N, 4]` (x0, y0, x1, y1) of the picture, in the input; they may reach beyond what is shown."""
        x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
        (left, top, *_), (sx, sy) = self.target, self.scales
        x0, x1 = ((x - self.source[0]) * sx + left for x in (x0, x1))
        y0, y1 = ((y - self.source[1]) * sy + top for y in (y0, y1))
        if self.mirrored:
            x0, x1 = self.size[1] - x1, self.size[1] - x0
        return np.stack([x0, y0, x1, y1], 1)

    @overload
    def of_picture(
        self, picture: Image.Image, original: tuple[int, int], interpolation: str = ..., fill: Sequence[float] = ...
    ) -> Image.Image: ...

    @overload
    def of_picture(
        self, picture: Channels, original: tuple[int, int], interpolation: str = ..., fill: Sequence[float] = ...
    ) -> Channels: ...

    def of_picture(
        self,
        picture: Picture,
        original: tuple[int, int],
        interpolation: str = "bilinear",
        fill: Sequence[float] = (0, 0, 0),
    ) -> Picture:
        """The input.

        Args:
            picture: In mode `RGB`, or numbers; perhaps shrunk by an integer factor when it was read.
            original: `(H, W)` that it has unshrunk.
            interpolation: A name that `Preprocessing` knows; smoothed where the picture becomes smaller.
            fill: Colour of what is not picture; of numbers the first, or one for each channel.

        Raises:
            ValueError: The picture has another size.
        """
        if isinstance(picture, Channels):
            fills = fill if len(fill) == len(picture.bands) else [fill[0]] * len(picture.bands)
            return picture.mapped(lambda i, band: self._of_image(band, original, interpolation, fills[i]))
        return self._of_image(picture, original, interpolation, tuple(map(int, fill)))

    def _of_image(
        self, picture: Image.Image, original: tuple[int, int], interpolation: str, fill: float | tuple[int, ...]
    ) -> Image.Image:
        factor = reading_factor(original, (picture.height, picture.width))
        box = _within([edge / factor for edge in self.source], picture.width, picture.height)
        left, top, width, height = self.target
        part = picture.resize((width, height), _RESAMPLINGS[interpolation], box=box)
        if (height, width) != self.size:
            part, inner = Image.new(picture.mode, self.size[::-1], fill), part
            part.paste(inner, (left, top))
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else part

    def of_mask(self, outline: Part, original: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """An outline in the input.

        Args:
            outline: A part of a mask of the picture.
            original: `(H, W)` of the picture.

        Returns:
            0 or 1 `[h, w]` of the input: 1 where at least half of the pixel is.
        """
        (left, top, width, height), (sx, sy) = self.target, self.scales
        bounds = (outline.x, outline.y, outline.x + outline.pixels.shape[1], outline.y + outline.pixels.shape[0])
        ox0, ox1 = (math.floor((bounds[0] - self.source[0]) * sx) - 1, math.ceil((bounds[2] - self.source[0]) * sx) + 1)
        oy0, oy1 = (math.floor((bounds[1] - self.source[1]) * sy) - 1, math.ceil((bounds[3] - self.source[1]) * sy) + 1)
        ox0, oy0, ox1, oy1 = max(ox0, 0), max(oy0, 0), min(ox1, width), min(oy1, height)
        result = np.zeros(self.size, np.uint8)
        if ox0 < ox1 and oy0 < oy1:
            x0, x1 = (self.source[0] + x / sx for x in (ox0, ox1))
            y0, y1 = (self.source[1] + y / sy for y in (oy0, oy1))
            # What reaches into the smoothing of the pixels at the edge.
            mx, my = math.ceil(1 / sx) + 1, math.ceil(1 / sy) + 1
            cx0, cy0 = max(math.floor(x0) - mx, 0), max(math.floor(y0) - my, 0)
            cx1, cy1 = min(math.ceil(x1) + mx, original[1]), min(math.ceil(y1) + my, original[0])
            # In floats: bytes round between the two axes, and a pixel that is half covered would go either way.
            part = Image.fromarray(_around(outline, (cx0, cy0, cx1, cy1)))
            box = _within([x0 - cx0, y0 - cy0, x1 - cx0, y1 - cy0], part.width, part.height)
            resized = np.asarray(part.resize((ox1 - ox0, oy1 - oy0), Image.Resampling.BILINEAR, box=box))
            result[top + oy0 : top + oy1, left + ox0 : left + ox1] = resized > _HALF
        return np.ascontiguousarray(result[:, ::-1]) if self.mirrored else result

    def of_map(self, labels: npt.NDArray[_Pixel], unknown: int = 255) -> npt.NDArray[_Pixel]:
        """A map of classes or segments, `[H, W]` of the picture, in the input, unmixed; `unknown` beyond it."""
        left, top, width, height = self.target
        whole = Image.fromarray(labels)
        box = _within(list(self.source), whole.width, whole.height)
        result = np.full(self.size, unknown, labels.dtype)
        result[top : top + height, left : left + width] = np.asarray(
            whole.resize((width, height), Image.Resampling.NEAREST, box=box)
        )
        return np.ascontiguousarray(result[:, ::-1]) if self.mirrored else result


def _around(outline: Part, box: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
    """What a box of the picture, x0, y0, x1, y1, has of an outline, 0 or 1."""
    x0, y0, x1, y1 = box
    pixels, x, y = outline
    left, top, right, bottom = max(x, x0), max(y, y0), min(x + pixels.shape[1], x1), min(y + pixels.shape[0], y1)
    result = np.zeros((y1 - y0, x1 - x0), np.float32)
    if left < right and top < bottom:
        result[top - y0 : bottom - y0, left - x0 : right - x0] = pixels[top - y : bottom - y, left - x : right - x]
    return result


def placed_size(size: tuple[float, float], preprocessing: Preprocessing, share: float = 1.0) -> tuple[int, int]:
    """The size to which a picture is brought, `(H, W)`, without padding.

    Args:
        size: `(H, W)` of the picture or of the part of it that is shown.
        preprocessing: With a `crop_mode` of `PlaceMode`.
        share: Of the size that it has by default; with "shortest" of its short side, while the long one stays limited.

    Raises:
        ValueError: The preprocessing cuts parts of pictures off.
    """
    (height, width), (rows, columns) = preprocessing.input_size[1:], size
    if preprocessing.crop_mode == "squash":
        return _rounded(height * share), _rounded(width * share)
    if preprocessing.crop_mode == "fit":
        scale = min(height / rows, width / columns) * share
    elif preprocessing.crop_mode == "shortest":
        scale = min(height * share / min(size), width / max(size))
    else:
        raise ValueError(
            f"crop_mode is {preprocessing.crop_mode!r}, which does not keep all of a picture: use one of "
            f"{', '.join(get_args(PlaceMode))}"
        )
    return _rounded(rows * scale), _rounded(columns * scale)


def whole_view(size: tuple[int, int], preprocessing: Preprocessing) -> View:
    """Geometry of a picture of `(H, W)` pixels in evaluation: all of it, at the top left.

    Raises:
        ValueError: The preprocessing cuts parts of pictures off.
    """
    height, width = placed_size(size, preprocessing)
    return View(source=(0, 0, size[1], size[0]), target=(0, 0, width, height), size=(height, width))


def canvas_of(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """`(H, W)` to which an input is padded: one for all in modes "fit" and "squash", else the next multiples of 32.

    Args:
        size: `(H, W)` of the input.
        preprocessing: With a `crop_mode` of `PlaceMode`.
    """
    if preprocessing.crop_mode == "shortest":
        return _multiple(size[0], MULTIPLE), _multiple(size[1], MULTIPLE)
    return preprocessing.input_size[1:]


def place(
    picture: Picture, preprocessing: Preprocessing, original: tuple[int, int] | None = None
) -> tuple[Tensor, Frame]:
    """The input that shows all of a picture, and how to get back.

    Args:
        picture: In mode `RGB`, or numbers.
        preprocessing: With a `crop_mode` of `PlaceMode`; `crop_pct` has no say.
        original: `(H, W)` of the picture before it was shrunk by an integer factor on reading; its own by default.

    Returns:
        uint8 `[3, h, w]`, of numbers float32 `[C, h, w]`, not padded, and its frame.

    Raises:
        ValueError: The preprocessing cuts parts of pictures off, or the picture has another size.
    """
    original = (picture.height, picture.width) if original is None else original
    view = whole_view(original, preprocessing)
    image = view.of_picture(picture, original, preprocessing.interpolation)
    return to_tensor(image), Frame(original=original, to_original=view.to_original())


def place_padded(picture: Picture, preprocessing: Preprocessing) -> Tensor:
    """The input that shows all of a picture, uint8 `[3, H, W]`, on its canvas; see `place`."""
    image, _ = place(picture, preprocessing)
    height, width = canvas_of((image.shape[1], image.shape[2]), preprocessing)
    return F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))


def to_tensor(picture: Picture) -> Tensor:
    """An `RGB` image as uint8 `[3, H, W]`, numbers as float32 `[C, H, W]`."""
    return picture.tensor() if isinstance(picture, Channels) else to_bytes(picture)


def to_bytes(image: Image.Image) -> Tensor:
    """An `RGB` image as uint8 `[3, H, W]`."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def reading_factor(original: tuple[int, int], size: tuple[int, int]) -> int:
    """By how much a picture was shrunk when it was read: a part of a pixel that is left over makes a whole one.

    Args:
        original: `(H, W)` unshrunk.
        size: `(H, W)` as read.

    Raises:
        ValueError: It is another picture.
    """
    factor = max(1, *(-(-whole // part) for whole, part in zip(original, size, strict=True)))
    if any(-(-whole // factor) != part for whole, part in zip(original, size, strict=True)):
        raise ValueError(f"it has {size[1]} x {size[0]} pixels, and its annotation says {original[1]} x {original[0]}")
    return factor


def normalised_canvas(
    images: Tensor,
    sizes: Tensor,
    normalise: torch.nn.Module,
    multiple: int = MULTIPLE,
    least: tuple[int, int] = (1, 1),
) -> Tensor:
    """Bytes of a batch as a network takes them: normalised, and 0 wherever there is no image.

    Args:
        images: uint8 `[B, 3, H, W]`, on the device of `normalise`.
        sizes: int64 `[B, 2]`: rows and columns that are image.
        normalise: From bytes to normalised float32.
        multiple: Of what the sides become multiples, pixels.
        least: `(H, W)` that the result has at least: a canvas that all batches share.

    Returns:
        float32 `[B, 3, H', W']`, padded at the bottom and on the right.
    """
    height, width = images.shape[-2:]
    sizes = sizes.to(images.device)
    rows = torch.arange(height, device=images.device) < sizes[:, :1]
    columns = torch.arange(width, device=images.device) < sizes[:, 1:]
    inside = (rows[:, None, :, None] & columns[:, None, None, :]).expand_as(images)
    x: Tensor = normalise(images).masked_fill_(~inside, 0)
    bottom, right = (_multiple(max(side, low), multiple) - side for side, low in zip(x.shape[-2:], least, strict=True))
    return F.pad(x, (0, right, 0, bottom))


def seen_size(size: tuple[int, int], multiple: int = MULTIPLE) -> tuple[int, int]:
    """`(H, W)` of what `normalised_canvas` makes of a batch of this size."""
    return _multiple(size[0], multiple), _multiple(size[1], multiple)


def on_canvas(targets: InstanceBatch, canvas: tuple[int, int]) -> InstanceBatch:
    """The objects of a batch with masks of its whole canvas `(H, W)`, padded at the bottom and on the right."""
    if targets.masks is None:
        return targets
    height, width = targets.masks.shape[1:]
    return targets._replace(masks=F.pad(targets.masks, (0, canvas[1] - width, 0, canvas[0] - height)))


def _rounded(side: float) -> int:
    """As the released code rounds sides; a picture has a pixel at least."""
    return max(1, int(side + 0.5))


def _multiple(side: int, of: int) -> int:
    return -(-side // of) * of


def _within(box: list[float], width: int, height: int) -> tuple[float, float, float, float]:
    """The box without what rounding put outside of an image."""
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
