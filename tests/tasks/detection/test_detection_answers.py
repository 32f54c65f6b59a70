"""Answers of detectors: places in the picture, masks, polygons, and what they say of themselves."""

import time

import numpy as np
import pytest
import supervision as sv
import torch
from matplotlib.path import Path
from pycocotools import mask as run_lengths
from scipy.ndimage import binary_fill_holes

from transnext.data import Frame
from transnext.tasks.detection.answers import ObjectsFound, class_places, objects
from transnext.tasks.detection.net import Found
from transnext.tasks.detection.placing import place

CLASSES = ["RBC", "WBC", "µ-Plättchen"]


def _frame(size: tuple[int, int], scale: tuple[float, float] = (1, 1), offset: tuple[float, float] = (0, 0)) -> Frame:
    matrix = torch.tensor([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]], dtype=torch.float64)
    return Frame(original=size, to_original=matrix)


def _found(boxes, scores=None, labels=None, masks=None, masks_of="box") -> Found:
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    n = len(boxes)
    return Found(
        boxes=boxes,
        scores=torch.tensor(scores if scores is not None else [0.9] * n),
        labels=torch.tensor(labels if labels is not None else [0] * n, dtype=torch.int64),
        masks=masks,
        masks_of=masks_of,
    )


def _sampled(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values of a mask over a box at the pixel centres of a picture, float64; pixel by pixel."""
    h, w = mask.shape
    out = np.zeros(size)
    for r in range(size[0]):
        for c in range(size[1]):
            u = (c + 0.5 - box[0]) / (box[2] - box[0]) * w - 0.5
            v = (r + 0.5 - box[1]) / (box[3] - box[1]) * h - 0.5
            total = 0.0
            for i in (int(np.floor(v)), int(np.floor(v)) + 1):
                for j in (int(np.floor(u)), int(np.floor(u)) + 1):
                    weight = (1 - abs(v - i)) * (1 - abs(u - j))
                    if 0 <= i < h and 0 <= j < w:
                        total += weight * mask[i, j]
            out[r, c] = total
    return out


def _agree(got: np.ndarray, values: np.ndarray) -> None:
    sure = np.abs(values - 0.5) > 1e-5
    assert sure.mean() > 0.98
    np.testing.assert_array_equal(got[sure], values[sure] >= 0.5)


def test_the_answer_is_detections_in_pixels_of_the_picture() -> None:
    found = _found(
        [[10, 20, 30, 40], [-5, 0, 8, 9], [0, 0, 4, 4], [96, 10, 140, 60]], [0.9, 0.8, 0.3, 0.7], [2, 0, 0, 1]
    )
    answer = objects(found, _frame((61, 203), (2, 1.5), (-1, 0.5)), "a.jpg", CLASSES, threshold=0.5)
    assert isinstance(answer, sv.Detections)
    assert (answer.name, answer.size) == ("a.jpg", (61, 203))
    np.testing.assert_allclose(answer.xyxy, [[19, 30.5, 59, 60.5], [0, 0.5, 15, 14], [191, 15.5, 203, 61]])
    assert answer.class_id.tolist() == [2, 0, 1]
    assert answer.class_names == ["µ-Plättchen", "RBC", "WBC"]
    assert answer.data["class_name"].tolist() == answer.class_names
    np.testing.assert_allclose(answer.confidence, [0.9, 0.8, 0.7])
    assert answer.xyxy.dtype == answer.confidence.dtype == np.float32
    assert answer.mask is None


def test_objects_in_the_padding_classes_not_asked_for_and_low_scores_are_left_out() -> None:
    found = _found([[0, 0, 9, 9], [50, 3, 60, 9], [1, 1, 5, 5], [2, 2, 2, 8]], [0.9, 0.8, 0.5, 0.5], [0, 0, 1, 1])
    frame = _frame((20, 50))
    assert len(objects(found, frame, "a", CLASSES)) == 2
    assert objects(found, frame, "a", CLASSES, keep_classes=["WBC"]).class_names == ["WBC"]
    assert objects(found, frame, "a", CLASSES, threshold=0.5).class_names == ["RBC", "WBC"]
    assert len(objects(found, frame, "a", CLASSES, keep_classes=[])) == 0
    with pytest.raises(ValueError, match="no class 'wbc': did you mean 'WBC'"):
        objects(found, frame, "a", CLASSES, keep_classes=["wbc"])
    with pytest.raises(ValueError, match=r"no class 'dog': it knows 'RBC', 'WBC', 'µ-Plättchen'$"):
        objects(found, frame, "a", CLASSES, keep_classes=["dog"])
    assert class_places(CLASSES, ["WBC", "RBC"]) == [1, 0]


def test_nothing_found_is_an_answer_too() -> None:
    for masks in (None, torch.zeros(0, 28, 28)):
        answer = objects(_found([], [], [], masks), _frame((20, 50)), "a", CLASSES)
        assert len(answer) == 0
        assert answer.text() == "nothing found"
        assert answer.to_dict() == {"image": "a", "size": [20, 50], "objects": []}
        assert answer.outlines() == []
        assert isinstance(answer[np.zeros(0, bool)], ObjectsFound)
    canvas = _found([], [], [], torch.zeros(0, 8, 8), "canvas")
    assert len(objects(canvas, _frame((20, 50)), "a", CLASSES, canvas=(32, 64)).mask) == 0


@pytest.mark.parametrize("bad", ["boxes", "scores"])
def test_what_is_not_finite_is_refused(bad) -> None:
    found = _found([[0, 0, 9, 9]])
    getattr(found, bad)[0] = float("nan")
    with pytest.raises(ValueError, match=r"a\.jpg is not finite"):
        objects(found, _frame((20, 50)), "a.jpg", CLASSES)


def test_turned_inputs_are_refused() -> None:
    frame = Frame(original=(20, 50), to_original=torch.tensor([[-1.0, 0, 50], [0, 1, 0]], dtype=torch.float64))
    with pytest.raises(ValueError, match="mirrored"):
        objects(_found([[0, 0, 9, 9]]), frame, "a", CLASSES)


@pytest.mark.parametrize("seed", range(3))
def test_masks_over_boxes_lie_in_the_picture(seed) -> None:
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(-3, 40, (6, 4)).astype(np.float32)
    boxes[:, 2:] = boxes[:, :2] + rng.uniform(0.3, 25, (6, 2))
    masks = rng.random((6, 5, 5), np.float32)
    scale, offset, size = np.array([1.7, 0.9]), np.array([-4.0, 2.25]), (37, 59)
    found = _found(boxes, masks=torch.from_numpy(masks))
    answer = objects(found, _frame(size, tuple(scale), tuple(offset)), "a", CLASSES)
    placed = boxes.astype(np.float64) * np.tile(scale, 2) + np.tile(offset, 2)
    inside = (np.clip(placed[:, 2:], 0, size[::-1]) > np.clip(placed[:, :2], 0, size[::-1])).all(1)
    assert np.asarray(answer.mask).shape == (inside.sum(), *size)
    for got, mask, box in zip(answer.mask, masks[inside], placed[inside], strict=True):
        _agree(got, _sampled(mask.astype(np.float64), box, size))


@pytest.mark.parametrize("masks_of", ["box", "canvas"])
@pytest.mark.parametrize("size", [(27, 41), (32, 48), (31, 8)])
def test_masks_are_those_of_an_evaluation(size, masks_of) -> None:
    canvas, original = (32, 48), (61, 89)
    rng = np.random.default_rng(size[0])
    masks = torch.from_numpy(rng.random((6, 8, 12), np.float32)) * 0.6
    masks[1, -4:, -6:] += 0.4  # at the edge of the input, or in the padding
    masks[2, 3, 4] = 0.99
    masks[3] = 1
    masks[4] = 0
    boxes = torch.rand(6, 2).mul(20)
    boxes = torch.cat([boxes, boxes + torch.rand(6, 2) * 20 + 1], 1).clamp(max=torch.tensor([size[1], size[0]] * 2))
    boxes[:, :2] = torch.minimum(boxes[:, :2], boxes[:, 2:] - 0.5)
    found = _found(boxes.numpy(), np.linspace(0.9, 0.4, 6, dtype=np.float32), masks=masks, masks_of=masks_of)
    frame = _frame(original, (original[1] / size[1], original[0] / size[0]))
    answer = objects(found, frame, "a", CLASSES, canvas=canvas)
    placed = place(found, frame, size, canvas)
    np.testing.assert_array_equal(answer.xyxy, placed.boxes)
    decoded = run_lengths.decode(list(placed.segmentations)).transpose(2, 0, 1).astype(bool)
    np.testing.assert_array_equal(np.asarray(answer.mask), decoded)
    assert decoded[3].any()
    assert not decoded[4].any()
    assert answer.outlines()[4] == []
    if masks_of == "canvas":
        assert decoded[3].all(), "up to the edge of the picture"
        with pytest.raises(ValueError, match="size"):
            objects(found, frame, "a", CLASSES)


def _odd_masks() -> np.ndarray:
    rng = np.random.default_rng(3)
    masks = np.zeros((5, 40, 53), bool)
    masks[0, 3:20, 5:30] = True
    masks[0, 8:12, 9:15] = False  # a hole
    masks[1, 39, 52] = True  # a pixel at the corner
    masks[2] = ((np.indices((40, 53)) - np.array([20, 25])[:, None, None]) ** 2).sum(0) < 150
    masks[3, 10:30, 0:9] = masks[3, 12:20, 40:53] = True  # two parts
    masks[4] = rng.random((40, 53)) > 0.5
    return masks


def _with_masks(masks: np.ndarray, compact: bool) -> ObjectsFound:
    boxes = np.array([[0, 0, masks.shape[2], masks.shape[1]]] * len(masks), np.float32)
    mask = sv.CompactMask.from_dense(masks, boxes, masks.shape[1:]) if compact else masks
    return ObjectsFound(
        xyxy=boxes,
        mask=mask,
        confidence=np.full(len(masks), 0.25, np.float32),
        class_id=np.zeros(len(masks), int),
        data={"class_name": np.array(["x"] * len(masks))},
        name="a",
        size=masks.shape[1:],
    )


@pytest.mark.parametrize("compact", [True, False])
def test_polygons_hold_the_centres_of_the_pixels_of_the_mask(compact) -> None:
    masks = _odd_masks()
    centres = np.stack(np.meshgrid(np.arange(53) + 0.5, np.arange(40) + 0.5), -1).reshape(-1, 2)
    for mask, polygons in zip(masks, _with_masks(masks, compact).outlines(), strict=True):
        inside = np.zeros(len(centres), bool)
        for polygon in polygons:
            inside |= Path(polygon).contains_points(centres)
        inside = inside.reshape(mask.shape)
        assert inside[mask].all()
        np.testing.assert_array_equal(inside, binary_fill_holes(mask, np.ones((3, 3))))


def test_polygons_have_no_needless_points() -> None:
    polygons = _with_masks(_odd_masks(), True).outlines()
    assert [len(polygon) for polygon in polygons[0]] == [8]
    assert [len(polygon) for polygon in polygons[1]] == [4]
    assert len(polygons[3]) == 2


def test_parts_of_an_answer_are_answers() -> None:
    answer = _with_masks(_odd_masks(), True)
    part = answer[[2, 0]]
    assert isinstance(part, ObjectsFound)
    assert (part.name, part.size, len(part)) == ("a", (40, 53), 2)
    assert part == answer[np.array([2, 0])]
    np.testing.assert_array_equal(np.asarray(part.mask), _odd_masks()[[2, 0]])
    assert isinstance(sv.Detections.merge([part, answer]), sv.Detections)


def test_text_and_plain_values() -> None:
    answer = objects(
        _found([[0, 0, 9, 9], [0, 0, 8.1, 7], [1, 1, 3, 3]], [0.981, 0.7, 0.6], [1, 0, 0]),
        _frame((20, 50)),
        "a",
        CLASSES,
    )
    assert answer.text() == "2 RBC (70%), 1 WBC (98%)"
    rows = answer.to_dict()["objects"]
    assert rows[1] == {"class": "RBC", "score": 0.7, "box": [0.0, 0.0, 8.1, 7.0]}
    outlined = _with_masks(_odd_masks(), True).to_dict()["objects"]
    assert outlined[1]["outlines"] == [[[52.0, 39.5], [52.5, 39.0], [53.0, 39.5], [52.5, 40.0]]]


def test_a_hundred_masks_of_a_picture_are_quick_and_small() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 2900, (100, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 150, (100, 2))], 1)
    masks = torch.nn.functional.interpolate(torch.rand(100, 1, 7, 7), (28, 28), mode="bilinear")[:, 0]
    found = _found(boxes, masks=masks)
    frame = _frame((3000, 4000))
    objects(found, frame, "a", CLASSES)
    start = time.perf_counter()
    answer = objects(found, frame, "a", CLASSES)
    seconds = time.perf_counter() - start
    assert seconds < 2  # 30 ms alone on a machine
    assert answer.mask.shape == (100, 3000, 4000)
    assert sum(len(rle) for rle in answer.mask._rles) < 1e6
