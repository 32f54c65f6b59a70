"""Splits of annotated images are those of the data, and none is lost without a word."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers.detection_sets import (
    coco_file,
    coco_image,
    coco_object,
    coco_set,
    lengths,
    picture,
    raises,
    voc_file,
    voc_set,
    yolo_set,
)
from transnext.data.detection import open_detection


def test_two_files_of_a_split(tmp_path):
    coco_set(tmp_path, train2014=2, train2017=2)
    with raises(ValueError, "two COCO files of train", "instances_train2014.json", "instances_train2017.json"):
        open_detection(tmp_path)


@pytest.mark.parametrize("layout", ["images/{}", "{}/images"])
def test_two_yolo_folders_of_a_split(tmp_path, layout):
    for number, split in enumerate(("train", "val", "valid")):
        picture(tmp_path / layout.format(split) / "a.png", seed=number)
        labels = tmp_path / layout.format(split).replace("images", "labels") / "a.txt"
        labels.parent.mkdir(parents=True)
        labels.write_text("0 .5 .5 .1 .1")
    (tmp_path / "data.yaml").write_text("names: [cat]")
    with raises(ValueError, "val is both ", "val", " and ", "valid", ": remove or rename one"):
        open_detection(tmp_path)
    # Where the file says which is meant, others are others.
    (tmp_path / "data.yaml").write_text(f"train: {layout.format('train')}\nval: {layout.format('valid')}\nnames: [cat]")
    assert open_detection(tmp_path)["val"].name(0) == str(tmp_path / layout.format("valid") / "a.png")


def test_two_voc_folders_or_lists_of_a_split(tmp_path):
    for number, split in enumerate(("train", "val", "valid")):
        picture(tmp_path / "a" / split / "a.png", seed=number)
        voc_file(tmp_path / "a" / split / "a.xml", "a.png", [("cat", 1, 1, 9, 9)])
    with raises(ValueError, "val is both ", "a/val and ", "a/valid: remove or rename one"):
        open_detection(tmp_path / "a")
    voc_set(tmp_path / "b", train=1, val=1, valid=1)
    with raises(ValueError, "val is both ", "val.txt and ", "valid.txt: remove or rename one"):
        open_detection(tmp_path / "b")


def test_test_validates_where_nothing_else_does(tmp_path):
    assert lengths(open_detection(coco_set(tmp_path / "a", train=3, test=3))) == {"train": 3, "val": 3}
    assert lengths(open_detection(coco_set(tmp_path / "b", test=3))) == {"test": 3}
    assert lengths(open_detection(coco_set(tmp_path / "c", train=3, val=3, test=3))) == {
        "train": 3,
        "val": 3,
        "test": 3,
    }


def test_held_out_by_seed(tmp_path):
    coco_set(tmp_path, train=60)
    first, again, other = (open_detection(tmp_path, 0.3, seed) for seed in (0, 0, 1))
    assert list(first) == ["train", "val"]
    assert 8 <= len(first["val"]) <= 28
    assert len(first["train"]) + len(first["val"]) == 60
    assert set(first["train"].image_ids).isdisjoint(first["val"].image_ids)
    assert first["val"].image_ids == again["val"].image_ids != other["val"].image_ids
    assert lengths(open_detection(tmp_path, 0)) == {"train": 60}
    whole = open_detection(tmp_path, 0)["train"]
    for source in first.values():  # objects stay with their images
        for i, ident in enumerate(source.image_ids):
            expected = whole.target(whole.image_ids.index(ident))
            np.testing.assert_array_equal(source.target(i).boxes, expected.boxes)
            np.testing.assert_array_equal(source.target(i).labels, expected.labels)
    with raises(ValueError, "val_fraction"):
        open_detection(tmp_path, 1)


def _without_test_images(root):
    (yolo_set(root, train=3, val=2, test=1) / "images/test/0.png").unlink()


def _without_test_annotations(root):
    picture(coco_set(root, train=3, val=2) / "test" / "0.png")
    document = {"images": [coco_image(1, "0.png")], "categories": [{"id": 1, "name": "cat"}]}
    (root / "annotations/instances_test.json").write_text(json.dumps(document))


def _with_broken_test_annotations(root):
    (coco_set(root, train=3, val=2, test=2) / "annotations/instances_test.json").write_text("{")


def _without_test_xml(root):
    (voc_set(root, train=3, val=2, test=1) / "Annotations/im005.xml").unlink()


def _without_test_pictures(root):
    shutil.rmtree(coco_set(root, train=3, val=2, test=2) / "test")


@pytest.mark.parametrize(
    "spoil",
    [
        _without_test_images,
        _without_test_annotations,
        _with_broken_test_annotations,
        _without_test_xml,
        _without_test_pictures,
    ],
)
def test_a_test_split_that_cannot_be_used_is_left_out(tmp_path, caplog, spoil):
    spoil(tmp_path)
    assert lengths(open_detection(tmp_path)) == {"train": 3, "val": 2}
    assert "splits other than train and val that cannot be used: 1, left out (" in caplog.text


def test_training_or_validation_that_cannot_be_used_is_refused(tmp_path):
    coco_set(tmp_path, train=3, val=2, test=2)
    for split in ("train", "val"):
        file = tmp_path / f"annotations/instances_{split}.json"
        text = file.read_text()
        file.write_text("{")
        with raises(ValueError, f"instances_{split}.json is broken JSON"):
            open_detection(tmp_path)
        file.write_text(text)
    for split in ("train", "val"):
        (tmp_path / f"annotations/instances_{split}.json").unlink()
    (tmp_path / "annotations/instances_test.json").write_text("{")
    with raises(ValueError, "instances_test.json is broken JSON"):
        open_detection(tmp_path)


def test_images_are_held_out_where_the_only_other_split_cannot_be_used(tmp_path):
    (coco_set(tmp_path, train=9, test=2) / "annotations/instances_test.json").write_text("{")
    assert set(open_detection(tmp_path)) == {"train", "val"}


def test_images_to_validate_on_without_objects_are_refused(tmp_path):
    yolo_set(tmp_path / "yolo", train=3, val=3)
    (tmp_path / "yolo/labels/val").rename(tmp_path / "yolo/labels/valid")
    with raises(ValueError, "there are no objects in val; looked for in", "yolo/labels/val"):
        open_detection(tmp_path / "yolo")
    coco_set(tmp_path / "coco", train=3, val=1)
    with raises(ValueError, "there are no objects in val; looked for in", "instances_val.json"):
        open_detection(tmp_path / "coco")
    voc_set(tmp_path / "voc", train=2, val=1)
    voc_file(tmp_path / "voc/Annotations/im002.xml", "im002.png", [])
    with raises(ValueError, "there are no objects in val; looked for in", "voc/Annotations"):
        open_detection(tmp_path / "voc")


def test_other_splits_without_objects_are_kept_and_said(tmp_path, caplog):
    coco_set(tmp_path / "three", train=3, val=3, test=1)
    assert lengths(open_detection(tmp_path / "three")) == {"train": 3, "val": 3, "test": 1}
    [line] = [record.getMessage() for record in caplog.records]
    assert "splits without objects: 1, kept, but nothing can be judged on them (test: looked for in " in line
    # It is no `val`.
    sources = open_detection(coco_set(tmp_path / "two", train=30, test=1))
    assert list(sources) == ["train", "val", "test"]
    assert len(sources["train"]) + len(sources["val"]) == 30
    assert len(sources["test"]) == 1


@pytest.mark.parametrize("seed", range(12))
def test_objects_in_what_is_held_out_and_in_what_is_left(tmp_path, caplog, seed):
    coco_set(tmp_path, train=6)  # two of three have objects
    images = [coco_image(i + 10, f"{i:03}.png") for i in range(6)]
    for full in ([0, 3], [1, 4, 5], [2]):
        objects = [coco_object(i, i + 10) for i in full]
        coco_file(tmp_path / "annotations/instances_train.json", images, objects)
        caplog.clear()
        sources = open_detection(tmp_path, 0.2, seed)
        assert sum(lengths(sources).values()) == 6
        assert sources["train"].object_counts()["cat"] >= 1
        assert len(sources["val"]) >= 1
        assert (sources["val"].object_counts()["cat"] >= 1) == (len(full) > 1)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == (len(full) == 1)
        assert all("val, held out of train, where one image" in line for line in said)


def test_a_split_of_another_name_leaves_images_to_be_held_out(tmp_path):
    assert set(open_detection(coco_set(tmp_path, train=20, val_seen=2))) == {"train", "val", "val_seen"}


@pytest.mark.parametrize("key", ["group", "video_id", "scene", "roboflow"])
def test_groups_stay_together(tmp_path, key):
    images, objects = [], []
    for i in range(24):
        name = f"p{i % 6}_jpg.rf.{i:032x}.png" if key == "roboflow" else f"{i}.png"
        picture(tmp_path / "images" / name, seed=i)
        images.append(coco_image(i, name, **({} if key == "roboflow" else {key: i % 6})))
        objects.append(coco_object(i, i))
    coco_file(tmp_path / "all.json", images, objects)
    sources = open_detection(tmp_path, 0.4)
    groups = [{ident % 6 for ident in source.image_ids} for source in sources.values()]
    assert len(groups) == 2
    assert groups[0].isdisjoint(groups[1])
    assert len(set(sources["val"].groups)) == len(groups[1])
