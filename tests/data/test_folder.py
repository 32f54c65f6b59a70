import os
import re

import pytest
from PIL import Image

from transnext.data.folder import image_folder_splits, scan_image_folder


def add(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # scanning opens no files


def relative(index, root):
    return [(os.path.relpath(path, root).replace(os.sep, "/"), label) for path, label in index.samples]


def add_classes(root, sizes):
    for name, count in sizes.items():
        add(root, *(f"{name}/{i:04}.jpg" for i in range(count)))


def test_scan(tmp_path):
    add(tmp_path, "dog/b.JPG", "dog/a.png", "dog/deep/er/c.WebP", "cat/x.tif", "Zebra/日本.jpeg")
    add(tmp_path, "dog/.hidden.png", "dog/notes.txt", "dog/.git/y.png", "dog/Thumbs.db", "loose.png", ".cache/z.png")
    index = scan_image_folder(tmp_path)
    assert index.classes == ("Zebra", "cat", "dog")
    assert len(index) == 5
    assert relative(index, tmp_path) == [
        ("Zebra/日本.jpeg", 0),
        ("cat/x.tif", 1),
        ("dog/a.png", 2),
        ("dog/b.JPG", 2),
        ("dog/deep/er/c.WebP", 2),
    ]
    assert index == scan_image_folder(str(tmp_path))


def test_links_are_followed(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    add(elsewhere, "1.png", "2.png")
    add(root, "cat/0.png")
    (root / "dog").symlink_to(elsewhere, target_is_directory=True)
    (root / "cat" / "link.png").symlink_to(elsewhere / "1.png")
    (root / "cat" / "broken.png").symlink_to(elsewhere / "nowhere.png")
    (root / "cat" / "loop").symlink_to(root / "cat", target_is_directory=True)
    names = [name for name, _ in relative(scan_image_folder(root), root)]
    assert names == ["cat/0.png", "cat/link.png", "dog/1.png", "dog/2.png"]


def raises(error, *words):
    return pytest.raises(error, match="^" + ".*".join(map(re.escape, words)) + "[^\n]*$")


@pytest.mark.parametrize("function", [scan_image_folder, image_folder_splits])
def test_errors(tmp_path, function):
    with raises(FileNotFoundError, "there is no folder", "nowhere"):
        function(tmp_path / "nowhere")

    add(tmp_path, "file")
    with raises(ValueError, "", "file is a file; give a folder"):
        function(tmp_path / "file")

    (tmp_path / "bare").mkdir()
    with raises(ValueError, "", "bare has no class folders; it must hold"):
        function(tmp_path / "bare")

    add(tmp_path / "flat", "a.png", "b.jpg")
    with raises(ValueError, "", "flat has no class folders: 2 image(s) lie directly in it; move them"):
        function(tmp_path / "flat")

    add(tmp_path / "texts", "a/a.txt", "b/b.txt")
    with raises(ValueError, "there are no images in the sub-folders of", "texts ('a', 'b')"):
        function(tmp_path / "texts")

    add(tmp_path / "some", "cat/a.png", "dog/a.txt", *(f"x{i}/a.txt" for i in range(6)))
    with raises(ValueError, "no images in class folder 'dog', 'x0', 'x1', 'x2', 'x3' and 2 more of", "remove"):
        function(tmp_path / "some")


def test_given_splits(tmp_path):
    add(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/emu/1.png", "val/dog/2.png", "val/emu/2.png")
    (tmp_path / "val" / "cat").mkdir()
    splits = image_folder_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    assert splits["val"].classes == splits["train"].classes == ("cat", "dog", "emu")
    assert relative(splits["val"], tmp_path) == [("val/dog/2.png", 1), ("val/emu/2.png", 2)]

    add(tmp_path, "test/emu/3.png")
    splits = image_folder_splits(tmp_path)
    assert list(splits) == ["train", "val", "test"]
    assert relative(splits["test"], tmp_path) == [("test/emu/3.png", 2)]


@pytest.mark.parametrize("name", ["valid", "validation", "test", "Val"])
def test_names_of_the_validation_folder(tmp_path, name):
    add(tmp_path, "Train/cat/1.png", f"{name}/cat/2.png")
    splits = image_folder_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    assert relative(splits["val"], tmp_path) == [(f"{name}/cat/2.png", 0)]


def test_errors_of_given_splits(tmp_path):
    add(tmp_path / "a", "train/cat/1.png", "val/cat/1.png", "val/dgo/1.png")
    with raises(ValueError, "", "val has classes that", "train lacks: 'dgo'; rename or remove"):
        image_folder_splits(tmp_path / "a")
    add(tmp_path / "b", "train/cat/1.png", "val/cat/1.png", "valid/cat/1.png")
    with raises(ValueError, "", "more than one validation folder (val, valid)"):
        image_folder_splits(tmp_path / "b")
    add(tmp_path / "c", "train/cat/1.png", "val/cat/1.txt")
    with raises(ValueError, "there are no images in the val folder"):
        image_folder_splits(tmp_path / "c")


def test_lone_train_folder(tmp_path):
    add_classes(tmp_path / "train", {"cat": 10, "dog": 10})
    splits = image_folder_splits(tmp_path)
    assert splits["train"].classes == ("cat", "dog")
    assert sorted(map(len, splits.values())) == sorted(map(len, image_folder_splits(tmp_path / "train").values()))


def test_train_may_be_a_class(tmp_path):
    add_classes(tmp_path, {"bus": 5, "train": 5})
    assert image_folder_splits(tmp_path)["train"].classes == ("bus", "train")


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_random_split_is_a_partition_of_about_the_right_size(tmp_path, fraction):
    add_classes(tmp_path, {"a": 400, "b": 200, "c": 1, "d": 2, "e": 3})
    splits = image_folder_splits(tmp_path, fraction)
    every = scan_image_folder(tmp_path)
    assert sorted(splits["train"].samples + splits["val"].samples) == sorted(every.samples)
    counts = {name: [sum(label == k for _, label in index.samples) for k in range(5)] for name, index in splits.items()}
    for k, size in ((0, 400), (1, 200)):
        assert abs(counts["val"][k] - fraction * size) < 4 * (fraction * (1 - fraction) * size) ** 0.5
    assert (counts["train"][2], counts["val"][2]) == (1, 0)
    assert (counts["train"][3], counts["val"][3]) == (1, 1)
    assert counts["train"][4] >= 1
    assert counts["val"][4] >= 1


def test_random_split_depends_on_paths_and_seed_alone(tmp_path):
    for name in ("here", "there"):
        add_classes(tmp_path / name, {"a": 50, "b": 50})
    here, there = (image_folder_splits(tmp_path / name, seed=3) for name in ("here", "there"))
    assert relative(here["val"], tmp_path / "here") == relative(there["val"], tmp_path / "there")
    assert relative(here["val"], tmp_path / "here") == relative(
        image_folder_splits(f"{tmp_path / 'here'}{os.sep}", seed=3)["val"], tmp_path / "here"
    )
    assert here != image_folder_splits(tmp_path / "here", seed=4)

    for k in range(10):
        add(tmp_path / "there", f"a/new{k}.jpg", f"0/{k}.png")
    later = image_folder_splits(tmp_path / "there", seed=3)
    for split in ("train", "val"):
        assert {path for path, _ in there[split].samples} <= {path for path, _ in later[split].samples}


def test_random_split_is_the_same_on_every_machine(tmp_path):
    add_classes(tmp_path, {"a": 20})
    val = [name for name, _ in relative(image_folder_splits(tmp_path, seed=0)["val"], tmp_path)]
    assert val == ["a/0003.jpg", "a/0011.jpg", "a/0012.jpg", "a/0015.jpg"]


def test_validation_fraction(tmp_path):
    add_classes(tmp_path, {"a": 5})
    assert list(image_folder_splits(tmp_path, 0.0)) == ["train"]
    for value in (-0.1, 1.0, 20):
        with raises(ValueError, f"val_fraction must be at least 0 and less than 1, got {value}"):
            image_folder_splits(tmp_path, value)


def test_scanned_images_can_be_read(tmp_path):
    from transnext.data import read_image

    (tmp_path / "cat").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "cat" / "a.png")
    [(path, _)] = scan_image_folder(tmp_path).samples
    assert read_image(path).size == (5, 4)
