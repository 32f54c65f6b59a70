"""YOLO's files mean what they say, and what they leave open is said."""

import numpy as np
import pytest

from tests.helpers.detection_sets import lengths, picture, raises, yolo_set
from transnext.data.detection import open_detection


def test_yolo(tmp_path):
    sources = open_detection(yolo_set(tmp_path, train=3, val=2))
    assert lengths(sources) == {"train": 3, "val": 2}
    train = sources["train"]
    assert train.classes == ("cat", "dog")
    assert train.category_ids == (0, 1)
    np.testing.assert_allclose(train.target(0).boxes, [[15, 12, 25, 18], [0, 0, 8, 6]], atol=1e-5)
    assert train.target(0).labels.tolist() == [0, 1]
    assert len(train.target(2)) == 0
    assert lengths(open_detection(tmp_path / "data.yaml")) == {"train": 3, "val": 2}


def test_yolo_polygons(tmp_path):
    source = open_detection(yolo_set(tmp_path, "1 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n", train=1), 0)["train"]
    target = source.target(0)
    np.testing.assert_allclose(target.boxes, [[4, 6, 20, 18]], atol=1e-5)
    expected = np.zeros((30, 40))
    expected[6:18, 4:20] = 1
    np.testing.assert_array_equal(target.masks()[0], expected)


@pytest.mark.parametrize(
    "yaml",
    [
        "train: ../train/images\nval: ../valid/images\nnames: {0: cat, 1: dog}",
        "path: /somewhere/else\ntrain: train/images\nval: valid/images\nnames: [cat, dog]",
        "train: [train/images]\nval: list.txt\nnames: [cat, dog]",
        "names:\n  0: cat\n  1: dog\n",
    ],
)
def test_roboflow_yolo(tmp_path, yaml):
    for split in ("train", "valid"):
        picture(tmp_path / split / "images" / "a.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a.txt").write_text("1 .5 .5 .1 .1")
    (tmp_path / "list.txt").write_text("./valid/images/a.jpg\n")
    (tmp_path / "data.yaml").write_text(yaml)
    sources = open_detection(tmp_path)
    assert lengths(sources) == {"train": 1, "val": 1}
    assert sources["val"].target(0).labels.tolist() == [1]


def test_yolo_numbers_with_gaps_and_key_points(tmp_path):
    yolo_set(tmp_path, "5 .5 .5 .5 .5 .1 .2 2 .3 .4 1\n2 .5 .5 .2 .2 0 0 0 0 0 0\n", train=1)
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: {2: cat, 5: dog}\nkpt_shape: [2, 3]")
    source = open_detection(tmp_path, 0)["train"]
    assert source.category_ids == (2, 5)
    assert source.target(0).labels.tolist() == [1, 0]
    assert not source.has_masks


def test_yolo_without_yaml(tmp_path):
    yolo_set(tmp_path, train=2, val=2)
    (tmp_path / "data.yaml").unlink()
    with raises(ValueError, "no data.yaml"):
        open_detection(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\ndog\n\n")
    assert open_detection(tmp_path)["train"].classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("folder", "classes"),
    [
        ("", "classes.txt"),
        ("{}", "classes.txt"),
        ("{}", "{}/classes.txt"),
        ("{}", "data.yaml"),
        ("", "data.yaml"),
    ],
)
def test_yolo_labels_beside_images_as_label_img_writes_them(tmp_path, folder, classes):
    for number, split in enumerate(("train", "valid") if folder else ("train",)):
        place = tmp_path / folder.format(split)
        for i in range(2):
            picture(place / f"{i}.png", seed=10 * number + i)
        (place / "0.txt").write_text("1 .5 .5 .1 .1\n")
        names = "names: [cat, dog]" if classes == "data.yaml" else "cat\ndog\n"
        (tmp_path / classes.format(split)).write_text(names)
    sources = open_detection(tmp_path, 0)
    assert lengths(sources) == ({"train": 2, "val": 2} if folder else {"train": 2})
    assert sources["train"].classes == ("cat", "dog")
    assert [len(sources["train"].target(i)) for i in range(2)] == [1, 0]
    if classes.startswith("{}"):
        (tmp_path / "valid/classes.txt").write_text("dog\ncat\n")
        with raises(ValueError, "train/classes.txt and ", "valid/classes.txt list other names"):
            open_detection(tmp_path, 0)


def test_names_among_yolo_labels(tmp_path):
    yolo_set(tmp_path, train=2, val=2)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "labels/classes.txt").write_text("cat\ndog\n")
    assert lengths(open_detection(tmp_path)) == {"train": 2, "val": 2}
    (tmp_path / "labels/classes.txt").rename(tmp_path / "labels/val/classes.txt")
    assert lengths(open_detection(tmp_path)) == {"train": 2, "val": 2}


def test_captions_beside_images_are_no_yolo_labels(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("A cat on a mat.")
    with raises(ValueError, "no annotations that are known"):
        open_detection(tmp_path)


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("names: [cat\ntrain: x", ("broken YAML", "line 2")),
        ("names: []", ("names must be a list",)),
        ("names: [cat, cat]", ("two classes called 'cat'",)),
        ("names: [cat, [dog]]", ("not a number with a class name",)),
        ("names: {a: cat}", ("not a number with a class name",)),
        ("names: [cat, dog]\nnc: 3", ("nc is 3, but there are 2 names",)),
        ("a: &a [x]\nnames: *a", ("references", "not understood")),
        ("[1, 2]", ("holds a list",)),
    ],
)
def test_broken_yaml(tmp_path, yaml, words):
    yolo_set(tmp_path, train=1)
    (tmp_path / "data.yaml").write_text(yaml)
    with raises(ValueError, *words):
        open_detection(tmp_path)


def test_yolo_without_images(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: nowhere/images")
    with raises(ValueError, "images are not there", "nowhere/images"):
        open_detection(tmp_path)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("train: [images/train, images/extras]\nval: images/val", ("images/extras for train", "correct the path")),
        ("train: images/train\nval: images/vall", ("images/vall for val",)),
        ("train: images/train\nvalid: images/vall", ("images/vall for val",)),
        ("train: images/trian\nval: images/val", ("images/trian for train",)),
        ("train: [images/train, 5]\nval: images/val", ("5 for train",)),
        ("train: images/train\nval: {path: images/val}", ("an object for val",)),
        ("train: images/train\nval: images/val\ntest: [images/extra, images/tset]", ("images/tset for test",)),
        ("train: images/train\nval: images/val\nval_seen: [images/extra, images/e]", ("images/e for val_seen",)),
        ("train: images/train\nval: images/val\nvalid: images/extra", ("images for val twice", "'valid'")),
        # Nothing of it is there, and neither is a folder of the customary name.
        ("train: /gone/images/train\nval: /gone/images/val\nvalid: 7", ("7 for val",)),
    ],
)
def test_images_that_yaml_names_and_that_are_not_there(tmp_path, entries, words):
    yolo_set(tmp_path, train=3, extra=3, val=2)
    if "gone" in entries:
        (tmp_path / "images/val").rename(tmp_path / "images/checked")
    (tmp_path / "data.yaml").write_text(f"path: .\n{entries}\nnames: [cat, dog]\n")
    with raises(ValueError, "data.yaml names", *words):
        open_detection(tmp_path)


@pytest.mark.parametrize("test", ["test: images/test", "test: ../test/images", "testing: [images/a, images/b]"])
def test_a_test_folder_that_yaml_names_and_that_is_not_there_is_left_out(tmp_path, caplog, test):
    yolo_set(tmp_path, train=3, val=2)
    yaml = f"path: .\ntrain: images/train\nval: images/val\n{test}\nnames: [cat, dog]\n"
    (tmp_path / "data.yaml").write_text(yaml)
    assert lengths(open_detection(tmp_path)) == {"train": 3, "val": 2}
    [line] = [record.getMessage() for record in caplog.records]
    assert "cannot be used: 1, left out (test: data.yaml names " in line
    (tmp_path / "data.yaml").write_text(yaml.replace(test, "test:\nval_batch: 8\ntrain_note: seven"))
    caplog.clear()
    assert lengths(open_detection(tmp_path)) == {"train": 3, "val": 2}
    assert not caplog.records


def test_paths_of_another_machine_in_yaml(tmp_path):
    yolo_set(tmp_path, train=3, val=2)
    (tmp_path / "data.yaml").write_text("train: /gone/images/train\nval: /gone/images/val\nnames: [cat, dog]\n")
    assert lengths(open_detection(tmp_path)) == {"train": 3, "val": 2}


def test_yolo_labels_without_an_image_are_said(tmp_path, caplog):
    yolo_set(tmp_path, train=3, val=2)
    (tmp_path / "images/train/0.png").rename(tmp_path / "images/train/IMG_0.png")
    for name in (".hidden", "classes.txt", "labels.cache"):
        (tmp_path / "labels/train" / name).write_text("cat")
    assert lengths(open_detection(tmp_path, 0)) == {"train": 3, "val": 2}
    [line] = [record.getMessage() for record in caplog.records]
    assert "label files without an image: 1, left out (labels/train/0.txt)" in line
    # A list chooses what it wants, and beside images there are other texts.
    caplog.clear()
    (tmp_path / "some.txt").write_text("images/train/1.png")
    (tmp_path / "images/val/readme.txt").write_text("0")
    (tmp_path / "data.yaml").write_text("train: some.txt\nval: images/val\nnames: [cat, dog]")
    assert lengths(open_detection(tmp_path, 0)) == {"train": 1, "val": 2}
    assert not caplog.records


def test_yolo_images_that_differ_in_the_extension_alone(tmp_path, caplog):
    yolo_set(tmp_path, train=3)
    picture(tmp_path / "images/train/0.jpg", seed=9)
    assert lengths(open_detection(tmp_path, 0)) == {"train": 4}
    assert "images that share their label file with another: 1, taken with the same objects" in caplog.text
