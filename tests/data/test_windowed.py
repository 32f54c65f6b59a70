"""Parts of pictures on disk: the values that are in the file, whatever its format."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from transnext.data import UnreadableImage, read_image
from transnext.data import windowed as windowed_module
from transnext.data.preprocessing import Preprocessing
from transnext.data.windowed import ArrayPicture, Normaliser, check_channels, open_windowed, place_of

rasterio = pytest.importorskip("rasterio")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Dataset has no geotransform"),
]

WINDOWS = [(slice(0, 61), slice(0, 45)), (slice(13, 30), slice(7, 8)), (slice(60, 61), slice(0, 45))]


def values(channels: int, dtype: npt.DTypeLike, height: int = 61, width: int = 45) -> npt.NDArray:
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.random((height, width, channels)).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), endpoint=True).astype(dtype)


def write_tiff(path: Path, x: npt.NDArray, **options) -> None:
    height, width, channels = x.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=channels, dtype=x.dtype.name, **options
    ) as file:
        file.write(np.moveaxis(x, -1, 0))


def windows_are(path: Path, expected: npt.NDArray, channels: int) -> None:
    with open_windowed(path, channels) as picture:
        assert picture.size == expected.shape[:2]
        assert picture.channels == expected.shape[2]
        assert picture.dtype == expected.dtype
        for rows, columns in WINDOWS:
            found = picture.read(rows, columns)
            np.testing.assert_array_equal(found, np.moveaxis(expected[rows, columns], -1, 0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_arrays(tmp_path: Path, channels: int, dtype: str) -> None:
    x = values(channels, dtype)
    np.save(tmp_path / "x.npy", x)
    windows_are(tmp_path / "x.npy", x, channels)


def test_array_without_channels(tmp_path: Path) -> None:
    x = values(1, "uint16")
    np.save(tmp_path / "x.npy", x[..., 0])
    windows_are(tmp_path / "x.npy", x, 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compress": "lzw", "predictor": 2},
        {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 32},
        {"interleave": "band", "bigtiff": "yes"},
        {"compress": "zstd", "interleave": "pixel"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint16"), (5, "uint16"), (8, "uint8")])
def test_tiff(tmp_path: Path, channels: int, dtype: str, options: dict) -> None:
    x = values(channels, dtype)
    write_tiff(tmp_path / "x.tif", x, **options)
    windows_are(tmp_path / "x.tif", x, channels)


def test_ordinary_pictures_are_what_they_are_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = values(3, "uint8")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(x).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(x).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(values(4, "uint8")).save(tmp_path / "clear.tif")
    Image.fromarray(x[..., 0]).save(tmp_path / "grey.tif")
    Image.fromarray(values(1, "uint16")[..., 0]).save(tmp_path / "deep_grey.tif")
    Image.fromarray(x).save(tmp_path / "plain.tif")
    for path in sorted(tmp_path.iterdir()):
        expected = np.asarray(read_image(path))
        with open_windowed(path) as picture:
            whole = picture.read(slice(0, picture.size[0]), slice(0, picture.size[1]))
        np.testing.assert_array_equal(np.moveaxis(whole, 0, -1), expected, err_msg=path.name)
    monkeypatch.setattr(windowed_module, "DECODED_WHOLE", 100)
    windows_are(tmp_path / "plain.tif", x, 3)
    with open_windowed(tmp_path / "plain.tif") as picture:
        assert isinstance(picture, windowed_module.RasterPicture)


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (1, "uint16"), (4, "uint8")])
def test_png_as_it_is_stored(tmp_path: Path, channels: int, dtype: str) -> None:
    x = values(channels, dtype)
    Image.fromarray(x[..., 0] if channels == 1 else x).save(tmp_path / "x.png")
    windows_are(tmp_path / "x.png", x, channels)


def test_normalised_with_the_bits_of_everywhere_else() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    one = Preprocessing(
        input_size=(3, 64, 64), mean=mean, std=std, interpolation="bilinear", crop_pct=1.0, crop_mode="fit"
    )
    x = np.moveaxis(values(3, "uint8"), -1, 0)
    found = Normaliser(ArrayPicture(values(3, "uint8")), mean, std)(x)
    assert torch.equal(found, one.normalise()(torch.from_numpy(x)))


@pytest.mark.parametrize(("dtype", "full"), [("uint16", 65535), ("float32", 1), ("float64", 1)])
@pytest.mark.parametrize("given", [None, 4095.0])
def test_deep_values(dtype: str, full: float, given: float | None) -> None:
    x = values(5, dtype)
    mean, std = np.linspace(0.2, 0.6, 5), np.linspace(0.1, 0.3, 5)
    found = Normaliser(ArrayPicture(x), mean.tolist(), std.tolist(), given)(np.moveaxis(x, -1, 0))
    assert found.dtype == torch.float32
    expected = (x / (given or full) - mean) / std
    np.testing.assert_allclose(found.numpy(), np.moveaxis(expected, -1, 0), rtol=2e-5, atol=2e-5)


def test_signed_values_need_a_scale() -> None:
    picture = ArrayPicture(np.array([[-100, 300]], np.int16))
    with pytest.raises(ValueError, match="int16, of which it is not known what counts as 1"):
        Normaliser(picture, [0.5], [0.5])
    found = Normaliser(picture, [0.5], [0.5], 1000)(picture.read(slice(0, 1), slice(0, 2)))
    torch.testing.assert_close(found, torch.tensor([[[-1.2, -0.4]]]))
    for full in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a number above 0"):
            Normaliser(picture, [0.5], [0.5], full)


def test_what_is_not_finite_is_the_mean() -> None:
    picture = ArrayPicture(np.array([[np.nan, 1.0, np.inf, -np.inf]], np.float32))
    found = Normaliser(picture, [0.5], [0.5])(picture.read(slice(0, 1), slice(0, 4)))
    assert found.tolist() == [[[0, 1, 0, 0]]]


def test_another_number_of_channels() -> None:
    with pytest.raises(ValueError, match=r"array has 4 channels, and the backbone was built for 3: .*in_chans=4"):
        check_channels(ArrayPicture(values(4, "uint8")), 3)
    with pytest.raises(ValueError, match="has 1 channel, and"):
        Normaliser(ArrayPicture(values(1, "uint8")), [0.5] * 3, [0.5] * 3)
    with pytest.raises(ValueError, match="as many values, got 3 and 2"):
        Normaliser(ArrayPicture(values(3, "uint8")), [0.5] * 3, [0.5] * 2)


def test_place_on_the_ground(tmp_path: Path) -> None:
    where = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(300_000, 5_000_000, 10, 10)}
    write_tiff(tmp_path / "x.tif", values(5, "uint16"), **where)
    with open_windowed(tmp_path / "x.tif", 5) as picture:
        assert picture.profile()["transform"] == where["transform"]
        assert picture.profile()["crs"].to_epsg() == 32633
    write_tiff(tmp_path / "y.tif", values(5, "uint16"))
    with open_windowed(tmp_path / "y.tif", 5) as picture:
        assert picture.profile() == {}


WHERE = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(300_000, 5_000_000, 10, 10)}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_place_of_ordinary_tiffs(channels: int, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    write_tiff(path, values(channels, "uint8"), **WHERE)
    with open_windowed(path) as picture:
        assert isinstance(picture, ArrayPicture)
        assert picture.profile()["transform"] == WHERE["transform"]
        assert picture.profile()["crs"].to_epsg() == 32633
    assert place_of(str(path), (61, 45))["transform"] == WHERE["transform"]


def test_no_place_where_the_file_says_none_or_one_of_other_pixels(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    write_tiff(path, values(3, "uint8"), **WHERE)
    assert place_of(str(path), (45, 61)) == {}
    assert place_of(str(tmp_path / "gone.tif"), (61, 45)) == place_of("image 0", (61, 45)) == {}
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DOCUMENTNAME="x")
    (tmp_path / "cut.tif").write_bytes(path.read_bytes()[:40])
    assert place_of(str(tmp_path / "cut.tif"), (61, 45)) == {}
    Image.fromarray(values(3, "uint8")).save(tmp_path / "turned.tif", tiffinfo={274: 3})
    assert place_of(str(tmp_path / "turned.tif"), (61, 45)) == {}
    write_tiff(tmp_path / "plain.tif", values(3, "uint8"))
    with open_windowed(tmp_path / "plain.tif") as picture:
        assert picture.profile() == {}
    np.save(tmp_path / "x.npy", values(3, "uint8"))
    assert place_of(str(tmp_path / "x.npy"), (61, 45)) == {}


LARGE = {
    "grey": (1, {}),
    "rgb": (3, {}),
    "planes": (3, {"photometric": "RGB", "interleave": "band", "compress": "lzw"}),
    "clear": (4, {"photometric": "RGB", "alpha": "non-premultiplied"}),
}


@pytest.mark.parametrize("kind", LARGE)
def test_large_ordinary_tiffs_are_read_in_windows_with_the_same_values(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, (channels, options) = tmp_path / "x.tif", LARGE[kind]
    write_tiff(path, values(channels, "uint8"), **{"blockysize": 8} | options, **WHERE)
    expected = np.asarray(read_image(path))
    monkeypatch.setattr(windowed_module, "DECODED_WHOLE", 2000)
    windows_are(path, expected, 3)
    with open_windowed(path) as picture:
        assert isinstance(picture, windowed_module.OrdinaryRaster)
        assert picture.profile()["transform"] == WHERE["transform"]


def test_three_channels_that_are_no_colours(tmp_path: Path) -> None:
    write_tiff(tmp_path / "x.tif", values(3, "uint8"), photometric="MINISBLACK")
    windows_are(tmp_path / "x.tif", values(3, "uint8"), 3)


def test_large_tiffs_that_windows_would_show_otherwise_are_decoded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, rng = values(3, "uint8"), np.random.default_rng(1)
    write_tiff(tmp_path / "one_piece.tif", x, blockysize=61)
    write_tiff(tmp_path / "premultiplied.tif", values(4, "uint8"), photometric="RGB", alpha="premultiplied")
    write_tiff(tmp_path / "inks.tif", values(4, "uint8"), photometric="CMYK", blockysize=8)
    write_tiff(tmp_path / "white_is_0.tif", x[..., :1], photometric="MINISWHITE", blockysize=8)
    write_tiff(tmp_path / "jpeg.tif", x, photometric="YCBCR", compress="jpeg", blockysize=16)
    Image.fromarray(x).save(tmp_path / "turned.tif", tiffinfo={274: 6})
    Image.fromarray(x).convert("P").save(tmp_path / "palette.tif")
    Image.fromarray(rng.random((61, 45)) < 0.5).save(tmp_path / "bits.tif")
    monkeypatch.setattr(windowed_module, "DECODED_WHOLE", 2000)
    monkeypatch.setattr(windowed_module, "_PIECE", 2000)
    for path in sorted(tmp_path.glob("*.tif")):
        windows_are(path, np.asarray(read_image(path)), 3) if path.stem != "turned" else None
        with open_windowed(path) as picture:
            assert isinstance(picture, ArrayPicture), path.name
            assert picture.size == np.asarray(read_image(path)).shape[:2]


def test_larger_jpegs_in_tiffs_are_read_in_windows_with_about_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tif"
    smooth = Image.fromarray(values(3, "uint8", 6, 5)).resize((45, 61), Image.Resampling.BICUBIC)
    write_tiff(path, np.asarray(smooth), photometric="YCBCR", compress="jpeg", blockysize=16)
    for name in ("DECODED_WHOLE", "DECODED_WHOLE_YCBCR"):
        monkeypatch.setattr(windowed_module, name, 2000)
    with open_windowed(path) as picture:
        assert isinstance(picture, windowed_module.OrdinaryRaster)
        whole = np.moveaxis(picture.read(slice(0, 61), slice(0, 45)), 0, -1)
    assert np.abs(whole.astype(int) - np.asarray(read_image(path))).mean() < 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.tif"), open_windowed(tmp_path / "gone.tif"):
        pass
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.tif").write_bytes(b"II*\0\x08\0\0\0")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\0\x10\0{}")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name, channels in (("text.png", 3), ("cut.tif", 3), ("cut.tif", 5), ("cut.npy", 3), ("objects.npy", 3)):
        with pytest.raises(UnreadableImage, match=name), open_windowed(tmp_path / name, channels):
            pass
    np.save(tmp_path / "flat.npy", np.zeros(5))
    with pytest.raises(ValueError, match=r"shape \[5\]: pictures are"), open_windowed(tmp_path / "flat.npy"):
        pass


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    write_tiff(path, values(5, "uint16", 200, 100), compress="deflate")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    with open_windowed(path, 5) as picture, pytest.raises(UnreadableImage, match=r"x\.tif"):
        picture.read(slice(0, 200), slice(0, 100))


def test_without_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(values(3, "uint8")).save(tmp_path / "plain.tif")
    write_tiff(tmp_path / "five.tif", values(5, "uint16"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs rasterio: pip install"), open_windowed(tmp_path / "five.tif", 5):
        pass
    windows_are(tmp_path / "plain.tif", values(3, "uint8"), 3)


@pytest.mark.parametrize("turn", [3, 6])
def test_a_tiff_that_is_stored_turned_is_refused_where_it_would_not_be_undone(turn: int, tmp_path: Path) -> None:
    image = Image.fromarray(values(1, "uint16")[..., 0])
    image.save(tmp_path / "turned.tif", tiffinfo={274: turn})
    refused = pytest.raises(ValueError, match=f"stored turned .orientation {turn}")
    with refused, open_windowed(tmp_path / "turned.tif", 1):
        pass
    image.save(tmp_path / "upright.tif", tiffinfo={274: 1})
    with open_windowed(tmp_path / "upright.tif", 1) as picture:
        assert picture.size == (image.height, image.width)
