"""Pictures of any size, depth and number of channels, read from disk window by window.

TIFF files are read by rasterio, whose library decodes what a window needs, whatever the compression; arrays (.npy) are
mapped into memory. Other formats have to be decoded whole, and are then what `read_image` makes of them. Where a TIFF
lies on the ground is said however its pixels are read.
"""

from __future__ import annotations

import os
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from transnext.data.images import MAX_PIXELS, UnreadableImage, composite_on_white, read_image, read_stored
from transnext.data.names import printable
from transnext.errors import one_line
from transnext.extras import require

FULL = {"uint8": 255.0, "uint16": 65535.0, "float16": 1.0, "float32": 1.0, "float64": 1.0}
"""What counts as 1 before mean and standard deviation, by type of the values."""
DECODED_WHOLE = 2**24
"""Pixels up to which an ordinary TIFF file is decoded whole, as everywhere else, instead of window by window: 50 MB."""
DECODED_WHOLE_YCBCR = 2**27
"""The same where JPEG holds colours at half the resolution: windows have them interpolated in another way, which makes
about one level of 255."""
_PIECE = 2**24
"""Pixels of the pieces in which a file is compressed, up to which windows of it are read: a larger one is decoded
whole, again for each window."""
_CACHE_MB = 256
"""Memory in which rasterio keeps decoded parts of a file, megabytes; by default it takes a share of the machine's."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION, _BITS, _COMPRESSION, _PHOTOMETRIC, _EXTRA = 274, 258, 259, 262, 338  # tags
_GREY_AS_IT_IS, _RGB, _YCBCR, _JPEG, _TRANSPARENCY = 1, 2, 6, 7, 2  # their values
_GREY = {"L", "I;16", "I;16B", "I;16L", "F"}


class WindowedPicture(ABC):
    """A picture of which parts can be read.

    Attributes:
        name: Its path.
        size: `(H, W)`, pixels.
        channels: How many.
        dtype: Of the values.
    """

    def __init__(self, name: str, size: tuple[int, int], channels: int, dtype: npt.DTypeLike) -> None:
        self.name = name
        self.size = size
        self.channels = channels
        self.dtype = np.dtype(dtype)

    @abstractmethod
    def read(self, rows: slice, columns: slice) -> npt.NDArray[Any]:
        """A window, `[channels, h, w]` of `dtype`; slices have a start and a stop within the picture."""

    def profile(self) -> dict[str, Any]:
        """Where it lies on the ground, as rasterio writes it: `crs` and `transform`; nothing if it does not say."""
        return {}


class ArrayPicture(WindowedPicture):
    """A picture in memory, or mapped into it.

    Args:
        values: `[H, W]` or `[H, W, channels]`.
        name: Its path.
        profile: Where it lies on the ground; see `WindowedPicture.profile`.

    Raises:
        ValueError: The array has another shape.
    """

    def __init__(self, values: npt.NDArray[Any], name: str = "array", profile: dict[str, Any] | None = None) -> None:
        if values.ndim not in (2, 3) or not all(values.shape):
            raise ValueError(
                f"{printable(name)} has shape {list(values.shape)}: pictures are [H, W] or [H, W, channels]"
            )
        self._values = values[..., None] if values.ndim == 2 else values
        height, width, channels = self._values.shape
        super().__init__(name, (height, width), channels, values.dtype)
        self._profile = profile or {}

    def read(self, rows: slice, columns: slice) -> npt.NDArray[Any]:
        """See `WindowedPicture.read`."""
        return np.moveaxis(self._values[rows, columns], -1, 0)

    def profile(self) -> dict[str, Any]:
        """See `WindowedPicture.profile`."""
        return self._profile


class RasterPicture(WindowedPicture):
    """A TIFF file that rasterio has opened; see `open_windowed`."""

    def __init__(self, raster: Any, name: str) -> None:
        kinds = set(raster.dtypes)
        if len(kinds) != 1:
            raise UnreadableImage(name, f"its channels are of several types, {', '.join(sorted(kinds))}: expected one")
        super().__init__(name, (raster.height, raster.width), raster.count, kinds.pop())
        self._raster = raster

    def read(self, rows: slice, columns: slice) -> npt.NDArray[Any]:
        """See `WindowedPicture.read`.

        Raises:
            UnreadableImage: The file is damaged there.
        """
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        try:
            values: npt.NDArray[Any] = self._raster.read(window=Window.from_slices(rows, columns))
        except (RasterioError, OSError) as error:
            raise UnreadableImage(self.name, one_line(error)) from None
        return values

    def profile(self) -> dict[str, Any]:
        """See `WindowedPicture.profile`."""
        return _profile(self._raster)


class OrdinaryRaster(RasterPicture):
    """A TIFF file of 8-bit grey or RGB, with or without transparency, as `read_image` shows it: in RGB, on white."""

    def __init__(self, raster: Any, name: str) -> None:
        super().__init__(raster, name)
        self.channels = 3

    def read(self, rows: slice, columns: slice) -> npt.NDArray[Any]:
        """See `RasterPicture.read`."""
        values = super().read(rows, columns)
        if len(values) == 1:
            return values.repeat(3, 0)
        if len(values) == 4:
            return np.moveaxis(np.asarray(composite_on_white(Image.fromarray(np.moveaxis(values, 0, -1)))), -1, 0)
        return values


class Normaliser:
    """From values of windows to what a network takes: divided by what counts as 1, and normalised.

    Args:
        picture: Whose windows.
        mean: Of each channel, for values in 0..1.
        std: Of each channel, for values in 0..1.
        full: What counts as 1; by default 255, 65535 or 1 by the type of the values, see `FULL`.

    Raises:
        ValueError: The network takes another number of channels, or values of a type without a default.
    """

    def __init__(
        self, picture: WindowedPicture, mean: Sequence[float], std: Sequence[float], full: float | None = None
    ) -> None:
        if len(mean) != len(std):
            raise ValueError(f"mean and std must have as many values, got {len(mean)} and {len(std)}")
        check_channels(picture, len(mean))
        kind = picture.dtype.name
        if full is None and kind not in FULL:
            raise ValueError(
                f"{printable(picture.name)} has values of type {kind}, of which it is not known what counts as 1: "
                f"say so, or give {', '.join(FULL)}"
            )
        if full is not None and not 0 < full < float("inf"):
            raise ValueError(f"what counts as 1 is {full}: expected a number above 0")
        self._full = torch.tensor(FULL[kind] if full is None else full)
        self._mean, self._std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))

    def __call__(self, values: npt.NDArray[Any]) -> Tensor:
        """`[channels, h, w]` to float32 of that shape; what is not finite becomes the mean."""
        # In this order, as `transforms.Normalise` has it, of whose bits they then are.
        x = torch.from_numpy(np.ascontiguousarray(values, np.float32))
        x = (x / self._full - self._mean) / self._std
        return x.nan_to_num_(0.0, 0.0, 0.0) if values.dtype.kind == "f" else x


def check_channels(picture: WindowedPicture, channels: int) -> None:
    """Refuses a picture of another number of channels than a network takes.

    Raises:
        ValueError: It is.
    """
    if picture.channels != channels:
        raise ValueError(
            f"{printable(picture.name)} has {picture.channels} channel{'s' if picture.channels > 1 else ''}, and the "
            f"backbone was built for {channels}: build one with in_chans={picture.channels}, or choose channels"
        )


@contextmanager
def open_windowed(path: str | os.PathLike[str] | npt.NDArray[Any], channels: int = 3) -> Iterator[WindowedPicture]:
    """Opens a picture to be read in windows.

    - .npy: an array `[H, W]` or `[H, W, channels]`, mapped into memory.
    - TIFF: with the channels and the depth that it has, read in windows; but grey, palettes, 8-bit RGB and transparency
      for a network of three channels are what `read_image` makes of them: decoded whole up to `DECODED_WHOLE` pixels,
      and above where they have a palette or are stored turned, in other colours than RGB, or in one piece.
    - Other formats: decoded whole; for three channels by `read_image`, for one or four as they are stored.

    Args:
        path: Of the file; or an array as in .npy, which has no name but "array".
        channels: That are wanted.

    Yields:
        The picture; it may have another number of channels, see `check_channels`.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableImage: It cannot be read.
        TypeError: `path` is something else.
        ValueError: A package is missing, an array has another shape, or a TIFF read in windows is stored turned.
    """
    if isinstance(path, np.ndarray):
        yield ArrayPicture(path)
        return
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"a {type(path).__name__} cannot be read in tiles: give a path or an array [H, W, channels]")
    name = os.fspath(path)
    if not Path(name).exists():
        raise FileNotFoundError(f"there is no file {printable(name)}")
    with Path(name).open("rb") as file:
        head = file.read(8)
    if head.startswith(b"\x93NUMPY"):
        yield ArrayPicture(_mapped(name), name)
    elif head.startswith(_TIFF) and (kind := _in_windows(name, channels)):
        if kind is RasterPicture:
            _check_upright(name)
        with _raster(name) as raster:
            yield kind(raster, name)
    else:
        values = _decoded(name, channels)
        yield ArrayPicture(values, name, place_of(name, (values.shape[0], values.shape[1])))


def place_of(path: str, size: tuple[int, int]) -> dict[str, Any]:
    """Where a picture lies on the ground, as in `WindowedPicture.profile`.

    Nothing if its file does not say, is no TIFF on this machine, is stored turned or of another size than the picture,
    or if rasterio is missing.

    Args:
        path: Of the picture.
        size: `(H, W)` of the picture, upright.
    """
    try:
        with Path(path).open("rb") as file:
            if not file.read(8).startswith(_TIFF):
                return {}
        if _tags(path).get(_ORIENTATION, 1) != 1:
            return {}
        with _raster(path) as raster:
            return _profile(raster) if (raster.height, raster.width) == size else {}
    except (OSError, ValueError):
        return {}


def needs_numbers(path: str) -> int | None:
    """Channels of a TIFF file that 8-bit RGB cannot hold: more than four, or deeper ones, but for grey.

    None for other files, and where rasterio is missing or cannot read it.
    """
    try:
        with Path(path).open("rb") as file:
            if not file.read(8).startswith(_TIFF):
                return None
        with _raster(path) as raster:
            count: int = raster.count
            grey = count == 1 and set(raster.dtypes) <= {"uint8", "uint16"}
            return None if grey or (count in (2, 3, 4) and set(raster.dtypes) == {"uint8"}) else count
    except (OSError, ValueError):
        return None


def _check_upright(name: str) -> None:
    """Refuses a TIFF that is stored turned: windows of it would be, too, while pictures are shown upright elsewhere.

    Raises:
        UnreadableImage: Its header is damaged.
        ValueError: It is.
    """
    turned = _tags(name).get(_ORIENTATION, 1)
    if turned != 1:
        raise ValueError(
            f"{printable(name)} is stored turned (orientation {turned}), not undone in windows: save it upright"
        )


def _tags(name: str) -> ImageFileDirectory_v2:
    """What the header of a TIFF file says of its first picture.

    Raises:
        UnreadableImage: It is damaged.
    """
    try:
        with Path(name).open("rb") as file:
            header = file.read(8)
            header += file.read(8) if 43 in header[2:4] else b""  # BigTIFF
            tags = ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
    except (OSError, SyntaxError, struct.error) as error:
        raise UnreadableImage(name, one_line(error)) from None
    return tags


def _mapped(name: str) -> npt.NDArray[Any]:
    try:
        values: npt.NDArray[Any] = np.load(name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableImage(name, one_line(error)) from None
    return values


def _in_windows(name: str, channels: int) -> type[RasterPicture] | None:
    """How a TIFF file is to be read by rasterio; None if it is to be decoded whole, by `read_image` or as stored."""
    if channels != 3:
        return RasterPicture
    try:
        with _raster(name) as raster:
            deep = set(raster.dtypes) != {"uint8"} or raster.count not in (3, 4)
            if raster.count != 1 and (deep or _tags(name).get(_PHOTOMETRIC) == _GREY_AS_IT_IS):  # no colours
                return RasterPicture
            pixels, (rows, columns) = raster.width * raster.height, raster.block_shapes[0]
            pieces = rows * columns <= _PIECE or pixels > MAX_PIXELS
            return OrdinaryRaster if pixels > DECODED_WHOLE and pieces and _as_shown(raster, name) else None
    except ValueError:  # without rasterio, or not for it: what `read_image` says about the file is to be heard
        return None


def _as_shown(raster: Any, name: str) -> bool:
    """Whether windows of a file have the values that `OrdinaryRaster` takes them for."""
    tags = _tags(name)
    if tags.get(_ORIENTATION, 1) != 1 or set(raster.dtypes) != {"uint8"} or set(tags.get(_BITS, (1,))) != {8}:
        return False
    colours, extra = tags.get(_PHOTOMETRIC), tuple(tags.get(_EXTRA, ()))
    if raster.count == 1:
        return bool(colours == _GREY_AS_IT_IS)
    if raster.count == 4:
        return bool(colours == _RGB and extra == (_TRANSPARENCY,))
    if colours == _YCBCR and tags.get(_COMPRESSION) == _JPEG:
        return bool(raster.width * raster.height > DECODED_WHOLE_YCBCR)
    return bool(colours == _RGB)


def _profile(raster: Any) -> dict[str, Any]:
    """See `WindowedPicture.profile`."""
    if raster.crs is None and raster.transform.is_identity:
        return {}
    return {"crs": raster.crs, "transform": raster.transform}


@contextmanager
def _raster(name: str) -> Iterator[Any]:
    require("reading TIFF files in windows", "rasterio", extra="segment")
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MB, GDAL_PAM_ENABLED="NO"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                # An absolute path is no address, and one driver asks for no other files.
                raster = rasterio.open(Path(name).absolute(), driver="GTiff")
        except RasterioError as error:
            raise UnreadableImage(name, one_line(error)) from None
        with raster, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield raster


def _decoded(name: str, channels: int) -> npt.NDArray[Any]:
    if channels == 3:
        return np.asarray(read_image(name))
    stored = read_stored(name)
    if stored.mode in _GREY or stored.mode == "RGBA":
        return np.asarray(stored)
    return np.asarray(read_image(name))
