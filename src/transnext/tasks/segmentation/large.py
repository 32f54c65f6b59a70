"""Maps of pictures of any size, looked at in tiles that fade into one another, in bounded memory.

A tile says the less about a place the nearer it is to the tile's edge, where the network sees least of what is around.
Pixels are taken as they are: a picture is not resized.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from transnext.atomic import replacing
from transnext.data.windowed import Normaliser, WindowedPicture
from transnext.extras import require
from transnext.limits import MAX_SIDE, check_number
from transnext.tasks.class_colours import Colour
from transnext.tasks.segmentation.blending import Ask, Block, asked, blended, places
from transnext.tasks.segmentation.draw import class_colours
from transnext.tasks.segmentation.net import IGNORED
from transnext.tasks.segmentation.placing import likeliest
from transnext.tasks.tiling import Grid

TILE = 512
"""Side of a tile, pixels, unless another is given."""
OVERLAP = 0.25
"""Share of a tile that it has in common with the next, unless another is given."""
BATCH = 4
"""Tiles that are asked about at once, unless another number is given."""
SUFFIXES = (".npy", ".tif", ".tiff", ".png")
"""Of files that maps are written to."""
_PNG_ROWS = 64
"""Rows of a PNG that are packed together."""
Map = npt.NDArray[np.uint8]
Bands = Iterator[tuple[slice, Map]]


def input_channels(net: nn.Module) -> int:
    """Channels of the pictures that a network takes: those of its first convolution.

    Raises:
        ValueError: It has none.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError("the network has no convolution that tells how many channels its pictures have")


def grid_for(size: tuple[int, int], tile: int = TILE, overlap: float = OVERLAP) -> Grid:
    """The tiles of a picture.

    Args:
        size: `(H, W)` of the picture.
        tile: Side of a tile, pixels, a multiple of 32: the padding of others would lie in the picture.
        overlap: Share of a tile that it has in common with the next, at least, 0..0.9.

    Raises:
        ValueError: A number is out of range.
    """
    check_number("tile", tile, 32, MAX_SIDE)
    if tile % 32:
        raise ValueError(f"tile is {tile}: expected a multiple of 32")
    return Grid.tiled(size, tile, overlap)


def blocks_of(
    ask: Ask,
    picture: WindowedPicture,
    normalise: Normaliser,
    grid: Grid | None = None,
    *,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
) -> Iterator[Block]:
    """Scores of a picture, block by block; see `blended`.

    Args:
        ask: A network in evaluation mode.
        picture: The picture.
        normalise: Makes what the network takes of a window.
        grid: The tiles; by default those of `grid_for`.
        batch_size: Tiles that are asked about at once.
        device: Where the network is.

    Raises:
        ValueError: A number is out of range, or the grid is of another picture.
        UnreadableImage: The file is damaged.
    """
    grid = grid_for(picture.size) if grid is None else grid
    check_number("batch_size", batch_size, 1)
    if grid.size != picture.size:
        raise ValueError(f"the tiles are of a picture of {grid.size}, this one has {picture.size} pixels")

    windows = (normalise(picture.read(rows, columns)).to(device) for rows, columns in places(grid))
    return _quietly(blended(asked(ask, windows, batch_size), grid))


def bands_of(
    ask: Ask,
    picture: WindowedPicture,
    normalise: Normaliser,
    grid: Grid | None = None,
    *,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
) -> Bands:
    """The map of a picture, some rows at a time.

    Memory is that of a batch of tiles, of the scores of one at full size, and of those of the rows that tiles have in
    common, `classes * overlap * tile * width * 4` bytes.

    Args:
        ask: See `blocks_of`, as all others.
        picture: See there.
        normalise: See there.
        grid: See there.
        batch_size: See there.
        device: See there.

    Yields:
        Rows, from top to bottom, and the likeliest class of their pixels, uint8 `[rows, W]`.

    Raises:
        ValueError: See `blocks_of`; or scores are not finite.
        UnreadableImage: The file is damaged.
    """
    blocks = blocks_of(ask, picture, normalise, grid, batch_size=batch_size, device=device)
    return _bands(blocks, picture.size[1])


def map_of(bands: Bands, size: tuple[int, int]) -> Map:
    """The whole map, uint8 `[H, W]`, in memory."""
    labels = np.empty(size, np.uint8)
    for rows, part in bands:
        labels[rows] = part
    return labels


def write_map(
    path: str | os.PathLike[str],
    bands: Bands,
    size: tuple[int, int],
    *,
    classes: int,
    colours: Sequence[Colour] | None = None,
    profile: dict[str, Any] | None = None,
) -> None:
    """Writes a map as it comes, whole or not at all.

    Args:
        path: .npy, an array uint8 `[H, W]`; .tif or .tiff, compressed, with its place on the ground; or .png, whose
            values are the classes and whose palette shows them, what is ignored white.
        bands: The map; see `bands_of`.
        size: `(H, W)`.
        classes: How many there are.
        colours: Of each class, for the palette of PNG; those of our own by default.
        profile: Place on the ground, for TIFF; see `WindowedPicture.profile`.

    Raises:
        ValueError: The suffix is another, or rasterio is missing for TIFF.
        OSError: It cannot be written.
    """
    check_map_file(path)
    suffix = Path(path).suffix.lower()
    with replacing(path if isinstance(path, Path) else Path(os.fspath(path))) as temporary:
        if suffix == ".npy":
            labels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=size)
            for rows, part in bands:
                labels[rows] = part
            labels.flush()
        elif suffix == ".png":
            with temporary.open("wb") as file:
                _write_png(file, (part for _, part in bands), size, class_colours(classes, colours))
        else:
            with _tiff(temporary, size, profile or {}) as write:
                for rows, part in bands:
                    write(rows, part)


def check_map_file(path: str | os.PathLike[str]) -> None:
    """Refuses a name to which no map can be written.

    Raises:
        ValueError: Its suffix is another than those of `SUFFIXES`, or rasterio is missing for TIFF.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{os.fspath(path)} names no kind of map that can be written: choose {', '.join(SUFFIXES)}")
    if suffix.startswith(".tif"):
        require("writing maps as TIFF", "rasterio", extra="segment")


def _quietly(blocks: Iterator[Block]) -> Iterator[Block]:
    """Steps of an iterator without gradients, and what is between them as the caller has it."""
    while True:
        with torch.inference_mode():
            block = next(blocks, None)
        if block is None:
            return
        yield block


def _bands(blocks: Iterator[Block], width: int) -> Bands:
    band = np.empty((0, width), np.uint8)
    for rows, columns, scores in blocks:
        if columns.start == 0:
            band = np.empty((rows.stop - rows.start, width), np.uint8)
        band[:, columns] = likeliest(scores).cpu().numpy()
        if columns.stop == width:
            yield rows, band


def _write_png(file: IO[bytes], parts: Iterable[Map], size: tuple[int, int], colours: Map) -> None:
    """Writes rows as they come: libraries want all of a PNG at once."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    if len(colours) <= IGNORED:
        palette[IGNORED] = 255

    def chunk(kind: bytes, content: bytes) -> None:
        file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))

    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, 3, 0, 0, 0))  # 8 bits, a palette
    chunk(b"PLTE", palette.tobytes())
    packer = zlib.compressobj()
    for part in parts:
        for first in range(0, len(part), _PNG_ROWS):
            # A zero before each row: its bytes are as they are.
            rows = np.pad(part[first : first + _PNG_ROWS], ((0, 0), (1, 0)))
            if content := packer.compress(rows.tobytes()):
                chunk(b"IDAT", content)
    chunk(b"IDAT", packer.flush())
    chunk(b"IEND", b"")


@contextmanager
def _tiff(path: Path, size: tuple[int, int], profile: dict[str, Any]) -> Iterator[Any]:
    """A function that writes rows of a map."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.windows import Window

    height, width = size
    options = {"compress": "deflate", "predictor": 2, "bigtiff": "if_safer", "tiled": False, "blockysize": 16}
    with rasterio.Env(GDAL_CACHEMAX=256, GDAL_PAM_ENABLED="NO"), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", **options, **profile
        ) as raster:

            def write(rows: slice, part: Map) -> None:
                raster.write(part, 1, window=Window.from_slices(rows, slice(0, width)))

            yield write
