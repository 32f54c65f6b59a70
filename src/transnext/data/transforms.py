"""From a PIL image to a tensor of bytes, by timm, and from batches of bytes to the numbers that a model takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from torch import nn
from torchvision import transforms

from transnext.choices import CropMode

Transform = Callable[[Image.Image], torch.Tensor]
InputSize = tuple[int, int, int]

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")

# More elongated images are cut before they are resized: a line of 1 x 20000 pixels would become 256 x 5,120,000.
_MAX_ASPECT = 32

# Smallest side from which crops are taken at random, pixels.
_MIN_CROPPED = 16


def train_transform(
    input_size: InputSize,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    interpolation: str,
    *,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    hflip: float = 0.5,
    auto_augment: str | None = None,
    color_jitter: float | None = None,
) -> Transform:
    """Return the random transform of training images.

    Args:
        input_size: `(C, H, W)` of the result.
        mean: Per channel, for values in 0..1.
        std: Per channel, for values in 0..1.
        interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos`, or `random`, which means bilinear or bicubic.
        crop_scale: Smallest and largest share of the image's area that a crop takes.
        crop_ratio: Smallest and largest width / height of a crop, before it is resized to `(H, W)`.
        hflip: Probability of a flip left to right.
        auto_augment: A policy in timm's notation, e.g. `rand-m9-mstd0.5-inc1`.
        color_jitter: Strength of random brightness, contrast and saturation. Not applied together with `auto_augment`.

    Returns:
        A picklable function from an `RGB` PIL image to a uint8 tensor `[C, H, W]`.

    Raises:
        ValueError: If a value is out of range or unknown.
    """
    _check_common(input_size, mean, std, interpolation, (*_INTERPOLATIONS, "random"))
    _check_range("crop_scale", crop_scale, 1.0)
    _check_range("crop_ratio", crop_ratio, math.inf)
    if not 0 <= hflip <= 1:
        raise ValueError(f"hflip is a probability and must be in 0..1, got {hflip}")
    if color_jitter is not None and color_jitter < 0:
        raise ValueError(f"color_jitter must not be negative, got {color_jitter}")
    try:
        transform = create_transform(
            input_size,
            is_training=True,
            mean=mean,
            std=std,
            interpolation=interpolation,
            scale=crop_scale,
            ratio=crop_ratio,
            hflip=hflip,
            auto_augment=auto_augment or None,
            color_jitter=color_jitter or None,
            normalize=False,
        )
    except (AssertionError, KeyError, IndexError, ValueError) as error:
        # Everything else has been checked; timm reports a bad policy in any of these ways.
        raise ValueError(
            f"auto_augment {auto_augment!r} is not a policy that timm knows; an example is 'rand-m9-mstd0.5-inc1'"
        ) from error
    _keep_a_bit(transform)
    return transforms.Compose([_enlarge_tiny, transform])


def eval_transform(
    input_size: InputSize,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    interpolation: str,
    crop_pct: float = 0.875,
    crop_mode: CropMode = "center",
) -> Transform:
    """Return the deterministic transform of images that are evaluated or predicted.

    Args:
        input_size: `(C, H, W)` of the result.
        mean: Per channel, for values in 0..1.
        std: Per channel, for values in 0..1.
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`.
        crop_pct: The image is resized to `(H, W) / crop_pct` and its centre of `(H, W)` is taken.
        crop_mode: `center` keeps the aspect ratio and resizes the shorter side, so that the ends of the longer one are
            cut off; `squash` resizes both sides; `border` keeps the aspect ratio and pads the shorter side with `mean`.

    Returns:
        A picklable function from an `RGB` PIL image to a uint8 tensor `[C, H, W]`.

    Raises:
        ValueError: If a value is out of range or unknown.
    """
    _check_common(input_size, mean, std, interpolation, _INTERPOLATIONS)
    _check_crop_pct(crop_pct)
    if crop_mode not in ("center", "squash", "border"):
        raise ValueError(f"crop_mode must be 'center', 'squash' or 'border', got {crop_mode!r}")
    transform = create_transform(
        input_size, mean=mean, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode, normalize=False
    )
    return transforms.Compose([_limit_aspect, transform]) if crop_mode == "center" else transform


def min_side_for(input_size: InputSize, crop_pct: float = 0.875) -> int:
    """Return the `min_side` at which `read_image` may shrink images before they are transformed.

    It is twice the side to which `eval_transform` resizes: images with a shorter side of less than twice that are not
    touched, and for larger ones the difference to resizing in one step is hardly visible. For `train_transform`, whose
    smallest crop is `crop_scale[0]` of the area, pass the square root of that as `crop_pct`.

    Args:
        input_size: `(C, H, W)`.
        crop_pct: Share of a side that the crop takes.

    Returns:
        A number of pixels.

    Raises:
        ValueError: If `crop_pct` is not in 0..1.
    """
    _check_crop_pct(crop_pct)
    return 2 * math.ceil(max(input_size[1:]) / crop_pct)


class Normalise(nn.Module):
    """Bytes to normalised numbers, with the bits of torchvision's `ToTensor` and `Normalize` one after the other.

    Args:
        mean: Per channel, for values in 0..1.
        std: Per channel, for values in 0..1.
        numbers: Images are numbers already, not bytes; what is not finite becomes the mean.
    """

    range: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], numbers: bool = False) -> None:
        super().__init__()
        self.numbers = numbers
        # A divisor that lies on the device: by a number of Python's, GPUs multiply with its rounded inverse.
        for name, values in (("range", 255.0), ("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[..., C, H, W]`, in any layout, to float32, contiguous.

        Raises:
            ValueError: The images are of another dtype, and normalised perhaps.
        """
        if self.numbers:
            if images.dtype != torch.float32:
                raise ValueError(f"images are {images.dtype}: expected torch.float32, numbers of each channel")
            return ((images - self.mean) / self.std).nan_to_num_(0.0, 0.0, 0.0)
        if images.dtype != torch.uint8:
            raise ValueError(f"images are {images.dtype}: expected torch.uint8, 0..255")
        result = images.contiguous().float()
        result /= self.range
        result -= self.mean
        result /= self.std
        return result


def _enlarge_tiny(image: Image.Image) -> Image.Image:
    """Repeat the pixels of an image of a few pixels: timm's random crop of it may have no pixel at all."""
    factor = -(-_MIN_CROPPED // min(image.size))
    return (
        image if factor == 1 else image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    )


def _keep_a_bit(transform: transforms.Compose) -> None:
    """Let posterising keep at least one bit: at full magnitude timm asks for none, which Pillow 13 refuses."""
    for step in transform.transforms:
        policy = getattr(step, "policy", [getattr(step, "ops", [])])  # AutoAugment has sub-policies, the others a list
        for operation in itertools.chain.from_iterable(policy):
            if "Posterize" in operation.name:
                operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    return ImageOps.posterize(image, min(max(bits, 1), 8))


def _limit_aspect(image: Image.Image) -> Image.Image:
    limit = _MAX_ASPECT * min(image.size)
    if max(image.size) <= limit:
        return image
    width, height = min(image.width, limit), min(image.height, limit)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _check_common(
    input_size: InputSize,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    interpolation: str,
    interpolations: tuple[str, ...],
) -> None:
    if len(input_size) != 3 or input_size[0] != 3 or min(input_size) < 1:
        raise ValueError(f"input_size must be (3, height, width), got {input_size}")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std must have 3 values each, std positive, got {mean} and {std}")
    if interpolation not in interpolations:
        raise ValueError(f"interpolation must be one of {', '.join(interpolations)}, got {interpolation!r}")


def _check_crop_pct(crop_pct: float) -> None:
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct must be more than 0 and at most 1, got {crop_pct}")


def _check_range(name: str, value: tuple[float, float], limit: float) -> None:
    low, high = value
    if not 0 < low <= high <= limit:
        raise ValueError(f"{name} must be two numbers with 0 < low <= high <= {limit}, got {value}")
