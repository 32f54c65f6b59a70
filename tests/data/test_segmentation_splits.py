"""Splits of maps of classes are those of the data, and none is lost without a word."""

import json
from pathlib import Path

import pytest

from tests.helpers.detection_sets import picture
from tests.helpers.map_sets import SIZE, label_file, map_set, panoptic_set
from transnext.data.segmentation import open_segmentation


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images/{}", "labels/{}"), ("{}/images", "{}/masks"), ("{}", "semantic/{}"), ("{}", "{}_labels")],
)
def test_two_folders_of_a_split(tmp_path, images: str, labels: str) -> None:
    for number, split in enumerate(("train", "val", "valid")):
        picture(tmp_path / images.format(split) / "a.jpg", SIZE, seed=number)
        label_file(tmp_path / labels.format(split) / "a.png", (0, 1), seed=number)
    with pytest.raises(ValueError, match=r"^val is both .*val.* and .*valid.*: remove or rename one$"):
        open_segmentation(tmp_path)


def test_two_panoptic_files_of_a_split(tmp_path) -> None:
    file = panoptic_set(tmp_path) / "annotations" / "panoptic_val2017.json"
    file.with_name("panoptic_val2014.json").write_text(file.read_text())
    with pytest.raises(ValueError, match=r"^val is both .*panoptic_val2014.json and .*panoptic_val2017.json: remove"):
        open_segmentation(tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_labelled_pixels_in_what_is_held_out_and_in_what_is_left(tmp_path, seed: int) -> None:
    for i in range(6):
        picture(tmp_path / "images" / f"{i}.png", SIZE, seed=i)
        label_file(tmp_path / "labels" / f"{i}.png", (0, 1) if i in (1, 4) else (255,), seed=i)
    sources = open_segmentation(tmp_path, 0.2, seed)
    assert list(sources) == ["train", "val"]
    assert [int(source.pixels[:, :-1].any(1).sum()) for source in sources.values()] == [1, 1]


def test_a_panoptic_file_without_annotations_is_left_out(tmp_path, caplog) -> None:
    file = panoptic_set(tmp_path) / "annotations" / "panoptic_val2017.json"
    document = json.loads(file.read_text())
    del document["annotations"]
    file.with_name("panoptic_image_info_test-dev2017.json").write_text(json.dumps(document))
    assert list(open_segmentation(tmp_path, 0)) == ["val"]
    assert "left out (image_info_test-dev2017: " in caplog.text
    file.with_name("panoptic_train2017.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="is not a COCO annotation file: there is no"):
        open_segmentation(tmp_path, 0)


def test_pictures_of_a_panoptic_file_are_of_its_split(tmp_path) -> None:
    panoptic_set(tmp_path)
    for file in (tmp_path / "val2017").iterdir():
        picture(tmp_path / "train2017" / file.name, SIZE, seed=99)
    source = open_segmentation(tmp_path / "annotations" / "panoptic_val2017.json", 0)["train"]
    assert {Path(path).parent.name for path in source.paths} == {"val2017"}


@pytest.mark.parametrize("kind", ["no label files", "no pictures", "ignored"])
def test_splits_that_are_left_out_are_said(tmp_path, caplog, kind: str) -> None:
    map_set(tmp_path, train=4, val=2)
    for path in (tmp_path / "labels" / "val").iterdir():
        if kind == "no label files":
            path.unlink()
        elif kind == "ignored":
            label_file(path, (255,))
    for path in (tmp_path / "images" / "val").iterdir():
        if kind == "no pictures":
            path.write_text("text")
    assert {split: len(source) for split, source in open_segmentation(tmp_path, 0).items()} == {"train": 4}
    lines = [record.getMessage() for record in caplog.records]
    assert any("splits without label files" in line and "left out (val" in line for line in lines)
