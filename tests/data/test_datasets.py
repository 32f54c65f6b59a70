import os
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from transnext.choices import SET_NAMES
from transnext.data import NAMED_SETS, LabelledImages, Sample, Skipped, collate, eval_transform, open_dataset
from transnext.data.datasets import FolderImages
from transnext.data.detection import NAMED_DETECTION_SETS
from transnext.data.folder import FolderIndex, scan_image_folder

TRANSFORM = eval_transform((3, 16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 1.0)


@pytest.fixture
def folder(tmp_path):
    """Six images of two classes and, among them, three files that are none."""
    for label, name in enumerate(("cat", "dög")):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (20, 20), (100 * label, 50 * i, 7)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "cat" / "1b.png").write_text("this is not an image")
    (tmp_path / "dög" / "0b.jpg").write_bytes(b"")
    (tmp_path / "dög" / "2b.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes()[:50])
    return tmp_path


@pytest.fixture
def dataset(folder):
    return LabelledImages(FolderImages(scan_image_folder(folder)), TRANSFORM)


def test_samples(dataset, folder):
    assert len(dataset) == 9
    assert dataset.source.classes == ("cat", "dög")
    sample = dataset[0]
    assert isinstance(sample, Sample)
    assert (sample.image.shape, sample.target, sample.index) == ((3, 16, 16), 0, 0)
    assert dataset[-2].target == 1
    assert dataset[-2].index == 7
    skipped = dataset[2]
    assert skipped == Skipped(str(folder / "cat" / "1b.png"), skipped.reason)
    assert "not an image" in skipped.reason
    with pytest.raises(IndexError):
        dataset[9]


def test_a_file_that_vanishes_is_skipped(dataset, folder):
    (folder / "cat" / "0.png").unlink()
    assert dataset[0] == Skipped(str(folder / "cat" / "0.png"), "the file is gone")


@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (2, "spawn")])
def test_unreadable_images_do_not_stop_the_loader(dataset, workers, context):
    loader = DataLoader(dataset, 2, collate_fn=collate, num_workers=workers, multiprocessing_context=context)
    batches = list(loader)
    assert torch.cat([batch.indices for batch in batches]).tolist() == [0, 1, 3, 4, 6, 7]
    assert torch.cat([batch.targets for batch in batches]).tolist() == [0, 0, 0, 1, 1, 1]
    names = [name for batch in batches for name, _ in batch.skipped]
    assert [name[-6:] for name in names] == ["1b.png", "0b.jpg", "2b.png"]
    assert all(reason for batch in batches for _, reason in batch.skipped)
    for batch in batches:
        assert len(batch.images) == len(batch.targets) == len(batch.indices)
        assert batch.images.dtype == torch.uint8
        assert batch.sizes.tolist() == [[16, 16]] * len(batch.images)
        assert batch.targets.dtype == batch.indices.dtype == torch.int64


def test_images_of_different_sizes_are_padded():
    small, large = torch.full((3, 2, 5), 7, dtype=torch.uint8), torch.full((3, 4, 3), 9, dtype=torch.uint8)
    batch = collate([Sample(small, "a", 0), Sample(large, "b", 1)], targets=list)
    assert batch.images.shape == (2, 3, 4, 5)
    assert batch.sizes.tolist() == [[2, 5], [4, 3]]
    assert (batch.images[0, :, :2] == 7).all()
    assert (batch.images[1, :, :, :3] == 9).all()
    assert batch.images.sum() == small.sum() + large.sum()
    assert batch.targets == ["a", "b"]


def test_batch_without_a_readable_image():
    batch = collate([Skipped("a", "x"), Skipped("b", "y")])
    assert batch.images.shape == (0, 3, 0, 0)
    assert batch.targets.shape == batch.indices.shape == (0,)
    assert batch.targets.dtype == torch.int64
    assert batch.skipped == [("a", "x"), ("b", "y")]


def test_errors_of_the_transform_are_not_hidden(folder):
    def broken(image):
        raise ValueError("a bug")

    dataset = LabelledImages(FolderImages(scan_image_folder(folder)), broken)
    with pytest.raises(ValueError, match="a bug"):
        dataset[0]


def test_min_side_reaches_the_reader(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (100, 80)).save(tmp_path / "a" / "x.png")
    source = FolderImages(scan_image_folder(tmp_path))
    assert LabelledImages(source, lambda image: image.size, min_side=20)[0].image == (25, 20)
    assert LabelledImages(source, lambda image: image.size)[0].image == (100, 80)


def test_many_paths_pickle_compactly():
    samples = tuple((f"/data/imagenet/train/n{i % 1000:08}/n{i:08}_é.JPEG", i % 1000) for i in range(50_000))
    source = FolderImages(FolderIndex(tuple(map(str, range(1000))), samples))
    assert len(pickle.dumps(source)) < 50_000 * 70
    copy = pickle.loads(pickle.dumps(source))
    for i in (0, 1, 777, 49_999, -1):
        assert (copy.name(i), copy.target(i)) == samples[i]


def test_name_that_is_not_unicode(tmp_path):
    """It is read by its bytes, and named so that any file and terminal takes the name."""
    folder = tmp_path / "cat"
    folder.mkdir()
    Image.new("RGB", (5, 4)).save(folder / os.fsdecode(b"\xff\xfe.png"))
    (folder / os.fsdecode(b"\xff\n.png")).write_bytes(b"no image")
    dataset = LabelledImages(FolderImages(scan_image_folder(tmp_path)), TRANSFORM)
    assert dataset[1].image.shape == (3, 16, 16)
    assert dataset.source.name(1) == rf"{folder}/\xff\xfe.png"
    assert dataset[0].name == rf"{folder}/\xff\n.png"
    with pytest.raises(ValueError, match=r"cannot read image [^\n]*/\\xff\\n.png: "):
        dataset.source.load(0)
    assert dataset.source.version(1) != "unknown"


# open_dataset


def test_emoji():
    assert list(NAMED_SETS) == ["emoji", "fashion_mnist"]
    splits = open_dataset("emoji")
    assert {name: len(source) for name, source in splits.items()} == {
        "train": 2185,
        "val": 592,
        "shift": 863,
        "both": 231,
    }
    assert list(splits) == ["train", "val", "shift", "both"]
    source = splits["shift"]
    names = [source.name(i) for i in range(len(source))]
    assert len(set(names)) == len(names)
    i = names.index("emoji/fluent-emoji-flat/red heart")
    image = source.load(i, 32)
    assert (image.mode, image.size) == ("RGB", (64, 64))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert source.classes[source.target(i)] == "heart"
    assert len(pickle.dumps(splits)) < 100_000


def test_emoji_in_workers():
    dataset = LabelledImages(open_dataset("emoji")["both"], TRANSFORM)
    for context in ("fork", "spawn"):
        loader = DataLoader(dataset, 64, collate_fn=collate, num_workers=2, multiprocessing_context=context)
        batches = list(loader)
        assert sum(len(batch.images) for batch in batches) == 231
        assert not any(batch.skipped for batch in batches)
    np.testing.assert_array_equal(batches[0].images[3], dataset[3].image)


def test_image_folder(folder):
    splits = open_dataset(str(folder), val_fraction=0.3, seed=1)
    assert list(splits) == ["train", "val"]
    assert sum(map(len, splits.values())) == 9
    assert {splits["val"].target(i) for i in range(len(splits["val"]))} == {0, 1}
    assert list(open_dataset(folder)) == ["train", "val"]


def test_a_known_name_wins_over_a_folder(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        (tmp_path / "emoji" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "emoji" / name / "a.png")
    monkeypatch.chdir(tmp_path)
    assert "shift" in open_dataset("emoji")
    splits = open_dataset("./emoji")
    assert list(splits) == ["train"]
    assert splits["train"].load(0).size == (8, 8)


def test_neither_name_nor_path():
    message = (
        "'emojis' is neither a folder nor a set that is known by name; give the path of an image folder or one of: "
        "emoji, fashion_mnist"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        open_dataset("emojis")


def test_the_names_that_the_command_line_shows_are_those_of_the_sets():
    assert tuple(NAMED_SETS) == SET_NAMES["classification"]
    assert tuple(NAMED_DETECTION_SETS) == SET_NAMES["detection"]
