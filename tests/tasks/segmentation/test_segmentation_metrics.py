"""Numbers of a segmenter: equal to torchmetrics and to slow definitions, exact over processes."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from transnext.data import Batch, Frame
from transnext.tasks.segmentation import measures
from transnext.tasks.segmentation.measures import TOLERANCE, border_of, counts_of
from transnext.tasks.segmentation.metrics import SegmentationMeter
from transnext.tasks.segmentation.results import bootstrap_interval

SIZES = [(40, 57), (33, 20), (1, 1), (64, 64), (5, 90)]


def batch(maps, first: int = 0, sizes=None, canvas=(64, 96), skipped=()) -> Batch:
    frames = [Frame(original=m.shape, to_original=torch.eye(2, 3, dtype=torch.float64)) for m in maps]
    return Batch(
        images=torch.zeros(len(maps), 3, *canvas, dtype=torch.uint8),
        targets=list(maps),
        indices=torch.arange(first, first + len(maps)),
        skipped=list(skipped),
        sizes=torch.tensor(sizes if sizes is not None else [m.shape for m in maps]),
        frames=frames,
    )


def blobs(size, classes, seed, ignored=0.1):
    """A map of patches."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, classes, (-(-size[0] // 8), -(-size[1] // 8)), np.uint8)
    fine = np.kron(coarse, np.ones((8, 8), np.uint8))[: size[0], : size[1]].copy()
    fine[generator.random(size) < ignored] = 255
    return fine


def pairs_of(classes: int, seed: int = 0):
    for i, size in enumerate(SIZES):
        true = blobs(size, classes, seed + i)
        said = blobs(size, classes, seed + i, 0)
        noise = np.random.default_rng(99 + i).random(size) < 0.3
        said[noise] = np.random.default_rng(i).integers(0, classes, size, np.uint8)[noise]
        yield true, said


@pytest.mark.parametrize("classes", [2, 5, 21])
def test_equal_to_torchmetrics(classes: int) -> None:
    meter = SegmentationMeter([str(i) for i in range(classes)])
    macro = {"num_classes": classes, "ignore_index": 255, "average": "macro"}
    references = {
        "mIoU": MulticlassJaccardIndex(**macro),
        "mAcc": MulticlassAccuracy(**macro),
        "aAcc": MulticlassAccuracy(classes, ignore_index=255, average="micro"),
        "dice": MulticlassF1Score(**macro),
    }
    for i, (true, said) in enumerate(pairs_of(classes)):
        meter.add([torch.from_numpy(said)], batch([true], i))
        for metric in references.values():
            metric.update(torch.from_numpy(said).long()[None], torch.from_numpy(true).long()[None])
    result = meter.result("val")
    assert result.num_images == len(SIZES)
    for name, metric in references.items():
        assert result.metrics[name].value == pytest.approx(float(metric.compute()), abs=1e-6), name
    assert result.score == result.metrics["mIoU"].value


def test_absent_classes_have_no_number_and_count_in_no_mean() -> None:
    true = np.array([[0, 0, 1, 1], [255, 255, 255, 255]], np.uint8)
    said = np.array([[0, 0, 1, 2], [3, 3, 3, 3]], np.uint8)
    meter = SegmentationMeter(list("abcd"))
    meter.add([torch.from_numpy(said)], batch([true]))
    result = meter.result("val")
    assert result.iou.tolist()[:3] == [1, 0.5, 0]
    assert math.isnan(result.iou[3])
    assert result.mean_iou == pytest.approx(0.5)
    assert math.isnan(result.accuracy[2])  # nothing of it was there
    assert result.metrics["mAcc"].value == pytest.approx(0.75)
    assert result.pixels == 4
    assert result.to_dict()["classes"][3]["iou"] is None


def test_classes_that_the_data_do_not_name_have_no_number() -> None:
    """The model knows four classes, the data name two, of which one has no pixel here."""
    true = np.array([[0, 0, 0, 0], [0, 0, 255, 255]], np.uint8)
    said = np.array([[0, 0, 2, 3], [0, 1, 3, 3]], np.uint8)
    meter = SegmentationMeter(list("abcd"), named=(0, 1))
    meter.add([torch.from_numpy(said)], batch([true]))
    result = meter.result("val")
    np.testing.assert_array_equal(result.iou, [3 / 6, 0, np.nan, np.nan])
    np.testing.assert_array_equal(result.dice, [6 / 9, 0, np.nan, np.nan])
    assert np.isnan(result.boundary_f[2:]).all()
    assert result.mean_iou == result.image_iou[0] == 0.25
    assert result.pixel_accuracy == 3 / 6
    assert "do not name c, d" in result.notes[0]
    assert [row["predicted_pixels"] for row in result.to_dict()["classes"]] == [3, 1, 1, 1]
    every = SegmentationMeter(list("abcd"))
    every.merge([meter.state()])
    assert every.result("val").mean_iou == 0.125
    assert every.result("val").notes == []


def test_nothing_labelled_has_no_number() -> None:
    meter = SegmentationMeter(["a", "b"])
    meter.add([torch.zeros(3, 4, dtype=torch.uint8)], batch([np.full((3, 4), 255, np.uint8)]))
    result = meter.result("val")
    assert result.score == 0
    assert all(math.isnan(metric.value) for metric in result.metrics.values())
    meter = SegmentationMeter(["a", "b"])
    with pytest.raises(ValueError, match="no image of the split 'val'"):
        meter.result("val")


def test_processes_add_up_exactly() -> None:
    whole, parts = SegmentationMeter(list("abcde")), [SegmentationMeter(list("abcde")) for _ in range(3)]
    for i, (true, said) in enumerate(pairs_of(5)):
        whole.add([torch.from_numpy(said)], batch([true], i))
        parts[i % 3].add([torch.from_numpy(said)], batch([true], i))
    parts[1].skipped.append(("a.png", "damaged"))
    states = pickle.loads(pickle.dumps([part.state() for part in parts]))
    parts[0].merge(states)
    a, b = whole.result("val"), parts[0].result("val")
    assert (a.confusion == b.confusion).all()
    assert {k: v.value for k, v in a.metrics.items()} == {k: v.value for k, v in b.metrics.items()}
    assert a.interval == b.interval
    assert b.skipped == [("a.png", "damaged")]
    assert sum(map(len, map(pickle.dumps, states))) < 20_000


@pytest.mark.parametrize("seed", range(4))
def test_borders_by_their_definition(seed: int) -> None:
    for size in [(20, 30), (120, 160), (1, 7)]:
        true, said = blobs(size, 3, seed), blobs(size, 3, seed + 50, 0)
        counted = counts_of(0, true, said, 3)
        radius = max(1, round(TOLERANCE * math.hypot(*size)))
        masked = np.where(true == 255, 255, said)
        edges = {}
        for key, labels in (("true", true), ("said", masked)):
            padded = np.pad(labels, 1, constant_values=255)
            centre = padded[1:-1, 1:-1]
            sides = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
            edge = np.any([(s != centre) & (s != 255) & (centre != 255) for s in sides], 0)
            assert (edge == border_of(labels)).all()
            edges[key] = [np.argwhere(edge & (labels == c)) for c in range(3)]
        rows = dict(zip(counted.border_classes.tolist(), counted.borders.tolist(), strict=True))
        for c in range(3):
            there, sought = edges["true"][c], edges["said"][c]
            if not len(there) and not len(sought):
                assert c not in rows
                continue
            distance = ((there[:, None] - sought[None]) ** 2).sum(-1) if len(there) and len(sought) else None
            hits = (
                [0, 0]
                if distance is None
                else [(distance <= radius**2).any(0).sum(), (distance <= radius**2).any(1).sum()]
            )
            assert rows[c] == [hits[0], len(sought), hits[1], len(there)]


@pytest.mark.parametrize(("size", "tolerance"), [((300, 410), 0.02), ((61, 90), 0.2), ((9, 200), 0.1), ((33, 20), 2.0)])
def test_borders_far_apart_are_as_near_as_distances_say(size, tolerance, monkeypatch) -> None:
    monkeypatch.setattr(measures, "TOLERANCE", tolerance)
    radius = max(1, round(tolerance * math.hypot(*size)))
    assert radius > 4
    generator = np.random.default_rng(0)
    true = blobs(size, 7, 1)
    moved = np.where(generator.random(size) < 0.002, 3, np.roll(blobs(size, 7, 1, 0), (4, -7), (0, 1))).astype(np.uint8)
    for said in (moved, blobs(size, 7, 2, 0), np.zeros(size, np.uint8)):
        counted = counts_of(0, true, said, 7)
        edges = [border_of(labels) for labels in (true, np.where(true == 255, 255, said).astype(np.uint8))]
        rows = {}
        for c in range(7):
            there, sought = edges[0] & (true == c), edges[1] & (said == c)
            # Distances to the next are roots of whole numbers.
            near = [
                (there.any() and (np.rint(distance_transform_edt(~there)[sought] ** 2) <= radius**2).sum()),
                (sought.any() and (np.rint(distance_transform_edt(~sought)[there] ** 2) <= radius**2).sum()),
            ]
            if there.any() or sought.any():
                rows[c] = [int(near[0]), int(sought.sum()), int(near[1]), int(there.sum())]
        assert dict(zip(counted.border_classes.tolist(), counted.borders.tolist(), strict=True)) == rows


def test_scores_are_brought_to_the_picture() -> None:
    true = blobs((50, 70), 4, 3, 0)
    scores = torch.nn.functional.one_hot(torch.from_numpy(true).long(), 4).permute(2, 0, 1).float()
    # A canvas of 64x96 of which 50x70 is picture, as `normalised_canvas` makes it of a batch of 60x90.
    padded = torch.nn.functional.pad(scores, (0, 26, 0, 14), value=9.0)
    meter = SegmentationMeter(list("abcd"))
    meter.add(padded[None], batch([true], canvas=(60, 90)))
    assert meter.result("val").mean_iou == 1
    with pytest.raises(ValueError, match="the network gives 4 scores, and there are 3 classes"):
        SegmentationMeter(list("abc")).add(padded[None], batch([true]))
    with pytest.raises(ValueError, match="class 3, and there are 3 classes"):
        SegmentationMeter(list("abc")).add([torch.from_numpy(true)], batch([true]))
    with pytest.raises(ValueError, match="50x70 pixels"):
        SegmentationMeter(list("abcd")).add([torch.zeros(70, 50, dtype=torch.uint8)], batch([true]))
    meter = SegmentationMeter(list("abcd"))
    meter.add(padded[None] * float("nan"), batch([true]))
    assert meter.result("val").notes == ["scores of 1 images were not finite"]


def test_interval_covers_and_narrows() -> None:
    generator = np.random.default_rng(0)

    def areas(n: int) -> np.ndarray:
        quality = generator.beta(8, 2, (n, 3))
        true = np.full((n, 3), 1000)
        right = (quality * true).astype(np.int64)
        return np.stack([right, true, true], 1)

    low, high = bootstrap_interval(areas(2000))
    assert high - low < 0.02
    inside = 0
    for _ in range(60):
        small = areas(30)
        low_small, high_small = bootstrap_interval(small, resamples=200)
        inside += low_small <= (low + high) / 2 <= high_small
    assert inside >= 48
    assert all(math.isnan(x) for x in bootstrap_interval(np.zeros((4, 3, 2), np.int64)))
