"""Images in whatever form a caller has them, as 8-bit RGB."""

import glob
import os
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from transnext.data import UnreadableImage, list_images, to_rgb
from transnext.data.channels import Channels, read_channels
from transnext.data.images import read_shrunk
from transnext.errors import one_line

ImageLike = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | np.ndarray | torch.Tensor

ACCEPTED = (
    "a path, folder, pattern or http(s) URL, the bytes of an image file or a file open for reading them, a PIL image, "
    "an array [H, W] or [H, W, C], a tensor [H, W] or [C, H, W], a batch of those, or an iterable of all this"
)
_ARRAYS = (np.ndarray, torch.Tensor)
_FILES = (bytes, bytearray, memoryview)
_CHANNELS = (1, 2, 3, 4)
_SECONDS = 30


def one_by_one(images: Any) -> Iterator[Any]:
    """The single images of what was given.

    Args:
        images: As in `Predictor.__call__`.

    Raises:
        TypeError: It is something else.
        ValueError: A folder has no images.
    """
    if isinstance(images, (str, os.PathLike)):
        yield from files_of(images)
    elif isinstance(images, _ARRAYS) and images.ndim == 4:
        yield from images
    elif _is_image(images):
        yield images
    elif isinstance(images, Iterable) and not isinstance(images, dict):
        for image in images:
            # Lists in lists are more likely a mistake than a wish.
            yield from one_by_one(image) if isinstance(image, (str, os.PathLike, *_ARRAYS)) else [image]
    else:
        raise TypeError(f"{type(images).__name__} is not an image: give {ACCEPTED}")


def files_of(path: str | os.PathLike[str]) -> list[str]:
    """Files that a path stands for: the image files in a folder and below, sorted, the files of a pattern, or itself.

    Raises:
        ValueError: A folder has no images.
    """
    name = os.fspath(path)
    if Path(name).is_dir():
        files = list_images(name)
        if not files:
            raise ValueError(f"{name} has no images in it")
        return files
    if glob.has_magic(name) and not is_url(name) and not os.path.lexists(name):
        files = [file for file in sorted(glob.glob(name, recursive=True)) if not Path(file).is_dir()]  # noqa: PTH207
        return files or [name]
    return [name]


def is_url(name: str) -> bool:
    """True if a name is a web address."""
    return name.startswith(("http://", "https://"))


def name_of(image: ImageLike, place: int) -> str:
    """Name of an image: its path or address, else "image" and its place."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    name = getattr(image, "name", None)
    return name if hasattr(image, "read") and isinstance(name, str) else f"image {place}"


def open_image(image: Any, min_side: int | None) -> Image.Image:
    """One image as 8-bit RGB, upright.

    Args:
        image: As in `Predictor.__call__`, but no folder, pattern or batch.
        min_side: As in `read_image`.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: It is something else.
        ValueError: An array has another shape, type or range.
        UnreadableImage: It cannot be read as an image.
    """
    return open_shrunk(image, min_side)[0]


def open_shrunk(image: Any, min_side: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """One image as `open_image` gives it, and `(H, W)` that it has, upright, if it is not shrunk."""
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
        return read_shrunk(_download(name) if is_url(name) else name, min_side)
    if isinstance(image, _FILES):
        return read_shrunk(bytes(image), min_side)
    if isinstance(image, Image.Image):
        try:
            return _with_size(to_rgb(image))
        except Exception as error:  # a file that is opened but not read yet may be damaged in any way
            raise UnreadableImage("<PIL image>", one_line(error)) from None
    if isinstance(image, _ARRAYS):
        return _with_size(to_rgb(Image.fromarray(_pixels(image))))
    if not _is_image(image):
        raise TypeError(f"{type(image).__name__} is not an image: give {ACCEPTED}")
    data = image.read()
    if not isinstance(data, bytes):
        raise TypeError(f"a file open for reading text is not an image: give {ACCEPTED}")
    return read_shrunk(data, min_side)


def _with_size(image: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    return image, (image.height, image.width)


def open_channels(image: Any, channels: int) -> Channels:
    """One image as numbers of so many channels.

    Args:
        image: A path, or an array `[H, W, channels]` of uint8, uint16 or floats; of one channel also `[H, W]`.
        channels: How many.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: It is something else.
        ValueError: An array has another shape or type.
        UnreadableImage: It cannot be read, or has another number of channels.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_channels(os.fspath(image), channels)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{type(image).__name__}: the model takes {channels} channels: give paths or arrays [H, W, C]")
    values = image[..., None] if image.ndim == 2 else image
    if values.ndim != 3 or values.shape[2] != channels or not values.size:
        raise ValueError(f"an array of shape {list(image.shape)}: the model takes [H, W, {channels}]")
    return Channels.of(np.moveaxis(values, -1, 0))


def _is_image(image: Any) -> bool:
    return isinstance(image, (*_FILES, *_ARRAYS, Image.Image)) or hasattr(image, "read")


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            data: bytes = response.read()
    except (OSError, ValueError) as error:
        raise UnreadableImage(url, one_line(error)) from None
    return data


def _pixels(image: np.ndarray | torch.Tensor) -> np.ndarray:
    """uint8 `[H, W]` or `[H, W, C]` of an array or a tensor."""
    kind = "a tensor" if isinstance(image, torch.Tensor) else "an array"
    shape = tuple(image.shape)
    channels = shape[0 if isinstance(image, torch.Tensor) else -1] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in _CHANNELS or not all(shape):
        raise ValueError(
            f"{kind} of shape {list(shape)} is no image: arrays are [H, W] or [H, W, C], tensors [H, W] or [C, H, W], "
            "with 1 to 4 channels"
        )
    if isinstance(image, torch.Tensor):
        array = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
        array = np.moveaxis(array, 0, -1) if len(shape) == 3 else array
    else:
        array = image
    return np.ascontiguousarray(_bytes(array[:, :, 0] if channels == 1 and len(shape) == 3 else array, kind))


def _bytes(values: np.ndarray, kind: str) -> np.ndarray:
    """The values of an array as uint8, 0..255."""
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) * 2 + 257) // 514).astype(np.uint8)  # divided by 257, halves up, as files are
    if values.dtype == np.bool_:
        return values * np.uint8(255)
    # What lies outside is normalised already or of a range that cannot be known, and would give a wrong answer.
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.floating):
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{kind} of floats holds {low:g}..{high:g}: expected 0..1, not normalised")
        return (values.astype(np.float32) * 255 + 0.5).astype(np.uint8)
    if not np.issubdtype(values.dtype, np.integer) or low < 0 or high > 255:
        raise ValueError(
            f"{kind} of {values.dtype} holds {low}..{high}: expected 0..255, uint16 0..65535, bool, or floats 0..1"
        )
    return values.astype(np.uint8)
