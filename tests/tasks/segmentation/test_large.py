"""Pictures of any size in tiles: the definition's map, in bounded memory, written as it comes."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tests.helpers.looking import Looking, dense
from transnext.data.windowed import ArrayPicture, Normaliser, WindowedPicture, open_windowed
from transnext.models.backbone import Backbone
from transnext.tasks.segmentation.large import (
    bands_of,
    blocks_of,
    check_map_file,
    grid_for,
    input_channels,
    map_of,
    write_map,
)
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.tiling import Grid

pytestmark = pytest.mark.usefixtures("one_thread")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def picture(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> ArrayPicture:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, np.iinfo(dtype).max, (-(-height // 9), -(-width // 9), channels)).astype(dtype)
    return ArrayPicture(coarse.repeat(9, 0).repeat(9, 1)[:height, :width])


def normaliser(of: WindowedPicture) -> Normaliser:
    return Normaliser(of, (MEAN * 3)[: of.channels], (STD * 3)[: of.channels])


@pytest.mark.parametrize("size", [(131, 257), (64, 64), (50, 41), (200, 64), (65, 97)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.7])
def test_map_is_that_of_the_definition(size: tuple[int, int], overlap: float) -> None:
    ask, of = Looking(), picture(*size)
    normalise, grid = normaliser(of), grid_for(size, 64, overlap)
    whole = normalise(of.read(slice(0, size[0]), slice(0, size[1])))
    scores = dense(ask, whole, grid)
    found = np.zeros_like(scores)
    for rows, columns, block in blocks_of(ask, of, normalise, grid, batch_size=3):
        found[:, rows, columns] = block.numpy()
    np.testing.assert_allclose(found, scores, atol=5e-5)
    bands = list(bands_of(ask, of, normalise, grid))
    assert [row for rows, _ in bands for row in range(rows.start, rows.stop)] == list(range(size[0]))
    labels = np.concatenate([part for _, part in bands])
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, found.argmax(0))
    ordered = np.sort(scores, 0)
    sure = ordered[-1] - ordered[-2] > 1e-4
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(labels[sure], scores.argmax(0)[sure])


def test_a_picture_within_a_tile_is_what_the_network_says() -> None:
    net = build_net("upernet", Backbone("transnext_pico"), 4, size="small").eval()
    of = picture(64, 96)
    x = normaliser(of)(of.read(slice(0, 64), slice(0, 96)))[None]
    with torch.inference_mode():
        plain = F.interpolate(net(x, torch.tensor([[64, 96]])), (64, 96), mode="bilinear", align_corners=False)[0]
    ((_, _, block),) = blocks_of(net, of, normaliser(of), grid_for((64, 96), 96))
    assert torch.equal(block, plain)


def test_more_channels_and_more_bits(tmp_path: Path) -> None:
    """A backbone that was built for them, a file of them, and a map with its place on the ground."""
    rasterio = pytest.importorskip("rasterio")
    net = build_net("upernet", Backbone("transnext_pico", in_chans=5), 4, size="small").eval()
    assert input_channels(net) == 5
    of = picture(100, 130, 5, np.uint16)
    where = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(300_000, 5_000_000, 10, 10)}
    stored = of.read(slice(0, 100), slice(0, 130))
    with rasterio.open(
        tmp_path / "x.tif", "w", driver="GTiff", height=100, width=130, count=5, dtype="uint16", **where
    ) as file:
        file.write(stored)
    grid = grid_for((100, 130), 64)
    expected = map_of(bands_of(net, of, normaliser(of), grid), (100, 130))
    with open_windowed(tmp_path / "x.tif", input_channels(net)) as opened:
        bands = bands_of(net, opened, normaliser(opened), grid)
        write_map(tmp_path / "map.tif", bands, opened.size, classes=4, profile=opened.profile())
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert file.transform == where["transform"]
        assert file.crs.to_epsg() == 32633
    with pytest.raises(ValueError, match="has 5 channels, and the backbone was built for 3"):
        Normaliser(of, MEAN, STD)


@pytest.mark.parametrize("name", ["map.npy", "map.png", "map.tif", "MAP.TIFF"])
def test_files(tmp_path: Path, name: str) -> None:
    if "tif" in name.lower():
        pytest.importorskip("rasterio")
    of = picture(131, 257)
    bands = bands_of(Looking(), of, normaliser(of), grid_for(of.size, 64))
    expected = list(bands)
    write_map(tmp_path / name, iter(expected), of.size, classes=5)
    labels = np.concatenate([part for _, part in expected])
    path = tmp_path / name
    found = np.load(path) if name.endswith(".npy") else np.asarray(Image.open(path))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, labels)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_nothing_is_written_of_a_map_that_fails(tmp_path: Path) -> None:
    def broken(images: Tensor, sizes: Tensor) -> Tensor:
        return torch.full((len(images), 2, 8, 8), float("nan"))

    of = picture(131, 257)
    for name in ("map.npy", "map.png", "map.tif"):
        with pytest.raises(ValueError, match="not finite"):
            write_map(tmp_path / name, bands_of(broken, of, normaliser(of)), of.size, classes=2)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["png", "npy", "tif"])
def test_memory_of_files_does_not_grow_with_the_height(tmp_path: Path, suffix: str) -> None:
    if suffix == "tif":
        pytest.importorskip("rasterio")
    width = 4096

    def peak(height: int) -> int:
        bands = ((slice(row, row + 64), np.full((64, width), row // 64 % 5, np.uint8)) for row in range(0, height, 64))
        tracemalloc.start()
        try:
            write_map(tmp_path / f"{height}.{suffix}", bands, (height, width), classes=5)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(64)  # imports
    assert peak(8192) < peak(1024) + 2**20  # bytes; the larger map has 28 million more pixels


def test_modes_of_the_caller_stay() -> None:
    of = picture(70, 130)
    for _ in bands_of(Looking(), of, normaliser(of), grid_for(of.size, 64)):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tile": 0}, "tile is 0"),
        ({"tile": 100}, "tile is 100: expected a multiple of 32"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"overlap": float("nan")}, "overlap is nan"),
    ],
)
def test_tiles_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        grid_for((64, 64), **options)


def test_options_that_cannot_be(tmp_path: Path) -> None:
    of = picture(70, 130)
    with pytest.raises(ValueError, match="batch_size is 0"):
        bands_of(Looking(), of, normaliser(of), batch_size=0)
    with pytest.raises(ValueError, match=r"tiles are of a picture of \(64, 64\), this one has \(70, 130\)"):
        bands_of(Looking(), of, normaliser(of), grid_for((64, 64)))
    with pytest.raises(ValueError, match=r"map\.jpg names no kind of map"):
        check_map_file(tmp_path / "map.jpg")
    with pytest.raises(ValueError, match="no convolution"):
        input_channels(torch.nn.Linear(3, 3))


class Endless(WindowedPicture):
    """A picture that exists only where it is read."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__("endless", size, 3, np.uint8)

    def read(self, rows: slice, columns: slice) -> npt.NDArray[Any]:
        y, x = np.ogrid[rows, columns]
        one = ((y // 50 + x // 70) % 5 * 50).astype(np.uint8)
        return np.stack([one, 255 - one, one // 2])


def test_memory_does_not_grow_with_the_height() -> None:
    """Of the process and of Python: bands are given away, the rest is the same for any height."""

    def ask(images: Tensor, sizes: Tensor) -> Tensor:
        return F.avg_pool2d(images, 4).repeat(1, 10, 1, 1)

    def peak(height: int, width: int) -> float:
        of, process = Endless((height, width)), psutil.Process()
        least = process.memory_info().rss
        most = least
        for _ in bands_of(ask, of, normaliser(of), grid_for(of.size, 128)):
            most = max(most, process.memory_info().rss)
        return (most - least) / 2**20

    peak(512, 600)  # what is reused by all
    assert peak(8000, 600) < 16, "the scores of all of it are 549 MB"
    tracemalloc.start()
    for _ in bands_of(ask, Endless((4000, 600)), normaliser(Endless((4000, 600))), grid_for((4000, 600), 128)):
        pass
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert traced < 4 * 2**20


def test_tiles_shifted_by_half_a_tile_say_the_same_of_what_needs_no_surroundings() -> None:
    """A network that looks at pixels alone has no seams."""

    def ask(images: Tensor, sizes: Tensor) -> Tensor:
        return torch.stack([images[:, 0], images[:, 1], 0.3 * images.sum(1)], 1)

    of = picture(200, 330)
    one = map_of(bands_of(ask, of, normaliser(of), grid_for(of.size, 96)), of.size)
    shifted = Grid(of.size, (96, 96), [0, 48, 104], [0, 48, 120, 192, 234], fading=True)
    other = map_of(bands_of(ask, of, normaliser(of), shifted), of.size)
    assert (one != other).mean() < 1e-3
    assert len(np.unique(one)) == 3
