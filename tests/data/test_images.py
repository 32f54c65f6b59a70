import io
import pickle
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from transnext.data import images
from transnext.data.images import UnreadableImage, image_extensions, read_image, read_shrunk
from transnext.data.joint import reading_factor
from transnext.data.names import printable

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def picture():
    """48 x 32, a smooth ramp that survives JPEG."""
    y, x = np.mgrid[:32, :48]
    return Image.fromarray(np.stack([x * 5, y * 7, 255 - x * 5], -1).astype(np.uint8))


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tiff", "a.ppm", "a.jp2", "a.tga"])
def test_formats(tmp_path, picture, name):
    picture.save(tmp_path / name)
    error = np.abs(pixels(read_image(tmp_path / name)) - pixels(picture))
    assert error.mean() < 12  # GIF has 256 colours


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_opaque_modes(tmp_path, picture, mode, suffix):
    image = picture.convert(mode)
    image.save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(pixels(read_image(tmp_path / f"a{suffix}")), pixels(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["CMYK", "L", "YCbCr"])
def test_jpeg_modes(tmp_path, picture, mode):
    picture.convert(mode).save(tmp_path / "a.jpg", quality=95)
    expected = pixels(picture.convert(mode).convert("RGB"))
    assert np.abs(pixels(read_image(tmp_path / "a.jpg")) - expected).mean() < 5


@pytest.mark.parametrize(("mode", "name"), [("RGBA", "a.png"), ("LA", "a.png"), ("RGBA", "a.webp"), ("PA", "a.tiff")])
def test_alpha_is_composited_on_white(tmp_path, mode, name):
    alpha = [255, 0, 128]
    image = Image.new(mode, (3, 1))
    if mode == "PA":  # Pillow loses alpha when it converts to this mode
        image = Image.frombytes("PA", (3, 1), bytes([0, 255, 0, 0, 0, 128]))
        image.putpalette([0, 0, 0])
    else:
        image.putalpha(Image.frombytes("L", (3, 1), bytes(alpha)))
    image.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    np.testing.assert_allclose(pixels(read_image(tmp_path / name))[0, :, 0], [255 - value for value in alpha], atol=1)


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    image.save(tmp_path / "a.gif", transparency=1)
    image.save(tmp_path / "b.png", transparency=b"\xff\x00")
    for name in ("a.png", "a.gif", "b.png"):
        assert pixels(read_image(tmp_path / name))[0].tolist() == [list(RED), list(WHITE)], name


@pytest.mark.parametrize(("mode", "info"), [("RGB", RED), ("L", 76), ("1", 0)])
def test_one_transparent_colour_without_palette(tmp_path, mode, info):
    Image.new("RGB", (1, 1), RED).convert(mode).save(tmp_path / "a.png", transparency=info)
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == WHITE


SIXTEEN_BIT = np.array([[0, 128, 255, 257, 32768, 65535]], np.uint16)
EIGHT_BIT = [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_16_bit_grey_is_scaled(tmp_path, name):
    Image.fromarray(SIXTEEN_BIT).save(tmp_path / name)
    assert pixels(read_image(tmp_path / name))[0, :, 1].tolist() == EIGHT_BIT


def test_16_bit_big_endian_grey_is_scaled(tmp_path):
    Image.frombytes("I;16B", (6, 1), SIXTEEN_BIT.astype(">u2").tobytes()).save(tmp_path / "a.tiff")
    with Image.open(tmp_path / "a.tiff") as image:
        assert image.mode == "I;16B"
    assert pixels(read_image(tmp_path / "a.tiff"))[0, :, 1].tolist() == EIGHT_BIT


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 7, 255], np.int32), [0, 7, 255]),
        (np.array([0, 257, 65535], np.int32), [0, 1, 255]),
        (np.array([-1000, 0, 1000], np.int32), [0, 128, 255]),
        (np.array([5000000, 5000000, 5000000], np.int32), [0, 0, 0]),
        (np.array([0, 0.5, 1], np.float32), [0, 128, 255]),
        (np.array([0, 7.2, 255], np.float32), [0, 7, 255]),
        (np.array([-1, 0, 3], np.float32), [0, 64, 255]),
        (np.array([np.nan, 0.5, 1], np.float32), [0, 128, 255]),
        (np.array([np.nan, np.nan, np.nan], np.float32), [0, 0, 0]),
    ],
)
def test_32_bit_grey_is_scaled(tmp_path, values, expected):
    Image.fromarray(values[None]).save(tmp_path / "a.tiff")
    assert pixels(read_image(tmp_path / "a.tiff"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_exif_orientation(tmp_path, picture, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / f"a{suffix}", exif=exif)
    with Image.open(tmp_path / f"a{suffix}") as image:
        expected = pixels(ImageOps.exif_transpose(image).convert("RGB"))
    result = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(pixels(result), expected)
    assert result.size == ((48, 32) if orientation < 5 else (32, 48))
    assert result.getexif().get(0x0112) is None


def test_exif_rotation_puts_the_left_column_on_top(tmp_path):
    image = Image.new("RGB", (16, 8), WHITE)
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # "row 0 is the visual right-hand side": turn clockwise
    image.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    result = pixels(read_image(tmp_path / "a.jpg"))
    assert result.shape == (16, 8, 3)
    assert np.abs(result[:8] - RED).max() < 8
    assert np.abs(result[8:] - WHITE).max() < 8


def test_broken_exif_is_ignored(tmp_path, picture):
    picture.save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(tmp_path / "a.jpg").size == (48, 32)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, WHITE)]
    for name in ("a.gif", "a.png", "a.webp", "a.tiff"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert read_image(tmp_path / name).getpixel((0, 0)) == RED, name


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp"])
@pytest.mark.parametrize("min_side", [None, 1, 100])
def test_one_pixel(tmp_path, name, min_side):
    Image.new("RGB", (1, 1), WHITE).save(tmp_path / name)
    assert read_image(tmp_path / name, min_side).size == (1, 1)


@pytest.mark.parametrize("name", ["日本語.png", "é ñ.jpg", "🐦.webp"])
def test_names_that_are_not_ascii(tmp_path, picture, name):
    picture.save(tmp_path / name)
    assert read_image(str(tmp_path / name)).size == (48, 32)


def test_bytes_and_streams(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert read_image(data) == read_image(io.BytesIO(data)) == read_image(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as stream:
        stream.read(5)
        assert read_image(stream).size == (48, 32)
        assert not stream.closed


# Damage


def unreadable(source, match):
    with pytest.raises(UnreadableImage, match=match) as caught:
        read_image(source)
    error = caught.value
    assert "\n" not in str(error)
    assert printable(error.path) in str(error)
    assert error.reason in str(error)
    return error


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tiff"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a{suffix}")
    data = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(data[: int(len(data) * share)])
    error = unreadable(tmp_path / f"a{suffix}", "cannot read image")
    assert error.path == str(tmp_path / f"a{suffix}")


def test_damaged_in_the_middle(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[60:90] = bytes(30)
    (tmp_path / "a.png").write_bytes(data)
    unreadable(tmp_path / "a.png", "cannot read image")


def test_not_an_image(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    unreadable(tmp_path / "empty.png", "the file is empty")
    (tmp_path / "text.png").write_text("not\nan image, but a text that goes on for a while\n" * 5)
    unreadable(tmp_path / "text.png", "not an image")
    (tmp_path / "zeros.jpg").write_bytes(bytes(1000))
    unreadable(tmp_path / "zeros.jpg", "not an image")
    unreadable(tmp_path, "it is a folder")
    unreadable(b"", "<bytes>: the file is empty")
    unreadable(io.BytesIO(b"hello"), "<stream>")
    unreadable("a\0b.png", "null")


def test_random_bytes_after_each_signature(tmp_path, picture):
    rng = np.random.default_rng(0)
    for suffix in (".png", ".jpg", ".webp", ".gif", ".bmp", ".tiff", ".ico", ".tga", ".ppm", ".jp2"):
        picture.save(tmp_path / f"a{suffix}")
        start = (tmp_path / f"a{suffix}").read_bytes()[:20]
        for _ in range(10):
            with pytest.raises(UnreadableImage):
                read_image(start + rng.bytes(200))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^there is no image file .*nowhere\.png$"):
        read_image(tmp_path / "nowhere.png")


def test_unreadable_survives_pickling():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.png", "why")))
    assert (error.path, error.reason, str(error)) == ("a.png", "why", "cannot read image a.png: why")


# Size


@pytest.mark.parametrize("min_side", [0, -3])
def test_bad_min_side(min_side):
    with pytest.raises(ValueError, match=f"min_side must be at least 1 pixel, got {min_side}"):
        read_image(b"", min_side)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("min_side", [1, 7, 50, 99, 100, 101, 199, 200, 201, 1000])
def test_min_side_is_a_lower_bound(tmp_path, name, min_side):
    Image.new("RGB", (301, 200)).save(tmp_path / name)
    width, height = read_image(tmp_path / name, min_side).size
    assert height >= min(min_side, 200)
    assert height < 2 * min_side or height == 200
    assert abs(width / height - 301 / 200) < 0.6 / height * 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "I", "F"])
def test_reducing_agrees_with_converting_first(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(images, "_STRIP_PIXELS", 200)  # several strips
    grey = np.random.default_rng(0).integers(0, 256, (41, 60), dtype=np.uint8)
    if mode.startswith("I"):
        image = Image.fromarray((grey.astype(np.uint16) * 257).astype(np.int32 if mode == "I" else np.uint16))
    else:
        image = Image.fromarray(grey).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(Image.fromarray(255 - grey))
    image.save(tmp_path / "a.tiff")
    full = read_image(tmp_path / "a.tiff")
    reduced = read_image(tmp_path / "a.tiff", min_side=13)
    assert reduced.size == (20, 14)
    assert np.abs(pixels(reduced) - pixels(full.reduce(3))).max() <= 1
    monkeypatch.setattr(images, "_STRIP_PIXELS", 10**6)
    np.testing.assert_array_equal(pixels(read_image(tmp_path / "a.tiff")), pixels(full))


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_400_million_pixels(tmp_path, name):
    limit = Image.MAX_IMAGE_PIXELS
    big = Image.new("1", (20000, 20000), 1)
    big.save(tmp_path / name, **({"compression": "group4"} if name == "a.tiff" else {"compress_level": 1}))
    del big
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / name, min_side=256)
    assert image.size == (257, 257)
    assert image.getextrema() == ((255, 255),) * 3
    assert limit == Image.MAX_IMAGE_PIXELS


def test_own_limit(tmp_path, monkeypatch, picture):
    picture.save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 32 - 1)
    unreadable(tmp_path / "a.png", "48 x 32 is more than the limit of 1535 pixels")


def test_threads_agree(tmp_path, picture):
    for name in ("a.png", "a.jpg", "a.gif"):
        picture.save(tmp_path / name)
    expected = {name: read_image(tmp_path / name).tobytes() for name in ("a.png", "a.jpg", "a.gif")}
    wrong = []

    def work():
        for _ in range(20):
            wrong.extend(name for name in expected if read_image(tmp_path / name).tobytes() != expected[name])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_extensions():
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"} <= image_extensions()
    assert not {".pdf", ".eps", ".h5", ".mpg", ".txt", ".svg"} & image_extensions()


@pytest.mark.parametrize("length", range(1, 16))
def test_files_of_a_few_bytes(length):
    with pytest.raises(UnreadableImage, match="damaged, or not an image"):
        read_image(b"x" * length)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp", "ico"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_before_shrinking_is_told(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (256, 128) if suffix == "ico" else (1027, 771)
    options = {"sizes": [size]} if suffix == "ico" else {"exif": exif}
    Image.new("RGB", size, (9, 200, 30)).save(path, **options)
    whole = read_image(path)
    for min_side in (None, 1, 20, 127, 400):
        image, original = read_shrunk(path, min_side)
        assert original == (whole.height, whole.width)
        assert image.size == read_image(path, min_side).size
        factor = reading_factor(original, (image.height, image.width))
        assert (factor > 1) == (min_side is not None and min(original) >= 2 * min_side)
