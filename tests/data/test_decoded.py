import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from transnext.data import LabelledImages, UnreadableImage, cached, collate, decoded, eval_transform, open_dataset
from transnext.data.datasets import FolderImages
from transnext.data.folder import scan_image_folder

TRANSFORM = eval_transform((3, 16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 1.0)


@pytest.fixture
def photos(tmp_path):
    """Eight photos with an orientation, transparency and grey among them, and a broken one."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    for i, mode in enumerate(("RGB", "L", "RGBA", "P", "RGB", "RGB", "RGB", "1")):
        image = Image.fromarray(rng.integers(0, 256, (60 + i, 90, 4), np.uint8)).convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 0 else 1
        image.save(folder / f"{i}.png", exif=exif)
    (folder / "8.png").write_bytes(b"no image")
    return tmp_path / "photos"


class Counting(FolderImages):
    """Counts how often an image is decoded."""

    decoded = 0

    def load(self, index, min_side=None):
        self.decoded += 1
        return super().load(index, min_side)


def source(photos):
    return Counting(scan_image_folder(photos))


def same(a, b):
    return a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("min_side", [None, 20])
def test_the_same_images_each_decoded_once(photos, tmp_path, min_side):
    plain, counting = source(photos), source(photos)
    images = cached(counting, tmp_path / "cache")
    assert (images.classes, len(images)) == (plain.classes, 9)
    assert [images.target(i) for i in range(9)] == [0] * 9
    assert images.name(3) == plain.name(3)
    for _ in range(3):
        for i in range(8):
            assert same(images.load(i, min_side), plain.load(i, min_side))
        with pytest.raises(UnreadableImage, match=r"8\.png"):
            images.load(8, min_side)
    assert counting.decoded == 8 + 3
    assert images.load(0, 20).size != images.load(0).size


def test_a_changed_image_replaces_the_old_one(photos, tmp_path):
    counting = source(photos)
    images = cached(counting, tmp_path / "cache")
    images.load(0)
    Image.new("RGB", (7, 5), (1, 2, 3)).save(photos / "a" / "0.png")
    assert images.load(0).size == (7, 5)
    path = photos / "a" / "0.png"
    Image.new("RGB", (7, 5), (3, 2, 1)).save(path)
    os.utime(path, (1, 1))
    assert images.load(0).getpixel((0, 0)) == (3, 2, 1)
    assert len(list((tmp_path / "cache").glob("*/*"))) == 1
    path.unlink()
    with pytest.raises(FileNotFoundError):
        images.load(0)


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "pixel", "version"])
def test_a_damaged_entry_is_made_again(photos, tmp_path, damage):
    counting = source(photos)
    images = cached(counting, tmp_path / "cache")
    expected = images.load(1)
    (entry,) = (tmp_path / "cache").glob("*/*.rgb")
    data = bytearray(entry.read_bytes())
    if damage in ("empty", "cut"):
        data = data[: 0 if damage == "empty" else -1]
    else:
        data[{"header": 20, "pixel": len(data) - 100, "version": decoded._HEADER.size}[damage]] ^= 1
    entry.write_bytes(data)
    assert same(images.load(1), expected)
    assert same(images.load(1), expected)
    assert counting.decoded == 2


def test_a_full_or_vanished_folder_is_slow_and_not_wrong(photos, tmp_path, monkeypatch):
    counting = source(photos)
    images = cached(counting, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(decoded, "_SPARE_BYTES", 2**80)
        assert same(images.load(1), images.load(1))
        assert not list((tmp_path / "cache").glob("*/*"))
    shutil.rmtree(tmp_path / "cache")
    assert same(images.load(1), images.load(1))
    assert counting.decoded == 4


def test_disk_full_leaves_no_part(photos, tmp_path, monkeypatch):
    images = cached(source(photos), tmp_path / "cache")

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    images.load(1)
    assert not list((tmp_path / "cache").glob("*/*"))


def fill(folder, cache):
    images = cached(FolderImages(scan_image_folder(folder)), cache)
    for _ in range(5):
        for i in range(8):
            images.load(i)


def test_several_processes_fill_one_cache(photos, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(photos, tmp_path / "cache")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(list((tmp_path / "cache").rglob("*.rgb"))) == 8
    assert (tmp_path / "cache" / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    cached(FolderImages(scan_image_folder(photos)), photos / "a")
    assert not (photos / "a" / "CACHEDIR.TAG").exists()  # it holds images
    counting = source(photos)
    images = cached(counting, tmp_path / "cache")
    for i in range(8):
        assert same(images.load(i), FolderImages.load(counting, i))
    assert counting.decoded == 0


def test_workers(photos, tmp_path):
    plain = LabelledImages(source(photos), TRANSFORM)
    images = LabelledImages(cached(source(photos), tmp_path / "cache"), TRANSFORM)
    for _ in range(2):
        for a, b in zip(*(DataLoader(x, 4, collate_fn=collate, num_workers=2) for x in (plain, images)), strict=True):
            np.testing.assert_array_equal(a.images, b.images)
            assert a.skipped == b.skipped


def test_nothing_to_keep():
    emoji = open_dataset("emoji")["val"]
    assert cached(emoji, "memory") is emoji


def test_no_cache(photos):
    images = source(photos)
    assert cached(images, None) is images


def test_a_folder_that_cannot_be_used(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"the cache folder .*file/below cannot be used: not a directory; choose"):
        cached(source(photos), tmp_path / "file" / "below")


def use_shared_memory(photos, end, connection):
    """What a training process does that ends by itself (`leave`) or is killed, as far as shared memory is concerned."""
    at_exit = []
    decoded.atexit.register = at_exit.append
    images = cached(source(photos), "memory")
    images.load(0)
    if (child := os.fork()) == 0:
        images.load(1)
        at_exit[0]()  # the worker must not remove what others use
        os._exit(0)
    os.waitpid(child, 0)
    connection.send("filled")
    if end == "wait":
        connection.recv()
    if end != "kill":
        at_exit[0]()
    os._exit(0)


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory is a folder on Linux alone")
def test_shared_memory_goes_with_the_last_process(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(decoded, "_SPARE_SHARE_OF_MEMORY", 0.0)
    decoded._shared_memory.cache_clear()
    context = multiprocessing.get_context("fork")

    def start(end):
        ours, theirs = context.Pipe()
        process = context.Process(target=use_shared_memory, args=(photos, end, theirs))
        process.start()
        assert ours.poll(60)
        assert ours.recv() == "filled"
        return process, ours

    def kept():
        return len(list(tmp_path.rglob("*.rgb")))

    start("kill")[0].join()
    assert kept() == 2
    waiting, connection = start("wait")
    start("leave")[0].join()
    assert kept() == 2
    (folder,) = tmp_path.glob("transnext-*[0-9]")
    assert folder.stat().st_mode & 0o777 == 0o700
    connection.send("leave")
    waiting.join()
    assert kept() == 0
    assert not folder.exists()


def test_no_shared_memory_here(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "_SHARED_MEMORY", tmp_path / "none")
    decoded._shared_memory.cache_clear()
    with pytest.raises(ValueError, match="give a folder instead"):
        cached(source(photos), "memory")
