"""Reading one image file, whatever its format, as 8-bit RGB."""

from __future__ import annotations

import functools
import io
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from transnext.data.names import printable
from transnext.errors import one_line, reason_of

MAX_PIXELS = 2**29
"""Images with more pixels than this are refused: as RGB they would need more than 2 GB."""

# Formats of still pictures, in the order in which they are tried. Not all that Pillow opens: some are containers of
# something else (HDF5, MPEG) or start other programs (EPS calls Ghostscript). TGA has no signature and so comes last.
_FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000",
    "MPO", "DIB", "ICO", "ICNS", "QOI", "PCX", "SGI", "SUN", "TGA",
)  # fmt: skip

_SIGNATURES = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF8"),
    ("WEBP", b"RIFF....WEBP"),
    ("JPEG2000", b"\0\0\0\x0cjP  "),
    ("QOI", b"qoif"),
    ("AVIF", b"....ftypavi[fs]"),
    ("HEIF", b"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"),
)
_SIGNATURE = re.compile(b"|".join(b"(?P<%s>%s)" % (name.encode(), text) for name, text in _SIGNATURES), re.DOTALL)
_EXTRA_EXTENSIONS = {"AVIF": (".avif", ".avifs"), "HEIF": (".heic", ".heics", ".heif", ".heifs", ".hif")}
_MISSING = {"AVIF": "Pillow 11.3 or newer reads AVIF", "HEIF": 'pip install "transnext[heif]" makes HEIC readable'}

# Conversion goes in strips of about this many pixels, so that a large image is held once and not three times.
_STRIP_PIXELS = 2**22

_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# After rows and columns have changed places, from orientation 5 on: whether x and y are counted from the other side.
_FLIPS = {
    1: (False, False), 2: (True, False), 3: (True, True), 4: (False, True),
    5: (False, False), 6: (True, False), 7: (True, True), 8: (False, True),
}  # fmt: skip


class UnreadableImage(ValueError):  # noqa: N818 - the name says what it is; callers catch it to skip an image
    """A file that exists but cannot be read as an image.

    Attributes:
        path: The file, as it was given; `<bytes>` or `<stream>` where there is no name.
        reason: One line that says why.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read image {printable(self.path)}: {self.reason}"


def read_image(
    source: str | os.PathLike[str] | BinaryIO | bytes, min_side: int | None = None, *, max_pixels: int | None = None
) -> Image.Image:
    """Read an image as 8-bit RGB, upright.

    The EXIF orientation is applied, transparency is composited on white, and of an animation the first frame is taken.
    Colour profiles are ignored, as they were when the published models were trained. Samples of more than 8 bits are
    scaled, never clipped:

    - 16-bit grey: divided by 257, so 65535 becomes 255.
    - 32-bit integer grey: unchanged if all values lie in 0..255, divided by 257 if they lie in 0..65535.
    - float grey: times 255 if all values lie in 0..1, unchanged if they lie in 0..255.
    - any other range of the last two: stretched linearly from its minimum and maximum to 0..255. NaN becomes 0.

    The function changes no global state of Pillow and may be called from several threads.

    Args:
        source: A path, the bytes of an image file, or a binary stream, which is read from its start.
        min_side: If given, an image that is at least twice as large may be returned smaller, by an integer factor, but
            with its shorter side no less than `min_side` pixels. Saves time (JPEG) and memory (all formats).
        max_pixels: Images that say they have more are refused before a pixel is decoded; `MAX_PIXELS` if None.

    Returns:
        The image in mode `RGB`, without metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImage: If the file is not an image, is damaged or empty, cannot be opened, is a folder, or has more
            than `max_pixels` pixels.
        ValueError: If `min_side` is less than 1.
    """
    return read_shrunk(source, min_side, max_pixels=max_pixels)[0]


def read_shrunk(
    source: str | os.PathLike[str] | BinaryIO | bytes, min_side: int | None = None, *, max_pixels: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """Read an image as `read_image` does, and tell `(H, W)` that it has, upright, if it is not shrunk."""
    if min_side is not None and min_side < 1:
        raise ValueError(f"min_side must be at least 1 pixel, got {min_side}")
    if isinstance(source, bytes):
        return _read_stream(io.BytesIO(source), "<bytes>", min_side, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        with _open_file(path) as stream:
            return _read_stream(stream, path, min_side, max_pixels)
    name = getattr(source, "name", None)
    stream = source if source.seekable() else io.BytesIO(source.read())
    return _read_stream(stream, name if isinstance(name, str) else "<stream>", min_side, max_pixels)


def read_stored(path: str | os.PathLike[str]) -> Image.Image:
    """Read the pixels of an image file as they are stored: in their own mode, neither converted nor turned.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImage: As in `read_image`.
    """
    name = os.fspath(path)
    with _open_file(name) as stream:
        try:
            image = _identify(stream)
            if image.width * image.height > MAX_PIXELS:
                raise _RefusedError(f"{image.width} x {image.height} is more than the limit of {MAX_PIXELS} pixels")
            _allocate_large_tiff(image)
            image.load()
        except Exception as error:  # as in `_read_stream`
            raise UnreadableImage(name, _reason(error)) from None
    return image


def turned_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels `[H, W, ...]` by an orientation of EXIF, 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flip_x, flip_y = _FLIPS[orientation]
    return pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


class Header(NamedTuple):
    """What an image file says of itself.

    Attributes:
        stored: `(H, W)` of the pixels as they are stored.
        orientation: Of EXIF, 1 to 8: how they are to be turned; 5 to 8 exchange the sides.
    """

    stored: tuple[int, int]
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """`(H, W)` of the picture as `read_image` gives it."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read size and orientation of an image file; pixels are decoded only where the orientation comes after them.

    May be called from several threads.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImage: If it is not an image, or has more than `MAX_PIXELS` pixels.
    """
    name = os.fspath(path)
    with _open_file(name) as stream:
        try:
            image = _identify(stream)
            if image.width * image.height > MAX_PIXELS:
                raise _RefusedError(f"{image.width} x {image.height} is more than the limit of {MAX_PIXELS} pixels")
            late = image.format != "PNG" or _has_late_metadata(stream)
            orientation = _orientation(image) if late else _orientation_so_far(image)
        except Exception as error:  # damaged data may raise anything
            raise UnreadableImage(name, one_line(error)) from None
    orientation = orientation if orientation in _ORIENTATIONS else 1
    stored = (image.height, image.width)
    if image.format == "TIFF" and orientation >= 5:  # Pillow gives the upright size of these alone
        stored = (image.width, image.height)
    return Header(stored, orientation)


def read_kind(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Read the format and the mode of an image file, as Pillow calls them; no pixel is decoded. See `read_header`."""
    name = os.fspath(path)
    with _open_file(name) as stream:
        try:
            image = _identify(stream)
        except Exception as error:  # damaged data may raise anything
            raise UnreadableImage(name, one_line(error)) from None
    return image.format or "", image.mode


def _has_late_metadata(stream: BinaryIO) -> bool:
    """Return whether a PNG file has metadata after its pixels, which Pillow decodes to get there."""
    position, late = stream.tell(), False
    stream.seek(8)
    pixels = False
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        pixels = pixels or kind == b"IDAT"
        if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            late = True
            break
        stream.seek(length + 4, os.SEEK_CUR)
    stream.seek(position)
    return late


def _orientation_so_far(image: Image.Image) -> int:
    """Return the orientation by the metadata that have been read."""
    try:
        return int(Image.Image.getexif(image).get(_ORIENTATION_TAG, 1))
    except Exception:  # as in `_orientation`
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image that is already open as `read_image` would: 8-bit RGB, upright, on white, without metadata."""
    rgb = _to_rgb(image, 1)
    method = _ORIENTATIONS.get(_orientation(image))
    if method is not None:
        rgb = rgb.transpose(method)
    rgb.info.clear()  # it may hold an orientation that has just been applied
    return rgb


def composite_on_white(image: Image.Image) -> Image.Image:
    """Return `image`, of any mode with transparency, on a white background in mode `RGB`."""
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    background = Image.new("RGB", image.size, (255, 255, 255))
    background.paste(image, mask=image.getchannel("A"))
    return background


@functools.cache
def image_extensions() -> frozenset[str]:
    """Return the file name extensions that `read_image` knows, in lower case and with the dot.

    What is in it depends on how Pillow was built and on whether `pillow-heif` is installed; a file's contents, not its
    extension, decide how it is decoded.
    """
    Image.init()
    registered = Image.registered_extensions()
    extensions = {ext.lower() for ext, name in registered.items() if name in _FORMATS and name in Image.OPEN}
    return frozenset(extensions).union(*(_EXTRA_EXTENSIONS[name] for name in _EXTRA_EXTENSIONS if _can_read(name)))


@functools.cache
def unreadable_extensions() -> dict[str, str]:
    """Return the extensions of images that only other software than is installed can read, and which one that is."""
    return {ext: _MISSING[name] for name, all_ in _EXTRA_EXTENSIONS.items() if not _can_read(name) for ext in all_}


def recognise(head: bytes) -> str | None:
    """Return the format of an image file by how it begins, None if it is none of the usual ones.

    TIFF is not among them: the raw files of cameras begin in the same way.

    Args:
        head: The first 16 bytes or more.
    """
    match = _SIGNATURE.match(head)
    return match.lastgroup if match else None


def why_not_readable(kind: str) -> str:
    """Return what is missing to read images of a format that `recognise` gave; empty if nothing is."""
    return "" if _can_read(kind) else _MISSING.get(kind, f"this Pillow does not read {kind}")


def _can_read(kind: str) -> bool:
    Image.init()
    return kind in Image.OPEN if kind != "HEIF" else _heif_reader() is not None


@functools.cache
def _heif_reader() -> Callable[[BinaryIO, str], ImageFile.ImageFile] | None:
    """Return what opens HEIF files, without making it known to all of Pillow; None if it is not installed."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    return HeifImageFile


def _open_file(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image file {printable(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        is_folder = Path(path).is_dir() if isinstance(error, OSError) else False
        why = "it is a folder, not a file" if is_folder else _reason(error)
        raise UnreadableImage(path, why) from None


def _read_stream(
    stream: BinaryIO, name: str, min_side: int | None, max_pixels: int | None
) -> tuple[Image.Image, tuple[int, int]]:
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        image = _identify(stream)
        if image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height}"
            raise _RefusedError(f"{size} is more than the limit of {max_pixels} pixels; make it smaller")
        full = image.size
        drafted = min_side is not None and image.draft(None, (min_side, min_side)) is not None  # only JPEG can
        _allocate_large_tiff(image)
        image.load()
        width, height = full if drafted else image.size  # icons know theirs only now
        rgb = _to_rgb(image, 1 if min_side is None else max(1, min(image.size) // min_side))
        orientation = _orientation(image)
        method = _ORIENTATIONS.get(orientation)
        if method is not None:
            rgb = rgb.transpose(method)
        rgb.info.clear()  # it may hold an orientation that has just been applied
        return rgb, (width, height) if method is not None and orientation >= 5 else (height, width)
    except Exception as error:  # a decoder that is fed damaged data may raise anything
        raise UnreadableImage(name, _reason(error)) from None


class _RefusedError(Exception):
    """Something about the file that we ourselves object to; the message is the reason."""


def _identify(stream: BinaryIO) -> ImageFile.ImageFile:
    """Open with the first format that accepts the file, without decoding pixels.

    `Image.open` would do this too, but it applies `Image.MAX_IMAGE_PIXELS`, which can only be changed for the whole
    process. Our own limit is `MAX_PIXELS`.
    """
    Image.init()
    stream.seek(0)
    prefix = stream.read(16)
    if not prefix:
        raise _RefusedError("the file is empty")
    for name in _FORMATS:
        if name not in Image.OPEN:  # a format that this build of Pillow lacks
            continue
        factory, accept = Image.OPEN[name]
        try:
            accepted = accept(prefix) if accept else True
        except (IndexError, struct.error):  # the file is shorter than what this format looks at
            continue
        if isinstance(accepted, str):  # recognised, but not supported by this build
            raise _RefusedError(accepted)
        if not accepted:
            continue
        stream.seek(0)
        try:
            return factory(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # so Pillow's plugins say "not mine"
            continue
    kind = recognise(prefix)
    if kind in _MISSING and (missing := why_not_readable(kind)):
        raise _RefusedError(missing)
    if kind == "HEIF" and (reader := _heif_reader()):
        stream.seek(0)
        return reader(stream, "")
    raise _RefusedError("it is damaged, or not an image in a format that can be read")


def _allocate_large_tiff(image: ImageFile.ImageFile) -> None:
    """Give a large TIFF its memory, which `TiffImageFile.load` would refuse to do above Pillow's global limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if image.format == "TIFF" and limit is not None and image.width * image.height > limit:
        image.im = Image.new(image.mode, getattr(image, "_tile_size", image.size)).im


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken metadata is no reason to lose the pixels
        return 1


def _to_rgb(image: Image.Image, factor: int) -> Image.Image:
    """Convert a decoded image to RGB, shrunk by the integer `factor` with a box filter."""
    value_range = _value_range(image)
    if factor == 1 and image.width * image.height <= _STRIP_PIXELS:
        return _strip_to_rgb(image, value_range)
    result = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top, strip in _strips(image, factor):
        piece = _strip_to_rgb(strip, value_range)
        result.paste(piece.reduce(factor) if factor > 1 else piece, (0, top // factor))
    return result


def _strips(image: Image.Image, multiple: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Yield `(top, strip)` over the whole image; heights are multiples of `multiple`, except the last."""
    rows = max(1, _STRIP_PIXELS // (image.width * multiple)) * multiple
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _strip_to_rgb(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    if value_range is not None:
        low, high = value_range
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=low, posinf=high, neginf=low)
        scaled = (values - low) * (255.0 / (high - low))
        # Adding a half and cutting off rounds halves up: 32768 / 257 = 127.502 and 127.5 both become 128.
        return Image.fromarray((scaled + 0.5).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        return composite_on_white(image)
    return image.convert("RGB")


def _value_range(image: Image.Image) -> tuple[float, float] | None:
    """Return the values that become 0 and 255, or None for modes of 8 bits and fewer."""
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode not in ("I", "F"):
        return None
    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        values = np.asarray(strip)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:  # nothing finite
        return 0.0, 1.0
    for limit in (1.0, 255.0) if image.mode == "F" else (255.0, 65535.0):
        if low >= 0 and high <= limit:
            return 0.0, limit
    return low, high if high > low else low + 1.0


def _reason(error: BaseException) -> str:
    return "not enough memory to decode it" if isinstance(error, MemoryError) else reason_of(error)
