"""Pictures that are judged and asked about in tiles, as a detector was trained on them."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.painted import Paintings, extent, painted, where
from transnext.config import TrainConfig
from transnext.data import Skipped, collate
from transnext.data.preprocessing import Preprocessing
from transnext.engine.eval_loop import evaluate
from transnext.engine.loader import eval_loader
from transnext.predict import Detector
from transnext.tasks.detection.looking import Looking, looking_at
from transnext.tasks.detection.net import Found, not_finite
from transnext.tasks.detection.task import Detection
from transnext.tasks.task import Loaded

pytestmark = pytest.mark.usefixtures("one_thread")
LEAST = 8
"""Smallest side of what the detector below finds, pixels of its input."""


class Finder(nn.Module):
    """Finds what is painted, if it is large enough in the input, with outlines."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor, sizes: Tensor) -> list[Found]:
        self.shapes.append(tuple(images.shape))
        return [self._found(image[:, :h, :w]) for image, (h, w) in zip(images, sizes.tolist(), strict=True)]

    def _found(self, image: Tensor) -> Found:
        boxes, labels = [], []
        for i in range(6):
            inside = where(image.numpy() * 255, i)
            if inside.any() and (extent(inside)[2:] - extent(inside)[:2]).min() >= LEAST:
                boxes.append(extent(inside))
                labels.append(i)
        return Found(
            boxes=torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 4)),
            scores=torch.linspace(0.9, 0.6, len(boxes)),
            labels=torch.tensor(labels, dtype=torch.int64),
            masks=torch.ones(len(boxes), 7, 7),
        )


class BrokenOnce(Finder):
    """Gives numbers that are not finite of the first thing that it is asked about."""

    def forward(self, images: Tensor, sizes: Tensor) -> list[Found]:
        """As a detector does it."""
        found = super().forward(images, sizes)
        return [not_finite(images, 7), *found[1:]] if len(self.shapes) == 1 else found


def loaded(**metadata) -> Loaded:
    preprocessing = Preprocessing(
        input_size=(3, 64, 64), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", crop_pct=1.0, crop_mode="fit"
    )
    said = {"class_names": list("abcdef"), "category_ids": [1, 2, 3, 4, 5, 6], "with_masks": True}
    task = Detection(metadata={**said, **metadata})
    return Loaded(model=Finder().eval(), task=task, preprocessing=preprocessing, name="finder")


def paintings() -> list:
    """Pictures of which the whole is shown four or five times smaller, and tiles of 128 pixels twice."""
    rng = np.random.default_rng(0)
    made = []
    for size in ((256, 256), (300, 190), (256, 256), (210, 317), (40, 50)):
        across = np.arange(6) % 3 * (size[1] // 3), np.arange(6) // 3 * (size[0] // 2)
        places = np.stack(across, 1) + rng.integers(2, 30, (6, 2))
        boxes = [(x, y, x + 22, y + 24) for x, y in places.tolist()] if min(size) > 100 else [(4, 5, 30, 33)]
        made.append(painted(size, boxes))
    return made


def judged(model: Loaded, rank: int = 0, world_size: int = 1, gather=None, source=None):
    images = model.task.images(source or Paintings(paintings()), model.preprocessing)
    loader = eval_loader(
        images, 4, 0, rank=rank, world_size=world_size, collate=partial(collate, targets=model.task.collate)
    )
    return evaluate(model.task, model.model, loader, model.preprocessing, gather=gather), loader


def test_pictures_are_judged_in_the_tiles_that_were_trained_on() -> None:
    whole, _ = judged(loaded())
    assert whole.boxes.summary["AR"] == pytest.approx(1 / 30, abs=0.01), "of the smallest picture alone"
    assert whole.notes == []
    model = loaded(tile=128)
    tiled, loader = judged(model)
    assert tiled.boxes.summary["AP50"] == tiled.masks.summary["AP50"] == pytest.approx(1)
    assert [len(image.found) for image in tiled.images] == [6, 6, 6, 6, 1]
    assert tiled.notes == ["pictures were looked at in tiles of 128 pixels"]
    assert [len(batch) for batch in loader.batches] == [1] * 5, "pictures of full size fill the memory"
    assert max(shape[0] for shape in model.model.shapes) == 8, "tiles do not"


def test_several_processes_judge_in_tiles_as_one() -> None:
    model = loaded(tile=128)
    states: list = []
    judged(model, 1, 2, gather=lambda state: states.append(state) or [state])
    together, _ = judged(model, 0, 2, gather=lambda state: [state, *states])
    alone, _ = judged(model)
    one, other = alone.to_dict(), together.to_dict()
    assert one.pop("images_per_second")
    assert other.pop("images_per_second")
    assert one == other


def test_another_way_than_that_of_training() -> None:
    trained, other = loaded(tile=128), loaded()
    assert judged(looking_at(trained, tile=0))[0].to_dict()["notes"] == []
    assert judged(looking_at(trained))[0].boxes.summary["AP50"] == pytest.approx(1)
    assert judged(looking_at(other, tile=128, at_once=3))[0].boxes.summary["AP50"] == pytest.approx(1)
    assert max(shape[0] for shape in other.model.shapes) == 3
    for wrong in ({"tile": 3}, {"tile": 64, "overlap": 0.95}):
        with pytest.raises(ValueError, match=r"is 3:|is 0\.95:"):
            looking_at(other, **wrong)
    trained.model.detector = "mask2former"
    with pytest.raises(ValueError, match="cannot be put together at edges: leave out --tile"):
        looking_at(trained, tile=64)
    assert looking_at(trained, tile=0).task.how == Looking(tile=0)


def test_what_cannot_be_read_is_left_out_of_tiles() -> None:
    result, _ = judged(loaded(tile=128), source=Paintings(paintings(), broken=(1,)))
    assert [image.index for image in result.images] == [0, 2, 3, 4]
    assert result.skipped == [("painting 1", "it is broken")]


def test_answers_are_those_of_the_tiles_that_were_trained_on() -> None:
    detector = Detector(loaded(tile=128))
    pictures = [picture for picture, _ in paintings()]
    assert [len(found) for found in detector(pictures)] == [6, 6, 6, 6, 1]
    assert [len(found) for found in detector(pictures, tile=0)] == [0, 0, 0, 0, 1]
    assert [len(found) for found in Detector(loaded())(pictures)] == [0, 0, 0, 0, 1]
    assert not any(isinstance(found, Skipped) for found in detector.stream(pictures))
    for found, (_, truth) in zip(detector(pictures), paintings(), strict=True):
        boxes = found.xyxy[np.argsort(found.class_id)]
        np.testing.assert_allclose(boxes, truth.boxes, atol=2)


def test_what_is_not_finite_in_a_tile_is_not_passed_over() -> None:
    model = replace(loaded(tile=128), model=BrokenOnce().eval())
    result, _ = judged(model)
    assert "1 found objects had numbers that are not finite" in result.notes[1]
    assert [len(image.found) for image in result.images][1:] == [6, 6, 6, 1], "others are found"
    model.model.shapes.clear()
    with pytest.raises(ValueError, match="not finite: its weights are not usable"):
        Detector(model)(paintings()[0][0])


@pytest.mark.parametrize(("detector", "tile"), [("mask_rcnn", 48), ("mask2former", None)])
def test_what_a_run_says_of_its_tiles(detector, tile, rectangles) -> None:
    config = TrainConfig.of(
        task="detection", data=str(rectangles), output="out", detector=detector, train_tiles=48, batch_size=3
    )
    task, _ = Detection.open(config)
    assert task.metadata.get("tile") == task.how.tile == tile
    (note,) = task.notes
    if tile is None:
        assert "pictures are judged whole, where objects are smaller: masks of mask2former" in note
    else:
        assert note == "Pictures are judged in tiles of 48 pixels, as they are trained on."
        assert task.how.at_once == 6
    assert "tile" not in Detection.open(config.but(train_tiles=None))[0].metadata
