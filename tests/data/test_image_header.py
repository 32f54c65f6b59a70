import io

import pytest
from PIL import Image, PngImagePlugin

from transnext.data.images import UnreadableImage, read_header, read_image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_it_says_how_the_picture_will_be(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    header = read_header(path)
    assert header.stored == (30, 40)
    assert header.orientation == orientation
    assert header.upright == read_image(path).size[::-1] == ((40, 30) if orientation >= 5 else (30, 40))


def test_png_with_orientation_after_its_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "PNG")
    chunk = io.BytesIO()
    PngImagePlugin.putchunk(chunk, b"eXIf", exif.tobytes()[6:])
    data = stream.getvalue()
    end = data.index(b"IEND") - 4
    path = tmp_path / "a.png"
    path.write_bytes(data[:end] + chunk.getvalue() + data[end:])
    assert read_header(path).upright == read_image(path).size[::-1] == (40, 30)


def test_orientations_that_there_are_not(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert read_header(tmp_path / "a.jpg") == ((30, 40), 1)


def test_it_needs_no_pixels(tmp_path):
    for suffix in ("png", "jpg"):
        stream = io.BytesIO()
        Image.effect_noise((400, 300), 90).save(stream, {"png": "PNG", "jpg": "JPEG"}[suffix])
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(stream.getvalue()[:2000])
        assert read_header(path).stored == (300, 400)


def test_errors(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(UnreadableImage):
        read_header(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match="folder"):
        read_header(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "b.jpg")
