import json
import math

import numpy as np
import pytest
from PIL import Image

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
from transnext.data.detection import KINDS, check_detection, open_checked, open_detection
from transnext.data.detection.findings import Findings
from transnext.data.findings import MAX_EXAMPLES


def found(report):
    return {finding.kind: finding.count for finding in report.findings}


def one_image(tmp_path, *objects, size=(40, 30), images=None):
    picture(tmp_path / "a.png")
    good = coco_object(100, 1, 7, (20, 20, 5, 5))
    coco_file(tmp_path / "a.json", images or [coco_image(1, "a.png", size)], [good, *objects])
    return open_checked(tmp_path, 0)


def obj(**values):
    entry = coco_object(1, 1)
    entry.update(values)
    return {key: value for key, value in entry.items() if value != "absent"}


FULL = [0, 1200]


@pytest.mark.parametrize(
    ("entry", "kind", "left"),
    [
        (obj(bbox=[5, 5, 0, 4]), "box_zero", 1),
        (obj(bbox=[5, 5, 4, -4]), "box_zero", 1),
        (obj(bbox=[5, 5, 1e-12, 4]), "box_zero", 1),
        (obj(bbox=[5, math.nan, 4, 4]), "not_finite", 1),
        (obj(bbox=[5, 5, math.inf, 4]), "not_finite", 1),
        (obj(bbox=[5, 5, 10**400, 4]), "not_finite", 1),
        (obj(bbox=[5, 5, "4", 4]), "not_finite", 1),
        (obj(bbox=[5, 5, None, 4]), "not_finite", 1),
        (obj(bbox=[5, 5, [4], 4]), "not_finite", 1),
        (obj(bbox=[5, 5, 4]), "object_entry", 1),
        (obj(bbox="5, 5, 4, 4"), "object_entry", 1),
        (obj(bbox={"x": 5}), "object_entry", 1),
        (7, "object_entry", 1),
        (obj(bbox="absent"), "box_missing", 1),
        (obj(bbox=[]), "box_missing", 1),
        (obj(bbox=[40, 5, 4, 4]), "box_outside", 1),
        (obj(bbox=[-10, 5, 10, 4]), "box_outside", 1),
        (obj(bbox=[-10, 5, 20, 4]), "box_clipped", 2),
        (obj(bbox=[30, 25, 20, 9]), "box_clipped", 2),
        (obj(image_id=2), "unknown_image", 1),
        (obj(image_id="1"), "unknown_image", 1),
        (obj(image_id=[1]), "unknown_image", 1),
        (obj(image_id="absent"), "unknown_image", 1),
        (obj(category_id=2), "unknown_category", 1),
        (obj(category_id={}), "unknown_category", 1),
        (obj(id=100), "object_id_repeated", 2),
        (obj(iscrowd="no"), "crowd_unclear", 2),
        (obj(area=0), "area_unusable", 2),
        (obj(area=-3), "area_unusable", 2),
        (obj(area="x"), "area_unusable", 2),
        (obj(area=math.nan), "area_unusable", 2),
        (obj(bbox=[20, 20, 5, 5], category_id=7), "object_repeated", 1),
        (obj(bbox=[20, 20, 5, 5]), "box_of_two_classes", 2),
        (obj(segmentation=5), "outlines_unused", 2),
        (obj(segmentation=[[1, 2, 3, 4]]), "outlines_unused", 2),
        (obj(segmentation=[[1, 2, 3, 4]], bbox="absent"), "outline_malformed", 1),
        (obj(segmentation=[[], []], bbox="absent"), "box_missing", 1),
    ],
)
def test_objects(tmp_path, entry, kind, left):
    sources, report = one_image(tmp_path, entry)
    kinds = found(report)
    assert kinds.pop(kind) == 1
    assert set(kinds) <= {"class_empty"}
    target = sources["train"].target(0)
    assert len(target) == left
    assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
    assert (target.boxes >= 0).all()
    assert (target.boxes <= [40, 30, 40, 30]).all()
    assert (target.areas > 0).all()
    finding = next(finding for finding in report.findings if finding.kind == kind)
    assert finding.action == KINDS[kind].action
    assert "a.json: annotation" in finding.examples[0]
    assert "\n" not in finding.examples[0]


@pytest.mark.parametrize(
    ("outline", "kind"),
    [
        ({"size": [30, 40], "counts": [1199]}, "outline_malformed"),
        ({"size": [30, 40], "counts": "~~~"}, "outline_malformed"),
        ({"size": [30, 40], "counts": "0"}, "outline_malformed"),
        ({"size": [30, 40], "counts": [1201, -1]}, "outline_malformed"),
        ({"size": [40, 30], "counts": FULL}, "outline_size"),
        ({"size": [2**30, 2**30], "counts": [2**30]}, "outline_size"),
        ({"size": [30, 40], "counts": [1200]}, "outline_empty"),
        ([square(100, 100)], "outline_empty"),
        (5, "outline_malformed"),
        ([[1, 2, 3, 4]], "outline_malformed"),
        ([["x"]], "outline_malformed"),
        ({"size": [30, 40]}, "outline_malformed"),
        ([[1, 1, 2, 2, 3, math.nan]], "not_finite"),
        ([[1, 1, 2, 2, 3, 1e12]], "outline_malformed"),
        ([square(20, 20)], "outline_elsewhere"),
    ],
)
def test_outlines(tmp_path, outline, kind):
    good = obj(id=2, bbox=[1, 1, 6, 6], segmentation=[square(1, 1)])
    sources, report = one_image(tmp_path, good, obj(bbox=[3, 3, 5, 5], segmentation=outline))
    kept = kind == "outline_elsewhere"
    assert found(report)[kind] == 1
    target = sources["train"].target(0)
    assert len(target) == 2 + kept  # and the one without outline
    assert target.masks().any((1, 2)).all()


def test_objects_without_outline_are_ignored_regions_where_most_have_one(tmp_path):
    sources, report = one_image(tmp_path, obj(segmentation=[square(1, 1)]), obj(id=2, segmentation=[square(9, 9)]))
    assert found(report) == {"outline_missing": 1, "outline_elsewhere": 2, "class_empty": 1}
    target = sources["train"].target(0)
    assert target.crowd.tolist() == [True, False, False]
    assert target.masks()[0].sum() == 25


def test_where_masks_are_not_wanted_all_boxes_count(tmp_path):
    one_image(tmp_path, obj(segmentation=[square(1, 1)]), obj(id=2, bbox="absent", segmentation=[square(9, 9)]))
    sources, report = open_checked(tmp_path, 0, masks=False)
    assert not found(report)
    target = sources["train"].target(0)
    assert target.segmentations is None
    assert not target.crowd.any()
    assert [9, 9, 15, 15] in target.boxes.tolist()


@pytest.mark.parametrize("outline", [[], [[]], [[], []], {}, None])
@pytest.mark.parametrize("masks", [False, True])
def test_an_outline_without_corners_is_none(tmp_path, outline, masks):
    one_image(tmp_path, obj(segmentation=outline), obj(id=2, bbox=[9, 9, 6, 6], segmentation=[square(9, 9)]))
    sources, report = open_checked(tmp_path, 0, masks=masks)
    assert "outline_malformed" not in found(report)
    target = sources["train"].target(0)
    assert [2, 3, 12, 11] in target.boxes.tolist()
    assert not target.crowd.any()


@pytest.mark.parametrize("outline", [5, [[1, 2, 3, 4]], [[1, 2, 3]], [["x"]], {"size": [30, 40]}, {"counts": "~"}])
def test_where_masks_are_not_wanted_no_box_is_lost_to_its_outline(tmp_path, outline):
    one_image(tmp_path, obj(segmentation=outline), obj(id=2, bbox=[9, 9, 6, 6], segmentation=[square(9, 9)]))
    sources, report = open_checked(tmp_path, 0, masks=False)
    assert not found(report)
    assert [2, 3, 12, 11] in sources["train"].target(0).boxes.tolist()
    assert len(sources["train"].target(0)) == 3


def test_outlines_of_few_objects_are_not_used(tmp_path):
    boxless = obj(id=3, bbox="absent", segmentation=[square(2, 1)])
    more = [obj(id=4 + i, bbox=[i, 2, 6, 6]) for i in range(4)]
    sources, report = one_image(tmp_path, obj(segmentation=[square(1, 1)]), boxless, *more)
    assert found(report) == {"outlines_unused": 1}
    source = sources["train"]
    assert not source.has_masks
    assert [2, 1, 8, 7] in source.target(0).boxes.tolist()
    assert report.outlines is False


def test_images(tmp_path):
    names = ["a.png", "b.png", "c.png", "d.png", "empty.png", "a.png", "z.png", "gone.png", "text.png"]
    for i, name in enumerate(names[:7]):
        picture(tmp_path / name, seed=i)
    (tmp_path / "text.png").write_text("text")
    images = [coco_image(i, name) for i, name in enumerate(names)]
    images[1]["width"] = 41
    images[2] = coco_image(2, "c.png", (80, 60))
    images[3]["height"] = "30"
    images += [{"file_name": "x.png"}, {"id": 3.5, "file_name": "a.png"}, {"id": 99}, 5, coco_image(6, "d.png")]
    objects = [coco_object(i, i, 1 + 6 * (i == 3), (1 + i, 1, 5, 5)) for i in range(len(names)) if i != 4]
    coco_file(tmp_path / "a.json", images, objects)
    sources, report = open_checked(tmp_path, 0)
    assert found(report) == {
        "image_entry": 4,
        "image_id_repeated": 2,
        "image_listed_twice": 1,
        "file_missing": 1,
        "file_unreadable": 1,
        "size_unusable": 1,
        "size_differs": 2,
        "image_empty": 1,
        "unknown_image": 1,
    }
    source = sources["train"]
    assert source.image_ids == (0, 3, 4)
    assert [len(source.target(i)) for i in range(3)] == [2, 1, 0]
    assert report.splits["train"].images == 3
    assert report.splits["train"].empty == 1


def test_duplicates_damaged_images_and_leaks(tmp_path):
    coco_set(tmp_path, train=6, val=4)
    for target in ("train/001.png", "val/002.png"):
        (tmp_path / target).write_bytes((tmp_path / "train/000.png").read_bytes())
    cut = tmp_path / "train/005.png"
    cut.write_bytes(cut.read_bytes()[:500])
    assert found(check_detection(tmp_path, pixels=False)) == {"image_empty": 4}
    report = check_detection(tmp_path)
    assert found(report) == {"image_damaged": 1, "image_repeated": 1, "content_in_two_splits": 1, "image_empty": 4}
    text = report.text()
    assert text.startswith(f"{tmp_path}: COCO, boxes\n  train  6 images, 2 without objects, 6 objects: cat 4, dog 2\n")
    assert "images with the same content as another: 1, kept\n    " in text
    assert "train/001.png and " in text
    json.dumps(report.to_dict())
    assert report.to_dict()["findings"][0]["kind"] == "image_damaged"


def test_a_clean_set(tmp_path):
    voc_set(tmp_path, train=2, val=2)
    report = check_detection(tmp_path)
    assert report.findings == ()
    assert report.text().endswith("nothing to complain about")


@pytest.mark.parametrize("masks", ["none", "polygons", "run lengths"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_of_the_stored_raster_turn_with_the_picture(tmp_path, orientation, masks):
    stored = Image.new("RGB", (40, 30))
    stored.paste((255, 255, 255), (4, 6, 14, 9))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    outline = {
        "none": None,
        "polygons": [[4, 6, 14, 6, 14, 9, 4, 9]],
        "run lengths": {"size": [30, 40], "counts": [4 * 30 + 6, *[3, 27] * 9, 3, 40 * 30 - (13 * 30 + 9)]},
    }[masks]
    coco_file(
        tmp_path / "a.json",
        [coco_image(1, "a.png")],
        [coco_object(1, 1, box=(4, 6, 10, 3), segmentation=outline), coco_object(2, 1, 7, segmentation=outline)],
    )
    sources, report = open_checked(tmp_path, 0)
    image, target = sources["train"].load(0), sources["train"].target(0)
    white = np.asarray(image)[..., 0] > 0
    assert target.size == white.shape
    kinds = found(report)
    if orientation >= 5:  # the size tells
        assert kinds.pop("turned") == 1
        ys, xs = np.nonzero(white)
        assert target.boxes[0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        if masks != "none":
            np.testing.assert_array_equal(target.masks()[0], white)
    else:  # taken as upright
        assert kinds.pop("turn_unclear", 0) == (orientation != 1)
        assert target.boxes[0].tolist() == [4, 6, 14, 9]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_the_upright_picture_stay(tmp_path, orientation):
    picture(tmp_path / "a.jpg", (40, 30), orientation)
    coco_file(tmp_path / "a.json", [coco_image(1, "a.jpg", (30, 40))], [coco_object(1, 1, box=(4, 6, 10, 30))])
    sources, report = open_checked(tmp_path, 0)
    assert found(report) == {"class_empty": 1}
    assert sources["train"].target(0).boxes.tolist() == [[4, 6, 14, 36]]


def test_yolo_lines(tmp_path):
    lines = [
        "0 .5 .5 .5 .5",
        "0 .5 .5 .5",
        "0 .5 .5 .5 .5 .9",
        "x .5 .5 .5 .5",
        "2 .5 .5 .5 .5",
        "0.5 .5 .5 .5 .5",
        "-1 .5 .5 .5 .5",
        "0 .5 .5 .5 nan",
        "0 1.2 .5 .6 .5",
        "0 320 240 64 48",
        "",
        "1 .5 .5 0 .5",
        "1 0.05 0.05 0.2 0.1",
    ]
    yolo_set(tmp_path, "\n".join(lines), train=1)
    sources, report = open_checked(tmp_path, 0)
    assert found(report) == {
        "label_line": 3,
        "label_class": 3,
        "label_range": 2,
        "not_finite": 1,
        "box_zero": 1,
        "box_outside": 1,
        "box_clipped": 2,
    }
    examples = next(finding.examples for finding in report.findings if finding.kind == "label_line")
    assert examples[0] == "labels/train/0.txt:2: 4 fields, where a box has 5 and a polygon 7, 9, ..."
    assert len(sources["train"].target(0)) == 3


def test_voc_files_in_another_encoding(tmp_path):
    voc_set(tmp_path, train=1)
    file = tmp_path / "Annotations" / "im000.xml"
    text = f'<?xml version="1.0" encoding="ISO-8859-1"?>\n{file.read_text().replace("dog", "dög")}'
    file.write_bytes(text.encode("latin-1"))
    assert open_detection(tmp_path, 0)["train"].classes == ("cat", "dög")


def test_broken_voc_files_cost_their_image(tmp_path):
    voc_set(tmp_path, train=4)
    folder = tmp_path / "Annotations"
    (folder / "im000.xml").write_text((folder / "im000.xml").read_text()[:90])
    (folder / "im001.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]>\n<annotation>&a;</annotation>')
    voc_file(folder / "im002.xml", "x.png", [("cat", 5, 5, 5, 5), ("cat", "a", 5, 5, 5), ("", 1, 1, 5, 5)])
    sources, report = open_checked(tmp_path, 0)
    assert found(report) == {"annotation_broken": 2, "object_entry": 2, "box_zero": 1, "image_empty": 1}
    broken = next(finding for finding in report.findings if finding.kind == "annotation_broken")
    assert "im000.xml: broken XML: " in broken.examples[0]
    assert "line 1" in broken.examples[0]
    assert len(sources["train"]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [],\n "annotations": [}', "broken JSON: line 2, column 18"),
        ('{"images": [], "annotations": [], ', "broken JSON: line 1"),
        ("[]", "holds a list, as results of a model are"),
        ('{"images": 3, "annotations": []}', "'images' is 3, not a list"),
        ('{"images": [], "annotations": []}', "there is no 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [5]}', "a category without whole number as id"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no image of train can be used"),
        (
            '{"images": [{"id": 1, "file_name": "b.png"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            "its images are not there: looked for 'b.png'",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            "there are no objects in train",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "two categories with id 1",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
            "two categories called 'a'",
        ),
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' + "1" * 5000 + "}", "broken JSON"),
        (b'{"images": "\xff"}', "broken JSON"),
    ],
)
def test_what_cannot_be_left_out_is_one_line(tmp_path, content, message):
    picture(tmp_path / "a.png")
    file = tmp_path / "train.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"^[^\n]{1,400}$") as error:
        open_detection(tmp_path)
    assert message in str(error.value)


def test_when_nothing_is_left_the_reason_is_named(tmp_path):
    picture(tmp_path / "a.png")
    coco_file(tmp_path / "a.json", [coco_image(1, "a.png", (80, 60))], [coco_object(1, 1)])
    with pytest.raises(ValueError, match=r"no image of train can be used: images of another size .*80 x 60 annotated"):
        open_detection(tmp_path)
    coco_file(tmp_path / "a.json", [coco_image(1, "a.png")], [coco_object(1, 1, 3)])
    with pytest.raises(
        ValueError, match="no objects in train: annotations of a category that is not listed: 1, dropped"
    ):
        open_detection(tmp_path)


def test_opening_says_what_it_dropped(tmp_path, caplog):
    one_image(tmp_path, obj(bbox=[5, 5, 0, 0]), obj(id=2, bbox=[6, 5, 0, 0]), obj(id=3, bbox=[-3, 5, 9, 9]))
    open_detection(tmp_path, 0)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "boxes of zero or negative size: 2, dropped (a.json: annotation 1: box 5, 5, 5, 5)" in lines[0]


def test_findings_keep_few_examples():
    findings = Findings()
    findings.add_all("box_zero", range(1000), lambda i: f"{i}\n" + "x" * 1000)
    [finding] = findings.listed()
    assert finding.count == 1000
    assert len(finding.examples) == MAX_EXAMPLES
    assert all(len(example) <= 160 and "\n" not in example for example in finding.examples)
