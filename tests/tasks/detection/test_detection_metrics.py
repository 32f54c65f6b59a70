"""COCO's numbers, matching, thresholds and confusion of a detector, against pycocotools and plain loops."""

import contextlib
import copy
import io
import itertools
import json
import math
import pickle
import time
from dataclasses import replace
from typing import Any

import faster_coco_eval
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from tests.helpers.pasting import paste_masks
from transnext.data import Batch, Frame
from transnext.data.instances import Annotation
from transnext.tasks.detection.coco_eval import CocoNumbers, Judged, coco_numbers, limit_for
from transnext.tasks.detection.curves import DEFAULT_THRESHOLD, best_thresholds, confusion_matrix, sweep
from transnext.tasks.detection.matching import Outcomes, outcomes_of, overlaps
from transnext.tasks.detection.metrics import DetectionMeter
from transnext.tasks.detection.net import Found
from transnext.tasks.detection.placing import Placed, place
from transnext.tasks.detection.results import DetectionResult

CATEGORY_IDS = [3, 7, 8, 90]
NAMES = ["cat", "dog", "bird", "car"]


def _blob(rng: np.random.Generator, box: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """An ellipse that fills a box, with holes."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    centre, half = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 2, 0.5)
    inside = ((columns - centre[0]) / half[0]) ** 2 + ((rows - centre[1]) / half[1]) ** 2 <= 1
    return run_lengths.encode(np.asfortranarray((inside & (rng.random(size) > 0.05)).astype(np.uint8)))


def _boxes(rng: np.random.Generator, number: int, size: tuple[int, int]) -> np.ndarray:
    limits = np.array([size[1], size[0]])
    middle, half = rng.random((number, 2)) * limits, np.exp(rng.normal(2.3, 0.9, (number, 2)))
    corners = np.concatenate([np.clip(middle - half, 0, limits - 2), np.clip(middle + half, 2, limits)], 1)
    return np.round(corners, rng.integers(0, 3)).astype(np.float32)


def _truth(rng: np.random.Generator, number: int, classes: int, crowds: float, masks: bool) -> Annotation:
    size = (int(rng.integers(20, 260)), int(rng.integers(20, 260)))
    boxes = _boxes(rng, number, size)
    return Annotation(
        size=size,
        boxes=boxes,
        labels=rng.integers(0, classes, number),
        crowd=rng.random(number) < crowds,
        # Not what boxes or masks would say: sizes are told by what the annotation says.
        areas=np.exp(rng.normal(6.5, 2.5, number)).astype(np.float32),
        segmentations=tuple(_blob(rng, box, size) for box in boxes) if masks else None,
    )


def _found(rng: np.random.Generator, truth: Annotation, number: int, classes: int, masks: bool) -> Placed:
    """Objects moved a little, doubled, of other classes, and some that are not there; many equal scores."""
    near = truth.boxes[rng.integers(0, len(truth), number)] if len(truth) else _boxes(rng, number, truth.size)
    moved = near + rng.normal(0, 1, (number, 4)) * rng.choice([0, 1, 4, 12], (number, 1))
    boxes = np.concatenate([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])], 1)
    boxes = np.clip(boxes, 0, [truth.size[1], truth.size[0]] * 2).astype(np.float32)
    scores = np.sort(np.round(rng.random(number), 2).astype(np.float32))[::-1].copy()
    return Placed(
        size=truth.size,
        boxes=boxes,
        scores=scores,
        labels=rng.integers(0, classes, number).astype(np.int32),
        segmentations=tuple(_blob(rng, box, truth.size) for box in boxes) if masks else None,
    )


def _images(
    seed: int,
    images: int = 12,
    objects: int = 8,
    found: int = 20,
    classes: int = 3,
    crowds: float = 0.1,
    masks: bool = True,
    truth_in: float = 0.8,
    found_in: float = 0.8,
) -> list[Judged]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(images):
        truth = _truth(rng, int(rng.integers(1, objects + 1)) * (rng.random() < truth_in), classes, crowds, masks)
        number = int(rng.integers(1, found + 1)) * (rng.random() < found_in)
        made.append(Judged(7 * i + 2, truth, _found(rng, truth, number, classes, masks)))
    return made


def _meter(images: list[Judged], masks: bool = True, **options: Any) -> DetectionMeter:
    masks = masks and images[0].truth.segmentations is not None
    meter = DetectionMeter(NAMES, CATEGORY_IDS, masks, **options)
    meter.merge([(images, [])])
    return meter


def _pycocotools(images: list[Judged], kind: str, limit: int) -> COCOeval:
    """The reference, from files' contents: an annotation file and the results that are written for it."""
    annotations = []
    for image in images:
        for i, (x0, y0, x1, y1) in enumerate(image.truth.boxes.astype(float).tolist()):
            row = {
                "id": len(annotations) + 1,
                "image_id": image.index,
                "category_id": CATEGORY_IDS[image.truth.labels[i]],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": float(image.truth.areas[i]),
                "iscrowd": int(image.truth.crowd[i]),
            }
            if image.truth.segmentations is not None:
                row["segmentation"] = copy.deepcopy(image.truth.segmentations[i])
            annotations.append(row)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": im.index, "height": im.truth.size[0], "width": im.truth.size[1]} for im in images],
        "categories": [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, NAMES, strict=True)],
        "annotations": annotations,
    }
    rows = [row for image in images for row in _rows(image, kind)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        if rows:
            found = truth.loadRes(rows)
        else:  # which pycocotools does not read
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox" if kind == "box" else "segm")
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
        if limit == 100:  # its summary knows no other
            evaluation.summarize()
    return evaluation


def _rows(image: Judged, kind: str) -> list[dict[str, Any]]:
    """Results in COCO's format; those of masks have no box, by which pycocotools would tell sizes."""
    rows = []
    for i, (box, score, label) in enumerate(
        zip(image.found.boxes.astype(float), image.found.scores.tolist(), image.found.labels.tolist(), strict=True)
    ):
        row: dict[str, Any] = {"image_id": image.index, "category_id": CATEGORY_IDS[label], "score": score}
        if kind == "box":
            row["bbox"] = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
        else:
            row["segmentation"] = copy.deepcopy(image.found.segmentations[i])
        rows.append(row)
    return rows


def _mean(values: np.ndarray) -> float:
    return float(values[values > -1].mean()) if (values > -1).any() else math.nan


def _twelve(evaluation: COCOeval) -> list[float]:
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    average = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]
    average += [precision[..., i, -1] for i in (1, 2, 3)]
    recalls = [recall[..., 0, i] for i in range(3)] + [recall[..., i, -1] for i in (1, 2, 3)]
    return [_mean(values) for values in average + recalls]


ODD: dict[str, dict[str, Any]] = {
    "no crowd": {"crowds": 0.0},
    "all crowd": {"crowds": 1.0},
    "nothing found": {"found_in": 0.0},
    "nothing there": {"truth_in": 0.0},
    "nothing at all": {"truth_in": 0.0, "found_in": 0.0},
    "one image": {"images": 1, "truth_in": 1.0, "found_in": 1.0},
    "one class": {"classes": 1},
    "much found": {"images": 3, "objects": 3, "found": 400, "classes": 1, "found_in": 1.0},
    "dense": {"images": 3, "objects": 260, "found": 300, "classes": 2, "truth_in": 1.0, "found_in": 1.0},
    "many empty": {"images": 30, "truth_in": 0.3, "found_in": 0.3},
    "boxes alone": {"masks": False},
}
CASES = [pytest.param(seed, {}, id=f"random {seed}") for seed in range(16)]
CASES += [pytest.param(100 + i, options, id=name) for i, (name, options) in enumerate(ODD.items())]


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize(("seed", "options"), CASES)
def test_the_numbers_are_those_of_pycocotools(seed: int, options: dict[str, Any], kind: str) -> None:
    images = _images(seed, **options)
    if kind == "mask" and not options.get("masks", True):
        pytest.skip("no outlines")
    limit = limit_for(images)
    ours = coco_numbers(images, len(NAMES), limit, masks=kind == "mask")
    theirs = _pycocotools(images, kind, limit)
    np.testing.assert_allclose(list(ours.summary.values()), _twelve(theirs), rtol=0, atol=1e-12)
    if limit == 100:
        stats = np.where(theirs.stats == -1, np.nan, theirs.stats)
        np.testing.assert_allclose(list(ours.summary.values()), stats, rtol=0, atol=1e-12)
    for label in range(len(NAMES)):
        for area in range(4):
            expected = _mean(theirs.eval["precision"][:, :, label, area, -1])
            np.testing.assert_allclose(ours.class_ap[label, area], expected, rtol=0, atol=1e-12)
        expected = _mean(theirs.eval["precision"][0, :, label, 0, -1])
        np.testing.assert_allclose(ours.class_ap50[label], expected, rtol=0, atol=1e-12)
        expected = _mean(theirs.eval["recall"][:, label, 0, -1])
        np.testing.assert_allclose(ours.class_ar[label], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize(("seed", "options"), CASES)
def test_matching_is_that_of_pycocotools(seed: int, options: dict[str, Any], kind: str) -> None:
    images = _images(seed, **options)
    if kind == "mask" and not options.get("masks", True):
        pytest.skip("no outlines")
    outcomes = outcomes_of(images, 100, masks=kind == "mask")
    ours = {
        (images[i].index, label, score, state)
        for i, label, score, state in zip(
            outcomes.image.tolist(),
            outcomes.label.tolist(),
            outcomes.score.tolist(),
            outcomes.state.tolist(),
            strict=True,
        )
    }
    theirs = set()
    count = 0
    for entry in _pycocotools(images, kind, 100).evalImgs:
        if entry is None or entry["aRng"] != [0, 1e10]:
            continue
        for score, match, ignored in zip(entry["dtScores"], entry["dtMatches"][0], entry["dtIgnore"][0], strict=True):
            state = -1 if ignored else int(match > 0)
            theirs.add((entry["image_id"], CATEGORY_IDS.index(entry["category_id"]), score, state))
            count += 1
    assert ours == theirs
    assert count == len(outcomes.score)


def test_an_image_that_lacks_outlines_is_not_compared_by_them() -> None:
    with pytest.raises(ValueError, match="boxes alone"):
        coco_numbers(_images(0, masks=False), len(NAMES), 100, masks=True)


def _plain_confusion(images: list[Judged], masks: bool, threshold: float, classes: int) -> np.ndarray:
    """Loops over objects, as the description reads."""
    confusion = np.zeros((classes + 1, classes + 1), int)
    for image in images:
        shared, found, truth = overlaps(image, masks), image.found, image.truth
        kept = [i for i in range(len(found)) if float(found.scores[i]) >= threshold]
        free = {j for j in range(len(truth)) if not truth.crowd[j]}
        rest = []
        for i in kept:
            same = [j for j in sorted(free) if truth.labels[j] == found.labels[i] and shared[i, j] >= 0.5]
            groups = [
                j
                for j in range(len(truth))
                if truth.crowd[j] and truth.labels[j] == found.labels[i] and shared[i, j] >= 0.5
            ]
            if same:
                free.remove(max(same, key=lambda j: (shared[i, j], j)))
                confusion[found.labels[i], found.labels[i]] += 1
            elif not groups:
                rest.append(i)
        for i in rest:
            other = [j for j in free if shared[i, j] >= 0.5]
            if other:
                j = max(other, key=lambda j: (np.float32(shared[i, j]), j))
                free.remove(j)
                confusion[truth.labels[j], found.labels[i]] += 1
            else:
                confusion[classes, found.labels[i]] += 1
        for j in free:
            confusion[truth.labels[j], classes] += 1
    return confusion


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_confusion_and_rates_against_plain_loops(seed: int, masks: bool) -> None:
    images = _images(seed, images=15, found=30)
    outcomes = outcomes_of(images, 100, masks)
    everything = sweep(outcomes)
    for threshold in (0.0, 0.25, 0.5, 0.505, everything.best(), 0.99, 1.1):
        expected = _plain_confusion(images, masks, threshold, len(NAMES))
        np.testing.assert_array_equal(confusion_matrix(outcomes, len(NAMES), threshold), expected)
        right, claimed, objects = expected.trace(), expected[:, :-1].sum(), expected[:-1].sum()
        precision, recall, f1 = everything.at(threshold)
        assert recall == pytest.approx(right / objects)
        assert f1 == pytest.approx(2 * right / (claimed + objects))
        assert precision == pytest.approx(right / claimed) if claimed else math.isnan(precision)


@pytest.mark.parametrize(("seed", "options"), CASES)
def test_the_best_threshold_against_every_threshold(seed: int, options: dict[str, Any]) -> None:
    images = _images(seed, **{**options, "objects": min(options.get("objects", 8), 60), "found": 20})
    outcomes = outcomes_of(images, 1000)
    for label in (None, 0, 2):
        ours = sweep(outcomes, label)

        def f1(threshold: float, label: int | None = label) -> float:
            confusion = _plain_confusion(images, False, threshold, len(NAMES))
            chosen = slice(0, -1) if label is None else slice(label, label + 1)
            right, whole = confusion.diagonal()[chosen].sum(), confusion[chosen].sum() + confusion[:, chosen].sum()
            return float(2 * right / whole) if whole else 0.0

        scores = sorted({float(score) for image in images for score in image.found.scores})
        middles = [(a + b) / 2 for a, b in itertools.pairwise(scores)]
        highest = max((f1(t) for t in scores + middles), default=0.0)
        if highest == 0:
            assert ours.best() == DEFAULT_THRESHOLD
        else:
            assert f1(ours.best()) == pytest.approx(highest, abs=1e-12)
            assert ours.at(ours.best())[2] == pytest.approx(highest, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_of_classes_are_those_of_each_alone(seed: int) -> None:
    outcomes = outcomes_of(_images(seed, classes=4), 100, named=(0, 1, 3))
    assert best_thresholds(outcomes, 6) == [sweep(outcomes, label).best() for label in range(6)]


def test_plain_values_of_many_classes_take_one_pass() -> None:
    """Thrice the classes must not take nine times as long."""
    seconds = []
    for classes in (150, 450):
        result = _many(classes, found=150_000)
        start = time.process_time()
        plain = result.to_dict()
        seconds.append(time.process_time() - start)
        assert len(plain["classes"]) == classes
    assert seconds[1] < 6 * seconds[0]


def _many(classes: int, found: int) -> DetectionResult:
    rng = np.random.default_rng(0)
    rates = rng.random((10, 101, classes, 4))
    numbers = CocoNumbers(precision=rates, recall=rates[:, 0], recall_of_few=np.ones(2), limit=100)
    integers, singles = np.zeros(found, np.int32), rng.random(found, np.float32)
    there = np.arange(classes, dtype=np.int32)
    outcomes = Outcomes(
        image=integers,
        place=integers,
        label=rng.integers(0, classes, found, np.int32),
        score=singles,
        state=rng.integers(0, 2, found).astype(np.int8),
        overlap=singles,
        nearest=integers,
        object_image=there,
        object_place=there,
        object_label=there,
        object_score=np.ones(classes, np.float32),
        pairs=np.zeros((0, 2), np.int32),
        pair_overlap=np.zeros(0, np.float32),
    )
    return DetectionResult(
        split="val",
        classes=[str(i) for i in there],
        category_ids=there.tolist(),
        boxes=numbers,
        outcomes=outcomes,
        threshold=0.5,
        confusion=confusion_matrix(outcomes, classes, 0.5),
        images=[],
        names=[],
        skipped=[],
    )


def test_a_threshold_in_the_middle_keeps_the_same() -> None:
    images = _images(3)
    ours = sweep(outcomes_of(images, 100))
    scores = {float(score) for image in images for score in image.found.scores}
    assert ours.best() not in scores


def test_the_order_of_images_and_their_processes_do_not_matter() -> None:
    images = _images(5, images=21)
    one = _meter(images).result("val", str)
    halves = [DetectionMeter(NAMES, CATEGORY_IDS, True) for _ in range(2)]
    shuffled = [images[i] for i in np.random.default_rng(0).permutation(len(images))]
    for rank, meter in enumerate(halves):
        meter.merge([(shuffled[rank::2], [(f"broken {rank}.jpg", "cut off")])])
    states = pickle.loads(pickle.dumps([meter.state() for meter in halves]))
    for meter in halves:
        meter.merge(states)
        both = meter.result("val", str)
        assert both.skipped == [("broken 0.jpg", "cut off"), ("broken 1.jpg", "cut off")]
        assert {**both.to_dict(), "skipped": 0} == one.to_dict()
        assert both.names == one.names == [str(image.index) for image in images]
    json.dumps(one.to_dict(), allow_nan=False)


def test_a_result_says_what_it_goes_by() -> None:
    images = _images(1)
    result = _meter(images).result("val", "image {}".format, 12.5)
    assert result.num_images == len(images)
    assert next(iter(result.metrics)) == "mask_AP"
    assert result.score == result.metrics["mask_AP"].value == result.masks.summary["AP"]
    assert result.metrics["AP"].title == "box AP"
    assert result.metrics["AR"].title == "box AR@100"
    assert result.threshold == result.best_threshold
    assert result.notes == []
    plain = result.to_dict()
    assert len(plain["box"]) == len(plain["mask"]) == 12
    assert plain["settings"] == {"max_detections": 100, "overlap": 0.5, "matched_by": "mask"}
    assert [row["category_id"] for row in plain["classes"]] == CATEGORY_IDS
    assert plain["classes"][3]["objects"] == 0  # "car" is in no image
    assert plain["classes"][3]["box"]["AP"] is None
    present = [row["box"]["AP"] for row in plain["classes"][:3]]
    assert plain["box"]["AP"] == pytest.approx(sum(present) / 3)
    assert np.array(plain["confusion"]).shape == (5, 5)

    boxes = _meter(images, masks=False).result("val")
    assert list(boxes.metrics) == ["AP", "AP50", "AP75", "AR", "F1", "threshold"]
    assert boxes.score == boxes.metrics["AP"].value
    assert boxes.to_dict()["mask"] is None

    given = _meter(images, threshold=0.3).result("test")
    assert given.threshold == 0.3
    assert given.best_threshold == result.best_threshold
    np.testing.assert_array_equal(given.confusion, _plain_confusion(images, True, 0.3, 4))


def test_what_is_not_looked_at_is_not_listed(monkeypatch) -> None:
    """A picture that was looked through in tiles has thousands of objects, and a row takes hundreds of bytes."""
    images = _images(7, images=2, found=400, classes=2, found_in=1.0, masks=False)
    handed, load = [], faster_coco_eval.COCO.loadRes
    monkeypatch.setattr(
        faster_coco_eval.COCO, "loadRes", lambda self, rows: handed.append(len(rows)) or load(self, rows)
    )
    coco_numbers(images, len(NAMES), 5)
    assert sum(len(image.found) for image in images) > 200
    assert handed == [2 * 2 * 5]


def test_classes_that_the_data_do_not_name_count_nowhere() -> None:
    """A class that they name but have no object of counts all the same."""
    truth = Annotation(
        size=(100, 100),
        boxes=np.array([[0, 0, 8, 8], [10, 0, 18, 8]], np.float32),
        labels=np.zeros(2, np.int64),
        crowd=np.zeros(2, bool),
        areas=np.full(2, 64, np.float32),
    )
    boxes = [[0, 0, 8, 8], [10, 0, 18, 8], [50, 50, 90, 90], [20, 60, 40, 90], [10, 0, 18, 8]]
    found = Placed(
        size=truth.size,
        boxes=np.array(boxes, np.float32),
        scores=np.array([0.9, 0.6, 0.8, 0.3, 0.7], np.float32),
        labels=np.array([0, 0, 1, 2, 1], np.int32),
    )
    images = [Judged(i, truth, found) for i in range(3)]
    result = _meter(images, named=(0, 2)).result("val")
    assert result.score == pytest.approx(1)
    assert result.sweep.at(0.5) == (1, 1, 1)
    assert 0.3 < result.best_threshold < 0.6
    assert result.sweep.at(0.2)[0] == pytest.approx(2 / 3), "what is named counts"
    expected = np.zeros((5, 5), int)
    expected[0, 0] = 6
    np.testing.assert_array_equal(result.confusion, expected)
    assert "do not name dog, car" in result.notes[0]
    every = _meter(images).result("val")
    assert every.best_threshold > 0.8, "by default all classes are known"
    assert every.notes == []


def test_dense_images_raise_the_limit() -> None:
    truth = _truth(np.random.default_rng(0), 151, 1, 0.0, masks=False)
    found = Placed(
        size=truth.size,
        boxes=truth.boxes,
        scores=np.linspace(0.9, 0.1, 151, dtype=np.float32),
        labels=truth.labels.astype(np.int32),
    )
    images = [Judged(0, truth, found)]
    result = _meter(images).result("val")
    assert result.boxes.limit == 200
    assert "200 objects of a class in an image were looked at, not 100" in result.notes[0]
    assert "up to 151 objects of a class" in result.notes[0]
    assert result.metrics["AR"].title == "AR@200"
    assert result.boxes.summary["AR"] == 1
    fixed = _meter(images, max_detections=100).result("val")
    assert fixed.notes == []
    assert fixed.boxes.summary["AR"] == pytest.approx(100 / 151)
    assert (fixed.outcomes.state == 1).sum() == len(fixed.outcomes.state) == 100
    few = _meter(images, max_detections=5).result("val")
    assert few.boxes.summary["AR_10"] == few.boxes.summary["AR"] == pytest.approx(5 / 151)


def test_many_objects_of_many_classes_do_not_raise_the_limit() -> None:
    """Nor do groups, which are not looked for."""
    rng = np.random.default_rng(0)
    truth = replace(_truth(rng, 360, 3, 0.0, masks=False), labels=np.arange(360) % 4)
    truth.crowd[truth.labels == 3] = True
    images = [Judged(0, truth, _found(rng, truth, 5, 3, masks=False))]
    assert limit_for(images) == 100
    assert _meter(images).result("val").notes == []
    more = replace(truth, labels=np.where(np.arange(360) < 101, 0, truth.labels), crowd=np.arange(360) >= 101)
    assert limit_for([*images, Judged(1, more, images[0].found)]) == 200
    assert limit_for([Judged(1, replace(more, crowd=np.ones(360, bool)), images[0].found)]) == 100
    assert limit_for([]) == 100


def test_images_without_outlines_are_said() -> None:
    images = _images(0)
    images[2] = replace(_images(1, images=1, masks=False, truth_in=1.0)[0], index=images[2].index)
    result = _meter(images).result("val")
    assert result.masks is None
    assert result.score == result.boxes.summary["AP"]
    assert "1 of 12 images have boxes alone" in result.notes[0]


def test_no_object_and_no_image() -> None:
    nothing = _meter(_images(0, truth_in=0.0)).result("val")
    assert nothing.score == 0
    assert math.isnan(nothing.metrics["AP"].value)
    assert nothing.threshold == DEFAULT_THRESHOLD
    json.dumps(nothing.to_dict(), allow_nan=False)
    empty = DetectionMeter(NAMES, CATEGORY_IDS, True)
    empty.skipped.append(("a.jpg", "cut off"))
    with pytest.raises(ValueError, match=r"no image of the split 'val' could be read; the first: a\.jpg: cut off"):
        empty.result("val")


def _scaled(scale: tuple[float, float], shift: tuple[float, float], original: tuple[int, int]) -> Frame:
    """A frame by what takes x and y of the input to the picture."""
    matrix = torch.tensor([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]], dtype=torch.float64)
    return Frame(original=original, to_original=matrix)


def _batch(truths: list[Annotation], sizes: list[tuple[int, int]], frames: list[Frame | None]) -> Batch:
    canvas = tuple(32 * math.ceil(max(size[axis] for size in sizes) / 32) for axis in (0, 1))
    return Batch(
        images=torch.zeros(len(truths), 3, *canvas, dtype=torch.uint8),
        targets=truths,
        indices=torch.arange(len(truths)),
        skipped=[],
        sizes=torch.tensor(sizes),
        frames=frames,
    )


def test_a_batch_with_perfect_answers() -> None:
    rng = np.random.default_rng(0)
    truths = [_truth(rng, number, 3, 0.0, masks=False) for number in (4, 0, 9)]
    truths = [_rectangles(truth) for truth in truths]
    sizes, frames, answers = [], [], []
    for truth in truths:
        height, width = truth.size
        size = (int(height * 0.7 + 0.5), int(width * 0.7 + 0.5))
        scale = (width / size[1], height / size[0])
        boxes = torch.from_numpy(truth.boxes).double() / torch.tensor(scale * 2)
        answers.append(
            Found(
                boxes=boxes.float(),
                scores=torch.linspace(0.9, 0.5, len(truth)),
                labels=torch.from_numpy(truth.labels),
                masks=torch.ones(len(truth), 28, 28),
            )
        )
        sizes.append(size)
        frames.append(_scaled(scale, (0.0, 0.0), truth.size))
    meter = DetectionMeter(NAMES, CATEGORY_IDS, True)
    meter.add(answers, _batch(truths, sizes, frames))
    result = meter.result("val")
    assert result.metrics["AP"].value == pytest.approx(1)
    assert result.metrics["mask_AP"].value == pytest.approx(1)
    assert result.metrics["F1"].value == 1
    assert result.confusion.trace() == result.confusion.sum() == 13


def _rectangles(truth: Annotation) -> Annotation:
    """Boxes of whole pixels, each filled."""
    boxes = np.concatenate([np.floor(truth.boxes[:, :2]), np.floor(truth.boxes[:, :2]) + 1], 1)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], np.floor(truth.boxes[:, 2:]))
    outlines = []
    for x0, y0, x1, y1 in boxes.astype(int):
        pixels = np.zeros(truth.size, np.uint8, order="F")
        pixels[y0:y1, x0:x1] = 1
        outlines.append(run_lengths.encode(pixels))
    return Annotation(
        size=truth.size,
        boxes=boxes.astype(np.float32),
        labels=truth.labels,
        crowd=truth.crowd,
        areas=truth.areas,
        segmentations=tuple(outlines),
    )


def _decoded(placed: Placed) -> np.ndarray:
    return run_lengths.decode(list(placed.segmentations)).transpose(2, 0, 1).astype(bool)


def test_masks_over_boxes_are_pasted_into_the_whole_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    for original, size, shift in [((97, 61), (48, 31), (0.0, 0.0)), ((40, 200), (60, 90), (-3.0, 7.5))]:
        corner = torch.rand(30, 2, generator=generator) * torch.tensor([size[1], size[0]]) * 0.8
        side = torch.rand(30, 2, generator=generator) * torch.tensor([size[1], size[0]]) * 0.6
        side[:3] *= 0.01  # thinner than a pixel
        boxes = torch.cat([corner, torch.minimum(corner + side, torch.tensor([size[1], size[0]]))], 1)
        masks = torch.rand(30, 28, 28, generator=generator).round(decimals=1)
        masks[:10] = 1
        scale = (original[1] / size[1], original[0] / size[0])
        found = Found(boxes=boxes, scores=torch.linspace(0.9, 0.1, 30), labels=torch.zeros(30).long(), masks=masks)
        placed = place(found, _scaled(scale, shift, original), size, (64, 96))
        there = (boxes * torch.tensor(scale * 2, dtype=torch.float64) + torch.tensor(shift * 2)).float()
        np.testing.assert_array_equal(_decoded(placed), paste_masks(masks, there, original).numpy())
        limits = torch.tensor([original[1], original[0]] * 2)
        np.testing.assert_array_equal(placed.boxes, there.clamp(min=torch.zeros(()), max=limits).numpy())


def _at(image: Tensor, y: float, x: float) -> float:
    """Bilinear value of a map `[H, W]` at a place in its pixels, its edge beyond it; centres lie at halves."""
    height, width = image.shape
    y, x = min(max(y - 0.5, 0.0), height - 1.0), min(max(x - 0.5, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    b, a = y - y0, x - x0
    top = image[y0, x0] * (1 - a) + image[y0, x1] * a
    return float(top * (1 - b) + (image[y1, x0] * (1 - a) + image[y1, x1] * a) * b)


def test_masks_over_the_canvas_are_cut_and_resized() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 8, 12, generator=generator)
    canvas, size, original = (32, 48), (27, 41), (35, 29)
    for shift in ((0.0, 0.0), (2.0, -3.0)):
        scale = (original[1] / size[1], original[0] / size[0])
        found = Found(
            boxes=torch.tensor([[0.0, 0, 20, 20], [5, 5, 41, 27]]),
            scores=torch.tensor([0.3, 0.8]),
            labels=torch.tensor([1, 2]),
            masks=masks,
            masks_of="canvas",
        )
        placed = place(found, _scaled(scale, shift, original), size, canvas)
        on_input = F.interpolate(masks[None].double(), canvas, mode="bilinear")[0, :, : size[0], : size[1]]
        expected = np.zeros((2, *original), bool)
        unsure = np.zeros((2, *original), bool)
        for i, y, x in np.ndindex(2, *original):
            at = ((y + 0.5 - shift[1]) / scale[1], (x + 0.5 - shift[0]) / scale[0])
            value = _at(on_input[i], *at)
            expected[i, y, x] = value >= 0.5 and 0 <= at[0] <= size[0] and 0 <= at[1] <= size[1]
            unsure[i, y, x] = abs(value - 0.5) < 1e-5
        # The likeliest comes first.
        assert placed.labels.tolist() == [2, 1]
        assert (_decoded(placed)[::-1] == expected)[~unsure].all()
        assert unsure.mean() < 0.01


def test_what_cannot_be_brought_back_is_refused() -> None:
    found = Found(boxes=torch.tensor([[0.0, 0, 1, 1]]), scores=torch.tensor([0.5]), labels=torch.tensor([0]))
    mirrored = Frame(original=(9, 9), to_original=torch.tensor([[-1.0, 0, 9], [0, 1, 0]], dtype=torch.float64))
    turned = Frame(original=(9, 9), to_original=torch.tensor([[0.0, 1, 0], [1, 0, 0]], dtype=torch.float64))
    for frame in (mirrored, turned):
        with pytest.raises(ValueError, match="turned or mirrored"):
            place(found, frame, (9, 9), (32, 32))
    truth = _truth(np.random.default_rng(0), 0, 1, 0, masks=False)
    meter = DetectionMeter(NAMES)
    with pytest.raises(ValueError, match="its annotation says"):
        meter.add([found], _batch([truth], [(9, 9)], [None]))


def test_numbers_that_are_not_finite_are_left_out_and_said() -> None:
    truth = _rectangles(_truth(np.random.default_rng(0), 1, 1, 0.0, masks=False))
    boxes = torch.from_numpy(truth.boxes).repeat(3, 1)
    boxes[1, 2] = math.nan
    found = Found(
        boxes=boxes,
        scores=torch.tensor([math.nan, 0.9, 0.8]),
        labels=torch.zeros(3).long(),
        masks=torch.ones(3, 7, 7),
    )
    meter = DetectionMeter(NAMES, with_masks=True)
    meter.add([found], _batch([truth], [truth.size], [None]))
    result = meter.result("val")
    assert result.metrics["mask_AP"].value == 1
    assert result.notes == ["2 found objects had numbers that are not finite and were left out"]
