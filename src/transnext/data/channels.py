"""Pictures of any number of channels and 8, 16 or 32 bits, as numbers: what 8-bit RGB cannot hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from transnext.data.images import Header, UnreadableImage, read_header, read_kind
from transnext.data.names import printable
from transnext.data.windowed import FULL, WindowedPicture, open_windowed

MAX_CHANNELS = 256
"""That a picture may have."""
_STRETCH = (2.0, 98.0)
"""Percentiles of a channel that are shown black and white."""
_BANDS = {"L": 1, "I;16": 1, "RGBA": 4}
"""Channels of files that are no TIFF, by mode, which are read as they are stored."""
_SAMPLED = 200
"""Pictures of which means are taken, at most."""


@dataclass(frozen=True, eq=False)
class Channels:
    """A picture whose values are numbers, 0..1 for integers: divided by 255 or 65535, or as floats are stored.

    Attributes:
        bands: Its channels, Pillow images in mode `F`, of one size.
    """

    bands: tuple[Image.Image, ...]

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Channels:
        """From values `[C, H, W]`, of a type of `FULL`.

        Raises:
            ValueError: They have another type.
        """
        full = FULL.get(values.dtype.name)
        if full is None:
            raise ValueError(f"values of type {values.dtype.name}: expected {', '.join(FULL)}")
        return cls(tuple(Image.fromarray(np.ascontiguousarray(band, np.float32) / np.float32(full)) for band in values))

    @property
    def width(self) -> int:
        """Pixels."""
        return self.bands[0].width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.bands[0].height

    def mapped(self, change: Callable[[int, Image.Image], Image.Image]) -> Channels:
        """The same with each channel changed, given its place and itself."""
        return Channels(tuple(change(i, band) for i, band in enumerate(self.bands)))

    def tensor(self) -> Tensor:
        """float32 `[C, H, W]`."""
        return torch.from_numpy(np.stack([np.asarray(band) for band in self.bands]))

    def shown(self) -> Image.Image:
        """For eyes, RGB: the first three channels, or the first as grey, each stretched from dark to bright."""
        return shown_numbers(self.tensor())


Picture = Image.Image | Channels
"""In 8-bit RGB, or as numbers."""


def shown_numbers(values: Tensor) -> Image.Image:
    """Numbers `[C, H, W]` for eyes, RGB; see `Channels.shown`."""
    bands = []
    for band in values[: 3 if len(values) >= 3 else 1].cpu().numpy():
        finite = band[np.isfinite(band)]
        low, high = np.percentile(finite, _STRETCH) if finite.size else (0.0, 0.0)
        scaled = (np.nan_to_num(band, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12)
        bands.append((scaled.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    return Image.fromarray(np.stack(bands * (3 // len(bands)), -1))


def read_channels(path: str | os.PathLike[str], channels: int) -> Channels:
    """Read a picture as numbers: a TIFF, .npy, or what else has so many channels.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableImage: It cannot be read, or has another number of channels or values of another type.
        ValueError: A package is missing.
    """
    with open_windowed(path, channels) as picture:
        _check(picture, channels)
        height, width = picture.size
        return Channels.of(picture.read(slice(0, height), slice(0, width)))


def read_channels_header(path: str | os.PathLike[str], channels: int) -> Header:
    """Read the size of a picture that is read as numbers; errors as of `read_channels`, but for damaged pixels."""
    try:
        format, mode = read_kind(path)
    except UnreadableImage:  # no image to Pillow: an array, or a TIFF that it does not know
        format, mode = "TIFF", ""
    if format != "TIFF" and (channels == 3 or _BANDS.get(mode) == channels):
        header = read_header(path)
        return Header(header.upright if channels == 3 else header.stored, 1)
    with open_windowed(path, channels) as picture:
        _check(picture, channels)
        return Header(picture.size, 1)


def statistics_of(paths: Sequence[str], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, over the finite values of pictures, evenly chosen.

    Args:
        paths: Of the pictures; those that cannot be read are left out.
        channels: Of each.

    Raises:
        ValueError: None can be read, or a package is missing.
    """
    step = max(1, len(paths) // _SAMPLED)
    sums = np.zeros((3, channels))
    for path in list(paths)[::step][:_SAMPLED]:
        try:
            values = read_channels(path, channels).tensor().numpy().reshape(channels, -1).astype(np.float64)
        except (UnreadableImage, FileNotFoundError):
            continue
        known = np.isfinite(values)
        values = np.where(known, values, 0)
        sums += np.stack([known.sum(1), values.sum(1), (values**2).sum(1)])
    if not sums[0].all():
        raise ValueError(f"no picture could be read to take means of, as {printable(paths[0])}")
    mean = sums[1] / sums[0]
    std = np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0))
    # A channel that is the same everywhere tells nothing.
    return tuple(mean.tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist())


def _check(picture: WindowedPicture, channels: int) -> None:
    if picture.channels != channels:
        found = f"{picture.channels} channel{'s' if picture.channels > 1 else ''}"
        raise UnreadableImage(picture.name, f"it has {found}, where {channels} are expected")
    if picture.dtype.name not in FULL:
        raise UnreadableImage(picture.name, f"its values are {picture.dtype.name}: expected {', '.join(FULL)}")
