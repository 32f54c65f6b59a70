"""Which files count as images, and what is said of the others."""

import io
import os
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image

from transnext.data import UnreadableImage, images, list_images, open_dataset, read_image
from transnext.data.images import image_extensions, recognise


def encoded(kind, color=(200, 30, 40), size=(40, 30)):
    image, stream = Image.new("RGB", size, color), io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(stream, quality=95)
    else:
        image.save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def without_heif(monkeypatch):
    """An installation without pillow-heif."""
    caches = (images._heif_reader, images.image_extensions, images.unreadable_extensions)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    for cache in caches:
        cache.cache_clear()
    yield
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


def write(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "JPEG2000", "AVIF", "HEIF"])
def test_recognised_and_read_by_content(kind, tmp_path):
    data = encoded(kind)
    assert recognise(data[:32]) == kind
    write(tmp_path, {"photo": data, "photo.jpg_large": data, "photo.download": data})
    assert [Path(path).name for path in list_images(tmp_path)] == ["photo", "photo.download", "photo.jpg_large"]
    for path in list_images(tmp_path):
        image = read_image(path)
        assert image.size == (40, 30)
        assert max(abs(a - b) for a, b in zip(image.getpixel((20, 15)), (200, 30, 40), strict=True)) <= 6


@pytest.mark.parametrize("head", [b"", b"II*\0" + bytes(28), b"BM", b"%PDF-1.7", b"\0\0\0\x18ftypmp42", b"\xff\xd8"])
def test_not_recognised(head):
    assert recognise(head) is None


def test_every_file_is_accounted_for(tmp_path, caplog):
    jpeg, heic = encoded("JPEG"), encoded("HEIF")
    files = {f"cat/{i}.jpg": jpeg for i in range(12)}
    files |= {f"dog/{i}.HEIC": heic for i in range(9)}
    files |= {f"dog/img{i}": jpeg for i in range(4)} | {"cat/x.jpg!d": jpeg}
    files |= {
        "cat/clip.MOV": b"\0\0\0\x14ftypqt  ",
        "cat/notes.txt": b"hi",
        "dog/more.txt": b"",
        "dog/raw.cr2": b"II*\0",
    }
    write(tmp_path, {**files, "loose.png": b"", "README.md": b"", "dog/.DS_Store": b""})
    sources = open_dataset(tmp_path, 0.0)
    assert len(sources["train"]) == 12 + 9 + 5
    assert all(sources["train"].load(i).size == (40, 30) for i in range(26))
    assert caplog.messages == [
        f"{tmp_path}: 5 files of unknown extension are images by their content: 4 without extension (dog/img0), "
        "1 .jpg!d (cat/x.jpg!d)",
        f"{tmp_path}: 5 of 31 files left out: 2 .txt (cat/notes.txt), 1 .cr2 (dog/raw.cr2), 1 .mov (cat/clip.MOV), "
        "1 outside of the class folders (loose.png)",
    ]


def test_a_usual_folder_says_nothing(tmp_path, caplog):
    write(tmp_path, {f"{name}/{i}.jpg": b"" for name in ("cat", "dog") for i in range(3)})
    write(tmp_path, {"cat/.DS_Store": b"", "cat/@eaDir/1.jpg": b"", "labels.csv": b""})
    assert len(open_dataset(tmp_path, 0.0)["train"]) == 6
    assert not caplog.messages


def test_without_the_extra_heic_is_counted_and_the_way_out_said(tmp_path, caplog, without_heif):
    assert ".heic" not in image_extensions()
    heic = encoded("HEIF")
    write(tmp_path, {"cat/1.jpg": encoded("JPEG"), "cat/2.HEIC": heic, "dog/3": heic, "dog/4.jpg": heic})
    assert len(open_dataset(tmp_path, 0.0)["train"]) == 2
    assert caplog.messages == [
        f"{tmp_path}: 2 of 4 files left out: 1 without extension (dog/3), 1 .heic (cat/2.HEIC); "
        'pip install "transnext[heif]" makes HEIC readable'
    ]
    with pytest.raises(UnreadableImage, match=r'pip install "transnext\[heif\]" makes HEIC readable$'):
        read_image(tmp_path / "dog" / "4.jpg")
    (tmp_path / "dog" / "4.jpg").unlink()
    with pytest.raises(ValueError, match=r"no images in class folder 'dog' of .*transnext\[heif\].*; add images"):
        open_dataset(tmp_path)


def test_heic_leaves_pillow_as_it_was_and_turns_by_exif(tmp_path):
    image, exif = Image.new("RGB", (80, 60), (200, 10, 10)), Image.Exif()
    image.paste((10, 10, 200), (0, 0, 40, 60))
    exif[0x0112] = 6
    pillow_heif.from_pillow(image).save(tmp_path / "x.heic", quality=95, exif=exif.tobytes())
    turned = read_image(tmp_path / "x.heic")
    assert turned.size == (60, 80)
    assert turned.getpixel((30, 5))[2] > 150 > 50 > turned.getpixel((30, 75))[2]
    assert not turned.info
    assert "HEIF" not in Image.OPEN
    assert read_image(tmp_path / "x.heic", min_side=20).size == (20, 27)
    data = (tmp_path / "x.heic").read_bytes()
    for length in (16, 40, len(data) // 2, len(data) - 9):
        with pytest.raises(UnreadableImage):
            read_image(data[:length])


def test_pipes_and_broken_links_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "folder.jpg").mkdir()
    write(tmp_path, {"a.png": b""})
    assert list_images(tmp_path) == [f"{tmp_path}/a.png"]


def test_a_folder_that_is_named_is_searched_whoever_made_it(tmp_path):
    write(tmp_path, {"looks/.transnext": b"", "looks/a.png": b"", "b.png": b""})
    assert list_images(tmp_path) == [f"{tmp_path}/b.png"]
    assert list_images(tmp_path / "looks") == [f"{tmp_path}/looks/a.png"]


def test_the_first_process_speaks_for_all(tmp_path, caplog, monkeypatch):
    write(tmp_path, {"a.png": b"", "b.txt": b""})
    monkeypatch.setenv("RANK", "1")
    list_images(tmp_path)
    assert not caplog.messages
    monkeypatch.setenv("RANK", "0")
    list_images(tmp_path)
    assert caplog.messages == [f"{tmp_path}: 1 of 2 files left out: 1 .txt (b.txt)"]


def test_images_in_tar_files(tmp_path, tar, monkeypatch, png):
    monkeypatch.setenv("TRANSNEXT_CACHE", str(tmp_path / "cache"))
    members = {"a": png(0), "a.cls": b"0", "b.jpg_large": encoded("JPEG"), "b.cls": b"1"}
    members |= {"c.heic": encoded("HEIF"), "c.cls": b"1", "d.mask": png(3), "d.png": png(4), "d.cls": b"0"}
    members |= {"e.seg.png": png(5), "e.cls": b"0", "f.img": png(6), "f.png": png(7), "f.cls": b"caf\xe9"}
    (tmp_path / "x.tar").write_bytes(tar({**members, "g.png": png(8), "g.cls": b"caf\xe8"}))
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcat\ncaf\xe9\ncaf\xe8\n")
    source = open_dataset(f"{tmp_path}/x.tar", 0.0)["train"]
    assert source.classes == ("cat", r"caf\xe9", r"caf\xe8")
    assert source.load(3).tobytes() == read_image(png(4)).tobytes()
    assert source.load(5).tobytes() == read_image(png(7)).tobytes()
    assert [source.load(i).size for i in (0, 1, 2)] == [(9, 8), (40, 30), (40, 30)]
    assert [source.target(i) for i in range(7)] == [0, 1, 1, 0, 0, 1, 2]
    with pytest.raises(UnreadableImage, match="there is no image with this name"):
        source.load(4)
