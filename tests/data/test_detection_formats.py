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
    square,
    voc_file,
    voc_set,
)
from transnext.data.detection import check_detection, open_checked, open_detection


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
