"""Large pictures in tiles: each object once, whole, whatever the tiles cut."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transnext.tasks.detection.net import Found
from transnext.tasks.detection.tiles import detect_in_tiles
from transnext.tasks.tiling import even_starts


def _painted(size: tuple[int, int], boxes: np.ndarray) -> Tensor:
    """A picture in which each box has a colour of its own."""
    picture = torch.zeros(3, *size, dtype=torch.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        colour = torch.tensor([(i + 1) % 256, (i + 1) // 256, 7], dtype=torch.uint8)
        picture[:, y0:y1, x0:x1] = colour[:, None, None]
    return picture


class PerfectDetector:
    """Finds all that is painted in a crop, cut off where the crop ends. Classes are the last bit of the colour."""

    def __init__(self, jitter: float = 0, seed: int = 0, mask_side: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.jitter = jitter
        self.mask_side = mask_side
        self.shapes: list[list[tuple[int, ...]]] = []

    def __call__(self, crops: list[Tensor]) -> list[Found]:
        self.shapes.append([tuple(crop.shape) for crop in crops])
        return [self._find(crop) for crop in crops]

    def _find(self, crop: Tensor) -> Found:
        ids = crop[0].long() + 256 * crop[1].long()
        boxes, labels = [], []
        for i in torch.unique(ids).tolist():
            if i > 0:
                rows, columns = torch.nonzero(ids == i, as_tuple=True)
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(i % 2)
        order = self.rng.permutation(len(boxes))
        found, labels = np.array(boxes, np.float32).reshape(-1, 4)[order], [labels[i] for i in order]
        limits = np.array([crop.shape[2], crop.shape[1]] * 2)
        found = np.clip(found + self.rng.uniform(-self.jitter, self.jitter, found.shape), 0, limits)
        scores = -np.sort(-self.rng.uniform(0.5, 1, len(found)))
        n = self.mask_side
        return Found(
            boxes=torch.from_numpy(found).float(),
            scores=torch.from_numpy(scores).float(),
            labels=torch.tensor(labels, dtype=torch.int64),
            masks=None if n is None else torch.ones(len(found), n, n),
        )


def _layout(rng: np.random.Generator, size: tuple[int, int], largest: int, tries: int) -> np.ndarray:
    """Boxes that do not overlap; many touch a neighbour."""
    taken, boxes = np.zeros(size, bool), []
    for _ in range(tries):
        w, h = rng.integers(1, largest + 1, 2)
        if boxes and rng.random() < 0.5:
            x, y = boxes[-1][2], boxes[-1][1]
        else:
            x, y = rng.integers(0, size[1]), rng.integers(0, size[0])
        x1, y1 = min(x + w, size[1]), min(y + h, size[0])
        if x1 > x and y1 > y and not taken[y:y1, x:x1].any():
            taken[y:y1, x:x1] = True
            boxes.append((x, y, x1, y1))
    return np.array(boxes).reshape(-1, 4)


def _same(found: Found, boxes: np.ndarray) -> None:
    got = {(tuple(box), label) for box, label in zip(found.boxes.long().tolist(), found.labels.tolist(), strict=True)}
    assert len(found) == len(boxes)
    assert got == {(tuple(box), (i + 1) % 2) for i, box in enumerate(boxes.tolist())}
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 260), st.integers(1, 260)),
    tile=st.integers(20, 90),
    overlap=st.sampled_from([0.2, 0.37, 0.5]),
    whole=st.booleans(),
)
def test_each_object_smaller_than_the_overlap_is_found_once_and_whole(seed, size, tile, overlap, whole) -> None:
    rng = np.random.default_rng(seed)
    boxes = _layout(rng, size, max(1, round(tile * overlap)), 40)
    detector = PerfectDetector(seed=seed)
    found = detect_in_tiles(detector, _painted(size, boxes), tile, overlap=overlap, batch_size=3, whole=whole)
    _same(found, boxes)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(60, 260), st.integers(60, 260)),
    tile=st.integers(30, 90),
    whole=st.booleans(),
)
def test_larger_objects_are_put_together(seed, size, tile, whole) -> None:
    boxes = _layout(np.random.default_rng(seed), size, 200, 25)
    _same(detect_in_tiles(PerfectDetector(seed=seed), _painted(size, boxes), tile, overlap=0.25, whole=whole), boxes)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_that_are_a_little_off_are_no_second_objects(seed) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.array([b for b in _layout(rng, (700, 900), 60, 300) if min(b[2] - b[0], b[3] - b[1]) >= 20])
    detector = PerfectDetector(jitter=2, seed=seed)
    found = detect_in_tiles(detector, _painted((700, 900), boxes), 320, overlap=0.2)
    assert len(found) == len(boxes)
    distance = np.abs(found.boxes.numpy()[:, None] - boxes[None]).max(2)
    assert distance.min(0).max() <= 2.001
    assert len(set(distance.argmin(0))) == len(boxes)


def test_a_box_of_low_score_does_not_take_the_place_of_the_object() -> None:
    def ask(crops: list[Tensor]) -> list[Found]:
        """An object at 70..90 of the picture: the second tile sees it twice, better but hardly sure the second time."""
        answers = []
        for crop in crops:
            at = 60 * int(crop[0, 0, 0])
            boxes = [[70.0 - at, 10, 90 - at, 30]]
            boxes = [[72.0 - at, 10, 91 - at, 30], *boxes] if at else boxes
            scores = [0.9, 0.05][: len(boxes)]
            answers.append(
                Found(boxes=torch.tensor(boxes), scores=torch.tensor(scores), labels=torch.zeros(len(boxes)))
            )
        return answers

    picture = torch.zeros(3, 100, 160, dtype=torch.uint8)
    picture[:, :, 60:] = 1
    found = detect_in_tiles(ask, picture, 100, overlap=0.4)
    assert (found.scores > 0.5).sum() == 1
    assert len(detect_in_tiles(ask, picture, 100, overlap=0.4, threshold=0.5)) == 1


def test_objects_within_others_stay() -> None:
    """Nested objects of a class are two objects, wherever tiles end."""

    def ask(crops: list[Tensor]) -> list[Found]:
        answers = []
        for crop in crops:
            x, y = int(crop[0, 0, 0]) + 256 * int(crop[1, 0, 0]), int(crop[2, 0, 0])
            boxes = torch.tensor([[40.0, 40, 78, 78], [50, 50, 60, 62], [62, 50, 70, 62]]) - torch.tensor([x, y] * 2)
            boxes = boxes.clamp(torch.zeros(4), torch.tensor([crop.shape[2], crop.shape[1]] * 2))
            boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)]
            answers.append(Found(boxes=boxes, scores=torch.full((len(boxes),), 0.9), labels=torch.zeros(len(boxes))))
        return answers

    picture = torch.zeros(3, 200, 200, dtype=torch.uint8)
    picture[0] = torch.arange(200)
    picture[2] = torch.arange(200)[:, None]
    for tile in range(80, 140):
        found = detect_in_tiles(ask, picture, tile, overlap=0.5)
        assert sorted(found.boxes.tolist()) == [[40, 40, 78, 78], [50, 50, 60, 62], [62, 50, 70, 62]]


def test_tiles_cover_a_side_evenly() -> None:
    for length in range(1, 300):
        for tile, shared in ((40, 8), (33, 0), (50, 45), (7, 1)):
            starts = even_starts(length, tile, shared)
            assert starts[0] == 0
            assert max(starts) + min(tile, length) == length
            assert all(0 < b - a <= tile - shared for a, b in itertools.pairwise(starts))


def test_crops_are_asked_about_in_batches_and_a_small_picture_at_once() -> None:
    detector = PerfectDetector()
    detect_in_tiles(detector, torch.zeros(3, 100, 90, dtype=torch.uint8), 50, overlap=0.2, batch_size=4)
    assert [len(batch) for batch in detector.shapes] == [4, 2]
    assert {shape for batch in detector.shapes for shape in batch} == {(3, 50, 50)}
    detector = PerfectDetector()
    detect_in_tiles(detector, torch.zeros(3, 31, 47, dtype=torch.uint8), 50, whole=True)
    assert detector.shapes == [[(3, 31, 47)]]


def test_masks_of_parts_become_one() -> None:
    boxes = np.array([[3, 5, 150, 21], [3, 30, 18, 44]])
    found = detect_in_tiles(PerfectDetector(mask_side=28), _painted((60, 160), boxes), 64, overlap=0.25)
    _same(found, boxes)
    assert found.masks is not None
    assert found.masks.shape == (2, 28, 28)
    assert found.masks.min() == 1
    empty = detect_in_tiles(PerfectDetector(mask_side=28), torch.zeros(3, 60, 160, dtype=torch.uint8), 64)
    assert len(empty) == 0
    assert empty.masks.shape == (0, 28, 28)


@pytest.mark.parametrize(
    ("tile", "options", "message"),
    [(0, {}, "tile is 0"), (64, {"overlap": 0.95}, "overlap"), (64, {"threshold": 2}, "threshold")],
)
def test_numbers_out_of_range_are_refused(tile, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        detect_in_tiles(PerfectDetector(), torch.zeros(3, 9, 9, dtype=torch.uint8), tile, **options)


def test_masks_over_a_canvas_are_refused() -> None:
    def ask(crops: list[Tensor]) -> list[Found]:
        none = Found(boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0), masks=torch.zeros(0, 8, 8))
        return [Found(**vars(none) | {"masks_of": "canvas"}) for _ in crops]

    with pytest.raises(ValueError, match="masks lie over boxes"):
        detect_in_tiles(ask, torch.zeros(3, 9, 9, dtype=torch.uint8), 64)
