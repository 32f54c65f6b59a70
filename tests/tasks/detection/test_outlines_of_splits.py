"""Which splits decide that outlines are learned, and what becomes of objects without one."""

from pathlib import Path

import pytest

from tests.helpers.detection_sets import coco_file, coco_image, coco_object, picture, square
from transnext.config import TrainConfig
from transnext.tasks.detection.task import Detection


def some_outlined(root: Path, outlined: dict[str, tuple[bool, ...]]) -> Path:
    """A set of one picture for each split, with an object for each entry, which says whether it has an outline."""
    for split, objects in outlined.items():
        picture(root / split / "0.png", (64, 64), seed=len(split))
        listed = [
            coco_object(k, 0, box=(2 + k * 10, 3, 6, 6), **({"segmentation": [square(2 + k * 10, 3)]} if given else {}))
            for k, given in enumerate(objects)
        ]
        coco_file(root / "annotations" / f"instances_{split}.json", [coco_image(0, "0.png", (64, 64))], listed)
    return root


def opened(data: Path, **options) -> tuple[Detection, dict]:
    return Detection.open(TrainConfig.of(task="detection", data=str(data), output="out", **options))


MOST = (True, True, True, False, False)


@pytest.mark.parametrize("boxes_alone", ["train", "val"])
def test_no_object_is_ignored_for_its_outline_where_boxes_are_learned(boxes_alone, tmp_path) -> None:
    """Splits are opened by what is learned from all, not each by what it has."""
    other = {"train": "val", "val": "train"}[boxes_alone]
    data = some_outlined(tmp_path, {boxes_alone: (False,) * 5, other: MOST, "test": MOST})
    task, sources = opened(data)
    assert not task.with_masks
    assert [int(source.objects.crowd.sum()) for source in sources.values()] == [0, 0, 0]
    assert task.metadata["most_objects"] == 5
    (note,) = task.notes
    assert f"outlines in {'train' if other == 'train' else 'val'}, test, and none in {boxes_alone}" in note
    with pytest.raises(ValueError, match=f"boxes alone in {boxes_alone}, no outlines: leave out --masks"):
        opened(data, masks=True)


def test_a_split_that_chooses_nothing_does_not_take_the_outlines(tmp_path) -> None:
    data = some_outlined(tmp_path, {"train": (True,) * 5, "val": MOST, "test": (False,) * 5})
    for options in ({}, {"masks": True}):
        task, sources = opened(data, **options)
        assert task.with_masks
        assert [source.has_masks for source in sources.values()] == [True, True, False]
        assert [int(source.objects.crowd.sum()) for source in sources.values()] == [0, 2, 0]
        assert task.notes == ["Outlines are not judged in test: there are boxes alone."]


@pytest.mark.parametrize(("given", "masks"), [((True,) * 5, True), ((False,) * 5, False)])
def test_nothing_is_said_of_outlines_that_all_have_or_none(given, masks, tmp_path) -> None:
    task, _ = opened(some_outlined(tmp_path, {"train": given, "val": given}))
    assert (task.with_masks, task.notes) == (masks, [])
