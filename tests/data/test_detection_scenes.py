"""Scenes composed of the bundled drawings."""

import pickle

import numpy as np
import pytest

from transnext.data import cached
from transnext.data.detection import DetectionSource, aligned, check_detection, draw_scenes, open_detection, scenes
from transnext.data.emoji import load_emoji
from transnext.data.fingerprint import fingerprint


@pytest.fixture(scope="module")
def few():
    return draw_scenes("train", 20)


def test_a_scene_is_a_function_of_its_number(few):
    again = draw_scenes("train", 6)
    assert again.annotation_bytes() == few.subset(range(6)).annotation_bytes()
    for i in range(6):
        assert np.array_equal(again.load(i), few.load(i))
    assert draw_scenes("train", 6, seed=1).annotation_bytes() != again.annotation_bytes()
    assert draw_scenes("val", 6).annotation_bytes() != again.annotation_bytes()


def test_boxes_are_those_of_the_outlines(few):
    for i in range(len(few)):
        target = few.target(i)
        assert target.size == scenes.SCENE_SIZE == few.load(i).size[::-1]
        assert 1 <= len(target) <= scenes.MOST_OBJECTS
        masks = target.masks()
        assert masks.sum(0).max() == 1, "each pixel is of one drawing"
        for box, mask, area in zip(target.boxes, masks, target.areas, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert area == mask.sum()


def test_outlines_are_what_is_seen_of_the_drawings(few):
    """Pixel by pixel: what is more than half opaque, the last one in front."""
    for i in range(len(few)):
        generator = scenes._generator(0, "train", i, "ground")
        blended = np.asarray(scenes._ground(generator)).astype(np.float64)
        owner = np.full(scenes.SCENE_SIZE, -1)
        for number, one in enumerate(scenes._placed(0, "train", i)):
            for (row, column), alpha in np.ndenumerate(one.pixels[..., 3]):
                y, x = one.y + row, one.x + column
                share = alpha / 255
                blended[y, x] = share * one.pixels[row, column, :3] + (1 - share) * blended[y, x]
                if alpha >= 128:
                    owner[y, x] = number
        assert np.abs(np.asarray(few.load(i)) - blended).max() < 3
        masks = few.target(i).masks()
        assert np.array_equal(masks, [owner == number for number in range(len(masks))])


def test_grounds_differ(few):
    grounds = [np.asarray(scenes._ground(scenes._generator(0, "train", i, "ground"))) for i in range(len(few))]
    plain = [len(np.unique(ground.reshape(-1, 3), axis=0)) == 1 for ground in grounds]
    assert 0 < sum(plain) < len(few)


def test_drawings_hide_no_more_than_a_part_of_another(few):
    for i in range(len(few)):
        placed = scenes._placed(0, "train", i)
        for one, mask in zip(placed, few.target(i).masks(), strict=True):
            assert mask.sum() >= 0.6 * (one.pixels[..., 3] >= 128).sum()


def test_splits_share_no_drawings():
    drawings = {split: set(np.concatenate(scenes._drawings(split)).tolist()) for split in scenes.SCENES}
    assert not drawings["train"] & drawings["val"]
    assert not drawings["train"] & drawings["shift"]
    emoji = load_emoji()
    assert {emoji.class_names[emoji.labels[i]] for i in drawings["val"]} == set(scenes.SCENE_CLASSES)


def test_it_is_a_detection_source(few):
    copy = pickle.loads(pickle.dumps(few))
    assert np.array_equal(copy.load(7), few.load(7))
    assert copy.target(7).boxes.tolist() == few.target(7).boxes.tolist()
    assert few.name(7) == "scenes/train/0007"
    assert list(few.names_below())[7] == "train/0007"
    assert few.most_objects() == np.diff(few.objects.starts).max()
    assert sum(few.object_counts().values()) == len(few.objects)
    assert few.version(7) != few.version(8)

    part = few.subset([9, 3])
    assert part.name(0) == "scenes/train/0009"
    assert np.array_equal(part.load(0), few.load(9))
    assert part.version(1) == few.version(3)
    other = aligned(few, ("clock", "Face"))
    assert isinstance(other, DetectionSource)
    assert other.object_counts()["clock"] == few.object_counts()["clock"]
    assert np.array_equal(other.load(3), few.load(3))


def test_the_set_has_a_name(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(scenes, "SCENES", {"train": 4, "val": 3, "shift": 2})
    scenes.scene_splits.cache_clear()
    try:
        found = open_detection("scenes", val_fraction=0.5, seed=3)
        assert {split: len(source) for split, source in found.items()} == {"train": 4, "val": 3, "shift": 2}
        assert fingerprint(found) == fingerprint(open_detection("scenes"))
        assert not caplog.records
        monkeypatch.chdir(tmp_path)
        (tmp_path / "scenes").mkdir()
        open_detection("scenes")
        assert "write ./scenes for the folder" in caplog.text
        with pytest.raises(ValueError, match="no annotations"):
            open_detection("./scenes")
    finally:
        scenes.scene_splits.cache_clear()
    with pytest.raises(ValueError, match="there is nothing to check"):
        check_detection("scenes")
    with pytest.raises(ValueError, match="no split 'test': choose one of train, val, shift"):
        draw_scenes("test")


def test_pictures_may_be_kept(few, tmp_path):
    kept = cached(few.subset(range(3)), tmp_path / "kept")
    for _ in range(2):
        assert np.array_equal(kept.load(2), few.load(2))
