"""Panoptic quality: equal to torchmetrics and to the rules of panopticapi written out, exact over processes."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality as Reference

from transnext.data import Batch, Frame
from transnext.data.segmentation.maps import GROUP, SEGMENT, classes_of, joined
from transnext.tasks.segmentation.metrics import SegmentationMeter
from transnext.tasks.segmentation.net import IGNORED, Told
from transnext.tasks.segmentation.panoptic_quality import PanopticQuality, count_segments

SIZES = [(40, 57), (33, 21), (1, 1), (64, 64), (5, 91)]
THINGS = [0, 3]
CLASSES = 5
NAMES = [f"class {i}" for i in range(CLASSES)]


def patches(size, seed, *, unknown=0.0, groups=0.0):
    """A map of segments of patches; some are groups or nothing."""
    rng = np.random.default_rng(seed)
    coarse = (-(-size[0] // 7), -(-size[1] // 9))
    codes = rng.integers(0, CLASSES, coarse, np.int32) + SEGMENT * rng.integers(1, 4, coarse, np.int32)
    codes += GROUP * (rng.random(coarse) < groups).astype(np.int32)
    codes[rng.random(coarse) < unknown] = IGNORED
    codes = np.kron(codes, np.ones((7, 9), np.int32))[: size[0], : size[1]]
    return joined(codes, THINGS)


def changed(true, seed, *, unknown=0.0):
    """A prediction that is right in part: some patches are others, pixels at random too."""
    rng = np.random.default_rng(seed)
    said = np.where(true == IGNORED, patches(true.shape, seed), true & ~GROUP)
    said = np.where(rng.random(true.shape) < 0.1, patches(true.shape, seed + 1), said)
    said = np.where(rng.random((true.shape[0], 1)) < 0.15, patches(true.shape, seed + 2), said)
    rest = patches(true.shape, seed + 3, unknown=unknown)
    return np.where(rest == IGNORED, np.int32(IGNORED), said)


def cases(**kinds):
    said_kinds = {"unknown": kinds.pop("open", 0.0)}
    for i, size in enumerate(SIZES * 3):
        true = patches(size, i, **kinds)
        yield true, changed(true, 100 + i, **said_kinds)


def by_the_rules(pairs):
    """Panopticapi's rules, segment by segment in whole masks: class to IoUs of pairs, missed, wrong."""
    found = {label: [[], 0, 0] for label in range(CLASSES)}
    for true, said in pairs:
        unknown = true == IGNORED
        segments = {code: (true == code) for code in np.unique(true).tolist() if code != IGNORED}
        paired = set()
        for code in np.unique(said).tolist():
            label = code % SEGMENT
            if label == IGNORED:
                continue
            mask = said == code
            matched = False
            for other, inside in segments.items():
                if other & GROUP or other % SEGMENT != label:
                    continue
                union = mask.sum() + inside.sum() - (mask & inside).sum() - (mask & unknown).sum()
                iou = (mask & inside).sum() / union
                if iou > 0.5:
                    found[label][0].append(iou)
                    paired.add(other)
                    matched = True
            group = np.zeros(true.shape, bool)
            for other, inside in segments.items():
                if other & GROUP and other % SEGMENT == label:
                    group |= inside
            if not matched and ((unknown | group) & mask).sum() / mask.sum() <= 0.5:
                found[label][2] += 1
        for other in segments:
            if not other & GROUP and other not in paired:
                found[other % SEGMENT][1] += 1
    return found


def of(pairs):
    return PanopticQuality.of([count_segments(true, said) for true, said in pairs], CLASSES, THINGS)


@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_equal_to_torchmetrics(unknown: float) -> None:
    """Predictions name every pixel: what they leave open torchmetrics takes off the union, and panopticapi does not."""
    stuff = set(range(CLASSES)) - set(THINGS)
    reference = Reference(set(THINGS), stuff, return_sq_and_rq=True, return_per_class=True)
    pairs = list(cases(unknown=unknown))
    for true, said in pairs:
        both = [torch.from_numpy(np.stack([classes_of(m), m >> 8], -1).astype(np.int64))[None] for m in (said, true)]
        reference.update(*both)
    ours, order = of(pairs), [*THINGS, *sorted(stuff)]
    expected = reference.compute()
    rates = torch.tensor(np.stack([ours.quality, ours.segmentation, ours.recognition])).T[order]
    assert float(rates[:, 0].min()) > 0.05
    torch.testing.assert_close(rates, expected.double(), rtol=0, atol=1e-7)  # sums of float32


@pytest.mark.parametrize("kinds", [{"unknown": 0.3}, {"groups": 0.3}, {"unknown": 0.2, "groups": 0.2, "open": 0.3}])
def test_equal_to_the_rules(kinds) -> None:
    pairs = list(cases(**kinds))
    found, ours = by_the_rules(pairs), of(pairs)
    for label, (ious, missed, wrong) in found.items():
        assert (len(ious), missed, wrong) == (ours.pairs[label], ours.missed[label], ours.wrong[label])
        assert ours.overlap[label] == pytest.approx(math.fsum(ious), abs=1e-12)
        assert ours.quality[label] == pytest.approx(sum(ious) / (len(ious) + missed / 2 + wrong / 2), abs=1e-12)
    assert all(ours.pairs), "some pairs of each class"
    assert min(ours.missed.sum(), ours.wrong.sum()) > 0


def test_by_hand() -> None:
    car, sky = 0 + SEGMENT, 1
    true = np.array([[car] * 4 + [sky] * 4 + [IGNORED] * 2], np.int32)
    half = np.array([[car] * 2 + [sky] * 6 + [sky] * 2], np.int32)
    counts = count_segments(true, half)
    # The car's half is not more than half; of the sky's eight pixels two are unknown.
    assert counts.pairs.tolist() == [[1, 4, 6]]
    assert (counts.missed.tolist(), counts.wrong.tolist()) == ([0], [0])
    more = np.array([[car] * 3 + [sky] * 5 + [car + SEGMENT] * 2], np.int32)
    counts = count_segments(true, more)
    assert sorted(counts.pairs.tolist()) == [[0, 3, 4], [1, 4, 5]]
    assert [*counts.missed, *counts.wrong] == [], "what lies where nothing is known is not wrong"
    group = np.where(true == car, car | GROUP, true)
    counts = count_segments(group, more)
    assert counts.pairs.tolist() == [[1, 4, 5]]
    assert [*counts.missed, *counts.wrong] == [], "parts of a group are neither found nor wrong"
    with pytest.raises(ValueError, match=r"1x10 pixels .* of 10x1"):
        count_segments(true, more.T)


def test_means_of_things_and_stuff() -> None:
    quality = of(list(cases(unknown=0.2)))
    things, stuff, both = quality.means(True), quality.means(False), quality.means()
    assert (things["classes"], stuff["classes"], both["classes"]) == (2, 3, 5)
    for name in ("PQ", "SQ", "RQ"):
        assert both[name] == pytest.approx((2 * things[name] + 3 * stuff[name]) / 5)
    assert both["PQ"] == pytest.approx(quality.quality.mean())
    absent = PanopticQuality.of([count_segments(*([np.full((2, 2), 4, np.int32)] * 2))], CLASSES, THINGS)
    assert absent.means()["PQ"] == 1
    assert math.isnan(absent.means(True)["PQ"])
    assert np.isnan(absent.quality[:4]).all()


def batch(true, first) -> Batch:
    return Batch(
        images=torch.zeros(1, 3, 64, 96, dtype=torch.uint8),
        targets=[true],
        indices=torch.tensor([first]),
        skipped=[],
        sizes=torch.tensor([true.shape]),
        frames=[Frame(original=true.shape, to_original=torch.eye(2, 3, dtype=torch.float64))],
    )


def told(said) -> Told:
    """Queries whose masks are the segments of a prediction, at the resolution of the canvas."""
    codes = [code for code in np.unique(said).tolist() if code != IGNORED]
    logits = torch.full((len(codes), CLASSES + 1), -20.0)
    masks = torch.full((len(codes), 64, 96), -20.0)
    for query, code in enumerate(codes):
        logits[query, code % SEGMENT] = 20
        masks[query, : said.shape[0], : said.shape[1]][torch.from_numpy(said == code)] = 20
    scores = torch.zeros(CLASSES, 64, 96)
    scores[:, : said.shape[0], : said.shape[1]] = torch.from_numpy(np.eye(256)[classes_of(said)].transpose(2, 0, 1))[
        :CLASSES
    ]
    return Told(scores, logits, masks)


def test_the_meter_gives_the_numbers_however_the_images_are_divided() -> None:
    pairs = list(cases(unknown=0.2, groups=0.1, open=0.2))
    names = [NAMES[place] for place in THINGS]
    whole, parts = SegmentationMeter(NAMES, names), [SegmentationMeter(NAMES, names) for _ in range(3)]
    for i, (true, said) in enumerate(pairs):
        whole.add([told(said)], batch(true, i))
        parts[i % 3].add([told(said)], batch(true, i))
    parts[0].merge(pickle.loads(pickle.dumps([part.state() for part in parts])))
    a, b, expected = whole.result("val"), parts[0].result("val"), of(pairs)
    assert a.panoptic.quality.tolist() == b.panoptic.quality.tolist() == expected.quality.tolist()
    assert a.score == b.score == a.metrics["PQ"].value == expected.means()["PQ"]
    assert list(a.metrics)[:6] == ["PQ", "PQ_things", "PQ_stuff", "SQ", "RQ", "mIoU"]
    assert [a.metrics[name].value for name in ("PQ_things", "PQ_stuff")] == [
        expected.means(True)["PQ"],
        expected.means(False)["PQ"],
    ]
    plain = json.loads(json.dumps(a.to_dict()))["panoptic"]
    assert plain["things"]["SQ"] == expected.means(True)["SQ"]
    assert plain["classes"][3]["isthing"] == 1
    assert plain["classes"][3]["PQ"] == expected.quality[3]
    assert a.mean_iou > 0.3, "classes are counted as well"
    assert not a.notes


def test_without_segments_there_is_no_panoptic_quality() -> None:
    true = patches((20, 30), 0)
    for said, there in ((told(true), classes_of(true)), (told(true).scores, true)):
        meter = SegmentationMeter(NAMES, ["class 0"])
        meter.add([said], batch(there, 0))
        result = meter.result("val")
        assert result.panoptic is None
        assert result.score == result.mean_iou == 1
        assert "panoptic quality is of data with segments" in result.notes[0]


def test_answers_that_are_not_finite_find_nothing() -> None:
    true = patches((20, 30), 0)
    said = told(true)
    said.masks[0, 0, 0] = math.nan
    meter = SegmentationMeter(NAMES, ["class 0"])
    meter.add([said._replace(scores=said.scores * math.nan)], batch(true, 0))
    result = meter.result("val")
    assert result.panoptic.means()["PQ"] == 0
    assert result.score == result.mean_iou - 1 < 0
    assert "not finite" in result.notes[0]
