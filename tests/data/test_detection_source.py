import gc
import json
import pickle
import shutil

import numpy as np
import pytest

from tests.helpers.detection_sets import coco_file, coco_image, coco_object, coco_set, picture, square, voc_set
from transnext.data import cached
from transnext.data.detection import aligned, open_detection, write_coco
from transnext.data.fingerprint import DataFingerprint, fingerprint


def masked_set(root, images=4):
    listed, objects = [], []
    for i in range(images):
        picture(root / "images" / f"{i}.png", seed=i)
        listed.append(coco_image(5 * i, f"{i}.png", group=f"g{i % 2}"))
        for k in range(i):
            outline = [square(2 * k + 1.3, 3.7, 8.4)]
            box = (2 * k + 1.3, 3.7, 8.4, 8.4)
            objects.append(coco_object(len(objects), 5 * i, (1, 7)[k % 2], box, segmentation=outline, area=60 + k))
    objects[-1]["iscrowd"] = 1
    coco_file(root / "annotations" / "instances_train.json", listed, objects)
    return root


def same(a, b):
    assert a.size == b.size
    for name in ("boxes", "labels", "crowd", "areas"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert a.segmentations == b.segmentations


def test_types(tmp_path):
    source = open_detection(masked_set(tmp_path), 0)["train"]
    target = source.target(3)
    assert target.boxes.dtype == target.areas.dtype == np.float32
    assert target.labels.dtype == np.int64
    assert target.crowd.tolist() == [False, False, True]
    assert target.masks().shape == (3, 30, 40)
    assert target.segmentations[0]["size"] == [30, 40]
    assert isinstance(target.segmentations[0]["counts"], bytes)
    empty = source.target(0)
    assert empty.boxes.shape == (0, 4)
    assert empty.masks().shape == (0, 30, 40)
    same(source.target(-1), target)
    with pytest.raises(IndexError):
        source.target(4)
    target.boxes[:] = 0  # a copy
    assert source.target(3).boxes.any()


def test_it_is_cheap_to_pickle_and_holds_no_python_objects_for_objects(tmp_path):
    listed = [coco_image(i, "a.png") for i in range(3)]
    picture(tmp_path / "a.png")
    for i in range(3):
        picture(tmp_path / f"{i}.png", seed=i)
        listed[i]["file_name"] = f"{i}.png"
    objects = [coco_object(i, i % 3, box=(1 + i / 1000, 1, 9, 9), segmentation=[square(1, 1)]) for i in range(9000)]
    coco_file(tmp_path / "a.json", listed, objects)
    source = open_detection(tmp_path, 0)["train"]
    assert len(source.objects) == 9000
    data = pickle.dumps(source)
    assert len(data) < 9000 * 60
    copy = pickle.loads(data)
    same(copy.target(1), source.target(1))
    gc.collect()
    before = len(gc.get_objects())
    kept = [pickle.loads(data) for _ in range(10)]
    assert len(gc.get_objects()) - before < 500
    assert len(kept) == 10


def test_round_trip_through_a_file(tmp_path):
    sources = open_detection(masked_set(tmp_path / "a", 6), 0.5)
    assert list(sources) == ["train", "val"]
    write_coco(tmp_path / "b", sources)
    again = open_detection(tmp_path / "b")
    for name, source in sources.items():
        assert again[name].image_ids == source.image_ids
        assert again[name].category_ids == source.category_ids == (1, 7)
        assert list(again[name].groups) == [f"group {group}" for group in source.groups]
        for i in range(len(source)):
            mine, theirs = source.target(i), again[name].target(i)
            np.testing.assert_allclose(mine.boxes, theirs.boxes, atol=1e-5)
            assert mine.segmentations == theirs.segmentations
            np.testing.assert_array_equal(mine.areas, theirs.areas)
            np.testing.assert_array_equal(mine.crowd, theirs.crowd)
            assert source.load(i).tobytes() == again[name].load(i).tobytes()


def test_subset(tmp_path):
    source = open_detection(masked_set(tmp_path), 0)["train"]
    some = source.subset([3, 0, 2])
    assert some.image_ids == (15, 0, 10)
    assert list(some.groups) == ["group g1", "group g0", "group g0"]
    for new, old in enumerate((3, 0, 2)):
        same(some.target(new), source.target(old))
        assert some.name(new) == source.name(old)
    assert len(source.subset([])) == 0
    assert some.most_objects() == 2
    assert [source.subset(images).most_objects() for images in ([], [0], [1, 0])] == [0, 0, 1]
    assert source.object_counts() == {"cat": 3, "dog": 2}


def test_classes_of_a_model(tmp_path, caplog):
    source = open_detection(masked_set(tmp_path), 0)["train"]
    assert aligned(source, ("cat", "dog")) is source
    other = aligned(source, ["bird", "DOG", "person", "Cat"])
    assert other.classes == ("bird", "DOG", "person", "Cat")
    assert other.category_ids == (8, 7, 9, 1)
    assert other.target(3).labels.tolist() == [3, 1, 3]
    np.testing.assert_array_equal(other.target(3).boxes, source.target(3).boxes)
    assert not caplog.records
    assert other.named == (1, 3)
    assert source.named is None
    less = aligned(source, ["dog"])
    assert "4 objects of classes that the model does not know dropped: cat" in caplog.text
    assert [len(less.target(i)) for i in range(4)] == [0, 0, 1, 1]
    assert less.target(2).segmentations[0] == source.target(2).segmentations[1]
    assert less.category_ids == (7,)
    with pytest.raises(
        ValueError, match=r"^none of the classes of the data \(cat, dog\) is one of the model's \(bird\)$"
    ):
        aligned(source, ["bird"])


def test_exact_names_win_over_those_in_another_case(tmp_path):
    picture(tmp_path / "a.png")
    objects = [coco_object(1, 1, 1), coco_object(2, 1, 2, (3, 3, 9, 9))]
    coco_file(tmp_path / "a.json", [coco_image(1, "a.png")], objects, ((1, "Cat"), (2, "cat")))
    source = open_detection(tmp_path, 0)["train"]
    assert aligned(source, ["dog", "cat"]).target(0).boxes.tolist() == [[3, 3, 12, 12]]
    assert aligned(source, ["cat", "Cat"]).target(0).labels.tolist() == [1, 0]


def test_fingerprint(tmp_path):
    coco_set(tmp_path / "a", train=5, val=2)
    before = fingerprint(open_detection(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert fingerprint(open_detection(tmp_path / "b")) == before
    assert DataFingerprint.from_dict(json.loads(json.dumps(before.to_dict()))) == before
    file = tmp_path / "b/annotations/instances_train.json"
    document = json.loads(file.read_text())

    def change(**parts):
        file.write_text(json.dumps(document | parts))
        return before.difference(fingerprint(open_detection(tmp_path / "b")))

    assert change() == ""
    moved = [dict(entry, bbox=[0, 0, 5, 5]) for entry in document["annotations"][:1]] + document["annotations"][1:]
    assert change(annotations=moved) == "train has 5 images as before, but annotated in another way"
    fewer = change(annotations=document["annotations"][1:])
    assert fewer == "train has 5 images as before with other numbers of objects (cat 2 instead of 3)"
    dogs = [dict(entry, category_id=7) for entry in document["annotations"]]
    assert "cat 0 instead of 3, dog 4 instead of 1" in change(annotations=dogs)
    assert "4 images instead of 5" in change(images=document["images"][:4])
    assert "without 004.png" in change(images=document["images"][:4]).replace("train/", "")
    renamed = [{"id": 1, "name": "cat"}, {"id": 7, "name": "wolf"}]
    assert "there is a new class wolf" in change(categories=renamed)


def test_decoded_images_may_be_kept(tmp_path):
    source = open_detection(voc_set(tmp_path, train=2), 0)["train"]
    kept = cached(source, tmp_path / "cache")
    assert kept is not source
    for _ in range(2):
        assert kept.load(1).tobytes() == source.load(1).tobytes()
    same(kept.target(1), source.target(1))
