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
    add(tmp_path, "Train/cat/1.png", "Train/dog/1.png", f"{name}/cat/2.png")
    splits = image_folder_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    assert relative(splits["val"], tmp_path) == [(f"{name}/cat/2.png", 0)]


def test_errors_of_given_splits(tmp_path):
    add(tmp_path / "a", "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dgo/1.png")
    with raises(ValueError, "", "val has classes that", "train lacks: 'dgo'; rename or remove"):
        image_folder_splits(tmp_path / "a")
    add(tmp_path / "b", "train/cat/1.png", "val/cat/1.png", "valid/cat/1.png")
    with raises(ValueError, "", "more than one validation folder (val, valid)"):
        image_folder_splits(tmp_path / "b")
    add(tmp_path / "c", "train/cat/1.png", "train/dog/1.png", "val/cat/1.txt")
    with raises(ValueError, "there are no images in", "val; add images"):
        image_folder_splits(tmp_path / "c")


def test_lone_train_folder(tmp_path):
    add_classes(tmp_path / "train", {"cat": 10, "dog": 10})
    splits = image_folder_splits(tmp_path)
    assert splits["train"].classes == ("cat", "dog")
    assert sorted(map(len, splits.values())) == sorted(map(len, image_folder_splits(tmp_path / "train").values()))


CLASSES = ("cat/1.png", "dog/1.png")


def under(*folders):
    return [f"{folder}/{name}" for folder in folders for name in CLASSES]


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["training", "validation"], ["train", "val"]),
        (["TRAIN", "Dev"], ["train", "val"]),
        (["trn", "eval"], ["train", "val"]),
        (["train", "holdout"], ["train", "val"]),
        (["Train", "Test"], ["train", "val"]),
        (["Training", "valid", "testing"], ["train", "val", "test"]),
        (["train", "dev", "hold-out"], ["train", "val", "test"]),
        (["train_images", "test_images"], ["train", "val"]),
        (["images-train", "images-val"], ["train", "val"]),
        (["train2017", "val2017", "test2017"], ["train", "val", "test"]),
        (["trainset", "testset"], ["train", "val"]),
        (["val"], ["val"]),
        (["test", "val"], ["val", "test"]),
    ],
)
def test_customary_names_of_splits(tmp_path, folders, splits):
    add(tmp_path, *under(*folders))
    found = image_folder_splits(tmp_path)
    assert list(found) == splits
    for index in found.values():
        assert index.classes == ("cat", "dog")
        assert [label for _, label in index.samples] == [0, 1]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        # With images in place of class folders.
        (["training/1.png", "validation/1.png"], ["'training', 'validation', named as splits are, but with images"]),
        (["test/1.png"], ["'test', named as splits are, but with images"]),
        (["train/1.png", "test/1.png", "more/1.png"], ["'test', 'train', named as splits are, but with images"]),
        ([*under("train"), "val/1.png"], ["'val' with images and 'train' with sub-folders"]),
        # Beside folders that are none.
        ([*under("train", "kontrolle")], ["'train', named as a split is, beside 'kontrolle'", "validation"]),
        ([*under("test"), "bus/1.png"], ["'test', named as a split is, beside 'bus'", "give it another name"]),
        # Two for one.
        ([*under("train", "val", "eval")], ["more than one validation folder (eval, val)"]),
        ([*under("train", "training", "val")], ["more than one training folder (train, training)"]),
        ([*under("train", "test", "holdout")], ["more than one test folder (holdout, test)"]),
        # Inside the classes.
        (
            ["cat/train/1.png", "cat/test/1.png", "dog/train/1.png"],
            ["the splits 'test', 'train' inside the class folder 'cat'", "test/cat"],
        ),
    ],
)
def test_splits_that_cannot_be_told(tmp_path, names, words):
    add(tmp_path, *names)
    with raises(ValueError, "", *words):
        image_folder_splits(tmp_path)


def test_folders_beside_splits_are_named(tmp_path, caplog):
    add(tmp_path, *under("train", "val"), "unlabelled/1.png", "annotations/1.xml")
    assert list(image_folder_splits(tmp_path)) == ["train", "val"]
    assert caplog.messages == [f"{tmp_path}: folders beside the splits train, val left out: 'unlabelled'"]


@pytest.mark.parametrize("name", ["train", "test", "val"])
def test_a_class_may_be_called_as_a_split_is(tmp_path, name):
    add_classes(tmp_path, {"bus": 5, name: 5, "cat": 5})
    assert set(image_folder_splits(tmp_path)["train"].classes) == {"bus", "cat", name}


@pytest.mark.parametrize(
    ("inside", "meant"),
    [
        ("photos", "photos"),
        ("a/b", "a/b"),
        ("images", "images"),
    ],
)
def test_unpacked_twice(tmp_path, inside, meant):
    add(tmp_path, *under(inside), "__MACOSX/photos/._cat", ".ipynb_checkpoints/x.png", ".hidden/cat/1.png")
    top = inside.split("/")[0]
    with raises(
        ValueError, "", f"one class alone, '{top}'", f"did you mean {tmp_path / meant}, which holds 'cat', 'dog'?"
    ):
        image_folder_splits(tmp_path)
    assert image_folder_splits(tmp_path / meant)["train"].classes == ("cat", "dog")


def test_splits_one_folder_below(tmp_path):
    add(tmp_path, *under("images/train", "images/val"))
    with raises(ValueError, "", f"did you mean {tmp_path / 'images'}, which holds 'train', 'val'?"):
        image_folder_splits(tmp_path)


def test_one_class_alone(tmp_path):
    add(tmp_path / "a", "cat/1.png", "cat/2.png")
    add(tmp_path / "b", "train/cat/1.png", "val/cat/1.png")
    add(tmp_path / "c", "val/cat/1.png")
    for name in "abc":
        with raises(ValueError, "", "one class alone, 'cat'", "into a sub-folder of their own"):
            image_folder_splits(tmp_path / name)
        with raises(ValueError, "", "one class alone, 'cat'"):
            image_folder_splits(tmp_path / name, known=("emu", "dog"))
        for index in image_folder_splits(tmp_path / name, 0.0, known=("dog", "cat")).values():
            assert index.classes == ("cat",)


def test_classes_without_images_of_their_own(tmp_path, caplog):
    add(tmp_path, "alps/cat/1.png", "alps/dog/1.png", "black forest/cat/1.png")
    assert image_folder_splits(tmp_path)["train"].classes == ("alps", "black forest")
    (message,) = caplog.messages
    assert "the classes are 'alps', 'black forest'; if you meant their sub-folders 'cat', 'dog', give" in message
    caplog.clear()
    add(tmp_path, "black forest/2.png")
    image_folder_splits(tmp_path)
    assert not caplog.messages


def test_for_evaluation_classes_may_be_missing(tmp_path):
    add(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/dog/2.png", "test/emu/1.png")
    (tmp_path / "train" / "fox").mkdir()
    splits = image_folder_splits(tmp_path, known=("cat", "dog", "emu", "fox"))
    assert {name: index.classes for name, index in splits.items()} == dict.fromkeys(
        ("train", "val"), ("cat", "dog", "emu")
    )
    assert [label for _, label in splits["val"].samples] == [1, 2]


def test_what_transnext_wrote_into_the_data(tmp_path, caplog):
    add(tmp_path, *CLASSES)
    before = image_folder_splits(tmp_path)
    add(tmp_path, "runs/latest/config.json", "runs/latest/checkpoints/1/x.png", "runs/latest/looks.png")
    add(tmp_path, "run2/config.json", "run2/best.safetensors", "looks/.transnext", "looks/a.png")
    add(tmp_path, "cat/cache/CACHEDIR.TAG", "cat/cache/00/1.rgb")
    assert image_folder_splits(tmp_path) == before
    assert caplog.messages == [
        f"{tmp_path}: passed over what transnext itself has written: cat/cache, looks, run2, runs/latest"
    ]
    # A folder with files of the same names that is no run stays a class.
    add(tmp_path, "emu/config.json", "emu/1.png")
    assert image_folder_splits(tmp_path)["train"].classes == ("cat", "dog", "emu")


def test_class_names_that_are_not_unicode(tmp_path):
    add(tmp_path, os.fsdecode(b"caf\xe9/1.png"), os.fsdecode(b"caf\xe8/1.png"), "train\n/1.png")
    splits = image_folder_splits(tmp_path, 0.0)
    assert splits["train"].classes == (r"caf\xe8", r"caf\xe9", r"train\n")
    assert [label for _, label in splits["train"].samples] == [0, 1, 2]
    add(tmp_path, r"caf\xe9/1.png")
    with raises(ValueError, "", "class folders whose names look the same"):
        image_folder_splits(tmp_path)


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
    add_classes(tmp_path, {"a": 20, "b": 1})
    val = [name for name, _ in relative(image_folder_splits(tmp_path, seed=0)["val"], tmp_path)]
    assert val == ["a/0003.jpg", "a/0011.jpg", "a/0012.jpg", "a/0015.jpg"]


def test_validation_fraction(tmp_path):
    add_classes(tmp_path, {"a": 5, "b": 5})
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
