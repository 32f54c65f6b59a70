import json
import re
import shutil

import numpy as np
import pytest

from tests.helpers.detection_sets import (
    coco_file,
    coco_image,
    coco_object,
    coco_set,
    picture,
    square,
    voc_file,
    voc_set,
    yolo_set,
)
from transnext.data.detection import check_detection, open_checked, open_detection


def raises(error, *words):
    return pytest.raises(error, match="^[^\n]*" + ".*".join(map(re.escape, words)) + "[^\n]*$")


def lengths(sources):
    return {name: len(source) for name, source in sources.items()}


def test_coco(tmp_path):
    sources = open_detection(coco_set(tmp_path, train=4, val=3, val_seen=1))
    assert lengths(sources) == {"train": 4, "val": 3, "val_seen": 1}
    train = sources["train"]
    assert train.classes == ("cat", "dog")
    assert train.category_ids == (1, 7)
    assert train.image_ids == (10, 11, 12, 13)
    assert not train.has_masks
    target = train.target(2)
    assert target.size == (30, 40)
    assert target.boxes.tolist() == [[4, 3, 14, 11], [4, 4, 14, 12]]
    assert target.labels.tolist() == [0, 1]
    assert target.areas.tolist() == [80, 80]
    assert not target.crowd.any()
    assert target.segmentations is None
    assert len(train.target(0)) == 0
    assert train.target(0).boxes.shape == (0, 4)
    image = train.load(2)
    assert (image.size, image.mode) == ((40, 30), "RGB")
    assert train.name(2).endswith("002.png")
    # The same names in another folder are other images.
    assert train.load(0).tobytes() != sources["val"].load(0).tobytes()


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train.json", "images"),
        ("annotations/train.json", "train"),
        ("train/_annotations.coco.json", "train"),
        ("train/anything.json", "train"),
        ("train.json", "."),
        ("train.json", "images"),
        ("train.json", "train/images"),
        ("labels.json", "data"),
        ("_annotations.coco.json", "."),
    ],
)
def test_places_of_coco_files_and_images(tmp_path, file, folder):
    picture(tmp_path / folder / "a.png")
    coco_file(tmp_path / file, [coco_image(1, "a.png")], [coco_object(1, 1)])
    assert lengths(open_detection(tmp_path, val_fraction=0)) == {"train": 1}
    assert lengths(open_detection(tmp_path / file)) == {"train": 1}


@pytest.mark.parametrize(
    "file",
    [
        "valid.json",
        "lvis_v1_val.json",
        "my_val_of_2024.json",
        "annotations/coco_val.json",
        "annotations/val_annotations.json",
        "annotations/instances_val2017.json",
    ],
)
@pytest.mark.parametrize("below", [".", "images", "data"])
@pytest.mark.parametrize("folder", ["val", "validation2017"])
def test_images_are_of_the_split_that_the_name_of_a_file_says(tmp_path, file, below, folder):
    for number, split in enumerate(("test", "train", folder, "train2017")):
        picture(tmp_path / below / split / "0.png", seed=number)
    coco_file(tmp_path / file, [coco_image(1, "0.png")], [coco_object(1, 1)])
    expected = str(tmp_path / below / folder / "0.png")
    assert open_detection(tmp_path / file, 0)["train"].name(0) == expected
    assert next(iter(open_detection(tmp_path, 0).values())).name(0) == expected


def test_a_folder_of_the_name_of_a_file_comes_before_that_of_a_split(tmp_path):
    for number, split in enumerate(("val", "val_seen")):
        picture(tmp_path / split / "0.png", seed=number)
    picture(tmp_path / "val" / "1.png")
    images = [coco_image(1, "0.png"), coco_image(2, "1.png")]
    coco_file(tmp_path / "val_seen.json", images, [coco_object(1, 1)])
    sources, report = open_checked(tmp_path / "val_seen.json", 0)
    assert list(sources["train"].paths) == [str(tmp_path / "val_seen" / "0.png")]
    assert [finding.kind for finding in report.findings if finding.kind == "file_missing"] == ["file_missing"]


def test_images_of_the_same_names_in_two_splits_are_not_guessed(tmp_path):
    for number, split in enumerate(("train", "val")):
        picture(tmp_path / split / "0.png", seed=number)
    file = coco_file(tmp_path / "labels.json", [coco_image(1, "0.png")], [coco_object(1, 1)])
    for data in (tmp_path, file):
        with raises(
            ValueError, "labels.json: its images may be those of", "train", "val", "a name that says the split"
        ):
            open_detection(data, 0)
    # What only one of them has tells them apart, and those of the other are no replacement.
    picture(tmp_path / "train" / "1.png")
    picture(tmp_path / "val" / "2.png")
    images = [coco_image(i, f"{i}.png") for i in range(2)]
    coco_file(file, images, [coco_object(1, 1)])
    assert list(open_detection(file, 0)["train"].paths) == [str(tmp_path / "train" / f"{i}.png") for i in range(2)]


def test_one_file_of_images_in_folders_of_several_splits(tmp_path):
    for number, split in enumerate(("train", "val")):
        picture(tmp_path / split / f"{number}.png", seed=number)
    coco_file(tmp_path / "labels.json", [coco_image(i, f"{i}.png") for i in range(2)], [coco_object(1, 1)])
    expected = [str(tmp_path / "train" / "0.png"), str(tmp_path / "val" / "1.png")]
    assert list(open_detection(tmp_path, 0)["train"].paths) == expected


@pytest.mark.parametrize("name", ["{}_annotations", "annotations_{}", "coco-{}", "lvis_v1_{}", "{}_labels"])
def test_names_of_coco_files_beside_folders_of_images(tmp_path, name):
    for split in ("train", "val"):
        picture(tmp_path / split / "0.png", seed=len(split))
        coco_file(tmp_path / f"{name.format(split)}.json", [coco_image(1, "0.png")], [coco_object(1, 1)])
    sources = open_detection(tmp_path)
    assert {split: source.name(0) for split, source in sources.items()} == {
        split: str(tmp_path / split / "0.png") for split in ("train", "val")
    }


def test_files_of_the_same_name_in_two_folders_are_not_mixed_up(tmp_path):
    picture(tmp_path / "images" / "1.png")
    picture(tmp_path / "images" / "2.png")
    names = ["x/1.png", "y/1.png", "z/2.png"]
    images = [coco_image(i, name) for i, name in enumerate(names)]
    coco_file(tmp_path / "a.json", images, [coco_object(i, i) for i in range(3)])
    sources, report = open_checked(tmp_path, 0)
    assert sources["train"].image_ids == (2,)
    assert {finding.kind: finding.count for finding in report.findings}["file_missing"] == 2


def test_a_folder_of_one_split(tmp_path):
    picture(tmp_path / "test" / "a.png")
    coco_file(tmp_path / "test" / "_annotations.coco.json", [coco_image(1, "a.png")], [coco_object(1, 1)])
    assert lengths(open_detection(tmp_path)) == {"test": 1}


def test_captions_beside_instances_are_left_alone(tmp_path):
    coco_set(tmp_path, train=2, val=2)
    for name in ("captions_train", "person_keypoints_train"):
        shutil.copy(tmp_path / "annotations/instances_train.json", tmp_path / f"annotations/{name}.json")
    assert lengths(open_detection(tmp_path)) == {"train": 2, "val": 2}


@pytest.mark.parametrize("place", ["annotations/{}.json", "{}.json"])
def test_files_named_as_splits_among_many(tmp_path, place):
    coco_set(tmp_path, train=3, val=3)
    for split in ("train", "val"):
        (tmp_path / f"annotations/instances_{split}.json").rename(tmp_path / place.format(split))
    for i in range(7):
        (tmp_path / place.format(f"captions_{i}")).write_text('{"images": [], "annotations": []}')
    assert lengths(open_detection(tmp_path)) == {"train": 3, "val": 3}


@pytest.mark.parametrize("place", ["annotations/{}.json", "{}.json"])
@pytest.mark.parametrize("other", ["val", "valid", "val2017", "coco_val"])
def test_a_file_named_as_a_split_beside_instances(tmp_path, place, other):
    coco_set(tmp_path, train=3, val=3)
    file = tmp_path / place.format(other)
    (tmp_path / "annotations/instances_val.json").rename(file)
    captions = file.with_name("captions_test.json")
    captions.write_text("{}")
    assert lengths(open_detection(tmp_path)) == {"train": 3, "val": 3}
    # Those of splits that are there already are of something else.
    file.with_name("train.json").write_text("{}")
    assert lengths(open_detection(tmp_path)) == {"train": 3, "val": 3}
    shutil.copy(file, file.with_name("dev.json"))
    with raises(ValueError, "two COCO files of val", "dev.json"):
        open_detection(tmp_path)


def test_a_file_named_as_a_split_beside_those_of_roboflow(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "a.png", seed=len(split))
        file = tmp_path / ("train/_annotations.coco.json" if split == "train" else "val.json")
        coco_file(file, [coco_image(1, "a.png")], [coco_object(1, 1)])
    assert lengths(open_detection(tmp_path)) == {"train": 1, "val": 1}


@pytest.mark.parametrize("name", ["/home/me/x/a.png", "C:\\data\\a.png", "images/train/a.png", "./a.png"])
def test_paths_of_other_machines(tmp_path, name):
    picture(tmp_path / "train" / "a.png")
    coco_file(tmp_path / "train.json", [coco_image(1, name)], [coco_object(1, 1)])
    assert open_detection(tmp_path)["train"].name(0) == str(tmp_path / "train" / "a.png")


def test_roboflow(tmp_path):
    for split in ("train", "valid", "test"):
        picture(tmp_path / split / "x_jpg.rf.0123456789abcdef.jpg")
        categories = ((0, "things"), (1, "cat"), (2, "dog"))
        image = coco_image(0, "x_jpg.rf.0123456789abcdef.jpg")
        file = coco_file(tmp_path / split / "_annotations.coco.json", [image], [coco_object(0, 0)], categories)
        document = json.loads(file.read_text())
        for entry in document["categories"]:
            entry["supercategory"] = "none" if entry["id"] == 0 else "things"
        file.write_text(json.dumps(document))
    sources, report = open_checked(tmp_path)
    assert lengths(sources) == {"train": 1, "val": 1, "test": 1}
    assert sources["train"].classes == ("cat", "dog")
    assert sources["val"].category_ids == (1, 2)
    found = {finding.kind: finding.count for finding in report.findings}
    assert found == {"class_parent": 1, "group_in_two_splits": 2, "class_empty": 1}


def test_splits_with_other_ids_and_order_of_categories(tmp_path):
    for split, categories in (("train", ((3, "cat"), (5, "dog"))), ("val", ((1, "dog"), (2, "cat")))):
        picture(tmp_path / split / "a.png", seed=len(split))
        objects = [coco_object(1, 1, {name: i for i, name in categories}["dog"])]
        coco_file(tmp_path / f"{split}.json", [coco_image(1, "a.png")], objects, categories)
    sources = open_detection(tmp_path)
    assert sources["train"].classes == sources["val"].classes == ("cat", "dog")
    assert sources["train"].category_ids == (3, 5)
    assert sources["val"].category_ids == (2, 1)
    assert sources["train"].target(0).labels.tolist() == sources["val"].target(0).labels.tolist() == [1]


def test_a_class_that_train_lacks(tmp_path):
    coco_set(tmp_path, train=3, val=3)
    for used in (False, True):
        objects = [coco_object(1, 10, 9 if used else 1)]
        images = [coco_image(10, "000.png")]
        coco_file(tmp_path / "annotations/instances_val.json", images, objects, ((1, "cat"), (9, "bird")))
        if not used:
            assert open_detection(tmp_path)["val"].classes == ("cat", "dog")
            assert open_detection(tmp_path)["val"].category_ids == (1, 2)
    with raises(ValueError, "val has objects of classes that train does not list: bird"):
        open_detection(tmp_path)


def test_masks_of_all_kinds(tmp_path):
    picture(tmp_path / "a.png")
    crowd = {"size": [30, 40], "counts": [0, 30, 1170]}
    compressed = {"size": [30, 40], "counts": "0n0bT1"}
    objects = [
        coco_object(1, 1, segmentation=[square(2, 3), square(8, 3)]),
        coco_object(2, 1, box=(0, 0, 1, 30), segmentation=crowd) | {"iscrowd": 1},
        coco_object(3, 1, box=(0, 0, 1, 30), segmentation=compressed, area=17.5),
        {"id": 4, "image_id": 1, "category_id": 7, "segmentation": [square(10, 11)]},
    ]
    coco_file(tmp_path / "a.json", [coco_image(1, "a.png")], objects)
    source = open_detection(tmp_path)["train"]
    assert source.has_masks
    target = source.target(0)
    masks = target.masks()
    assert masks.shape == (4, 30, 40)
    expected = np.zeros((30, 40))
    expected[3:9, 2:14] = 1
    np.testing.assert_array_equal(masks[0], expected)
    expected = np.zeros((30, 40))
    expected[:, 0] = 1
    np.testing.assert_array_equal(masks[1], expected)
    np.testing.assert_array_equal(masks[2], expected)
    assert target.crowd.tolist() == [False, True, False, False]
    assert target.areas.tolist() == [72, 30, 17.5, 36]
    assert target.boxes[3].tolist() == [10, 11, 16, 17]
    assert target.labels.tolist() == [0, 0, 0, 1]


def test_ids_may_be_texts(tmp_path):
    picture(tmp_path / "a.png")
    coco_file(tmp_path / "a.json", [coco_image("first", "a.png")], [coco_object(1, "first")])
    assert open_detection(tmp_path)["train"].image_ids == ("first",)


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


def test_voc(tmp_path):
    sources = open_detection(voc_set(tmp_path, train=2, val=1, test=1))
    assert lengths(sources) == {"train": 2, "val": 1, "test": 1}
    train = sources["train"]
    assert train.classes == ("cat", "dog")
    assert train.category_ids == (1, 2)
    assert train.target(0).boxes.tolist() == [[1, 2, 11, 12], [5, 5, 40, 30]]
    assert train.target(0).labels.tolist() == [1, 0]


def test_original_voc_counts_pixels_from_one(tmp_path):
    voc_set(tmp_path, train=1)
    boxes = [("dog", 1, 1, 40, 30), ("cat", 5, 6, 5, 6)]
    voc_file(tmp_path / "Annotations/im000.xml", "im000.png", boxes, database="The VOC2007 Database")
    target = open_detection(tmp_path)["train"].target(0)
    assert target.boxes.tolist() == [[0, 0, 40, 30], [4, 5, 5, 6]]


def test_voc_lists(tmp_path):
    voc_set(tmp_path, trainval=2, test=1)
    (tmp_path / "ImageSets/Main/cat_train.txt").write_text("im000 -1\nim001  1")
    assert lengths(open_detection(tmp_path)) == {"train": 2, "val": 1}
    (tmp_path / "ImageSets/Main/train.txt").write_text("im000  1\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("im001 -1\n")
    assert lengths(open_detection(tmp_path)) == {"train": 1, "val": 1, "test": 1}


def test_names_in_voc_lists_that_end_as_flags_do(tmp_path, caplog):
    names = [*(f"frame {i}" for i in range(3)), "a 1", "a", "b"]
    for number, name in enumerate(names):
        picture(tmp_path / "JPEGImages" / f"{name}.png", seed=number)
        voc_file(tmp_path / "Annotations" / f"{name}.xml", f"{name}.png", [("cat", 1, 1, 9, 9)])
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("frame 0\nframe 1\n frame 2  1\na 1\n")
    (lists / "val.txt").write_text("a  -1\nb 0\n\n")
    sources = open_detection(tmp_path)
    assert [path.rpartition("/")[2] for path in sources["train"].paths] == [f"{name}.png" for name in names[:4]]
    assert [path.rpartition("/")[2] for path in sources["val"].paths] == ["a.png", "b.png"]
    assert not caplog.records
    (lists / "val.txt").write_text("a\nframe 7\ngone\n")
    assert lengths(open_detection(tmp_path)) == {"train": 4, "val": 1}
    [line] = [record.getMessage() for record in caplog.records]
    assert "images without an annotation file: 2, left out (frame 7.xml: in the list of val)" in line


def test_what_is_left_out_is_said(tmp_path, caplog):
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "not annotated.jpg")
    voc_file(tmp_path / "a.xml", "a.jpg", [("cat", 1, 1, 9, 9)])
    open_detection(tmp_path, 0)
    [line] = [record.getMessage() for record in caplog.records]
    assert "images without an annotation file: 1, left out (not annotated.jpg)" in line


def test_voc_next_to_images(tmp_path):
    for split in ("train", "valid"):
        picture(tmp_path / split / "a.jpg", seed=len(split))
        picture(tmp_path / split / "not annotated.jpg")
        voc_file(tmp_path / split / "a.xml", "a.jpg", [("cat", 1, 1, 9, 9)])
    sources, report = open_checked(tmp_path)
    assert lengths(sources) == {"train": 1, "val": 1}
    assert [(finding.kind, finding.count) for finding in report.findings] == [("annotation_missing", 2)]
    assert lengths(open_detection(tmp_path / "train")) == {"train": 1}


@pytest.mark.parametrize("folder", ["JPEGImages", "."])
def test_voc_images_that_differ_in_the_extension_alone(tmp_path, caplog, folder):
    kinds = {"a": ("png", "jpg"), "b": ("jpg", "png"), "c": ("jpg", "png"), "d": ("png", "jpg")}
    for number, (name, extensions) in enumerate(kinds.items()):
        for extension in extensions:  # the first is what the annotation names
            picture(tmp_path / folder / f"{name}.{extension}", seed=number)
        voc_file(tmp_path / f"Annotations/{name}.xml", f"C:\\x\\{name}.{extensions[0]}", [("cat", 1, 1, 9, 9)])
    voc_file(tmp_path / "Annotations/d.xml", "d.bmp", [("cat", 1, 1, 9, 9)])
    sources, report = open_checked(tmp_path, 0)
    assert [path.rpartition("/")[2] for path in sources["train"].paths] == ["a.png", "b.jpg", "c.jpg"]
    found = {finding.kind: finding for finding in report.findings}
    assert found["image_unclear"].examples == ("Annotations/d.xml: d.jpg, d.png",)
    left = [example.rpartition("/")[2] for example in found["annotation_missing"].examples]
    assert left == ["a.jpg", "b.png", "c.png"]
    open_detection(tmp_path, 0)
    assert "annotation files that fit several image files: 1, dropped (Annotations/d.xml: " in caplog.text


def test_voc_files_are_of_the_image_of_their_own_name_first(tmp_path):
    # Both were renamed, and what is in the files was not.
    for number, name in enumerate(("1", "2")):
        picture(tmp_path / f"{name}.png", seed=number)
    voc_file(tmp_path / "1.xml", "2.png", [("cat", 1, 1, 9, 9)])
    voc_file(tmp_path / "2.xml", "3.png", [("dog", 1, 1, 9, 9)])
    source = open_detection(tmp_path, 0)["train"]
    found = {path.rpartition("/")[2]: source.target(i).labels.tolist() for i, path in enumerate(source.paths)}
    assert found == {"1.png": [0], "2.png": [1]}


def test_yolo_images_that_differ_in_the_extension_alone(tmp_path, caplog):
    yolo_set(tmp_path, train=3)
    picture(tmp_path / "images/train/0.jpg", seed=9)
    assert lengths(open_detection(tmp_path, 0)) == {"train": 4}
    assert "images that share their label file with another: 1, taken with the same objects" in caplog.text


def test_difficult_objects_are_kept_and_counted(tmp_path):
    voc_set(tmp_path, train=1)
    voc_file(tmp_path / "Annotations/im000.xml", "im000.png", [("dog", 1, 1, 9, 9)], difficult="1")
    report = check_detection(tmp_path)
    assert [(finding.kind, finding.count) for finding in report.findings] == [("difficult", 1)]
    assert report.splits["train"].objects == {"dog": 1}
    assert not open_detection(tmp_path)["train"].target(0).crowd.any()


def test_folder_in_folder(tmp_path):
    coco_set(tmp_path / "set" / "inner", train=2, val=2)
    assert lengths(open_detection(tmp_path)) == {"train": 2, "val": 2}


def test_nothing_and_more_than_one(tmp_path):
    with raises(ValueError, "no annotations that are known: looked for COCO", "YOLO", "Pascal VOC"):
        open_detection(tmp_path)
    with raises(FileNotFoundError, "no folder or file", "nowhere"):
        open_detection(tmp_path / "nowhere")
    (tmp_path / "a.csv").write_text("x")
    with raises(ValueError, "neither a folder nor a COCO file"):
        open_detection(tmp_path / "a.csv")
    coco_set(tmp_path, train=2)
    voc_set(tmp_path, train=1)
    with raises(ValueError, "has annotations in COCO and Pascal VOC"):
        open_detection(tmp_path)
    assert lengths(open_detection(tmp_path / "annotations/instances_train.json", 0)) == {"train": 2}


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
