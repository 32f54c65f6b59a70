"""What a page shows of a detector: well-formed, bounded, and what the numbers say."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from transnext.data import UnreadableImage
from transnext.data.instances import Annotation
from transnext.data.preprocessing import Preprocessing
from transnext.models.backbone import Backbone
from transnext.report.page import build_report
from transnext.report.parts import Section
from transnext.tasks.detection.coco_eval import Judged
from transnext.tasks.detection.metrics import DetectionMeter
from transnext.tasks.detection.mistakes import KINDS, kinds_of_mistakes, surest_right, worst_false, worst_missed
from transnext.tasks.detection.pictures import SIDE, attention_of, part_with
from transnext.tasks.detection.placing import Placed
from transnext.tasks.detection.present import sections_of
from transnext.tasks.detection.results import DetectionResult
from transnext.tasks.task import Look

CLASSES = ["cat", "<b>dog</b>", "bird"]
PREPROCESSING = Preprocessing(
    input_size=(3, 64, 96), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=1.0, crop_mode="fit"
)
Row = tuple[tuple[float, float, float, float], int]


class Pictures:
    """Images whose pixels are the colour of their place; the last one is broken."""

    def __init__(self, sizes: Sequence[tuple[int, int]], broken: Sequence[int] = ()) -> None:
        self.sizes = sizes
        self.broken = broken

    def __len__(self) -> int:
        return len(self.sizes)

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        if index in self.broken:
            raise UnreadableImage(self.name(index), "cut off")
        height, width = self.sizes[index]
        return Image.new("RGB", (width, height), (20 * index % 256, 90, 120))

    def target(self, index: int) -> Any:
        raise AssertionError("what is there is in the result")

    def name(self, index: int) -> str:
        return f"folder/{index} & more.jpg"


def _annotation(size: tuple[int, int], rows: Sequence[Row], crowd: Sequence[bool] = ()) -> Annotation:
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    return Annotation(
        size=size,
        boxes=boxes,
        labels=np.array([label for _, label in rows], np.int64),
        crowd=np.array(crowd or [False] * len(rows), bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
    )


def _found(size: tuple[int, int], rows: Sequence[tuple[Row, float]]) -> Placed:
    return Placed(
        size=size,
        boxes=np.array([box for (box, _), _ in rows], np.float32).reshape(-1, 4),
        scores=np.array([score for _, score in rows], np.float32),
        labels=np.array([label for (_, label), _ in rows], np.int32),
    )


def _result(images: Sequence[Judged], split: str = "val", threshold: float | None = 0.5) -> DetectionResult:
    meter = DetectionMeter(CLASSES, threshold=threshold)
    meter.merge([(list(images), [])])
    return meter.result(split, "folder/{} & more.jpg".format, None)


SIZES = [(100, 200), (300, 80), (50, 60), (1000, 1500)]


@pytest.fixture
def result() -> DetectionResult:
    cat, dog, bird = ((10, 10, 60, 60), 0), ((100, 20, 180, 90), 1), ((5, 200, 70, 290), 2)
    return _result(
        [
            Judged(
                0,
                _annotation(SIZES[0], [cat, dog]),
                _found(
                    SIZES[0],
                    [
                        (cat, 0.95),
                        (((11, 10, 60, 60), 0), 0.9),  # found twice
                        (((100, 20, 180, 88), 2), 0.8),  # of another class
                        (dog, 0.3),  # below the threshold
                    ],
                ),
            ),
            Judged(
                1,
                _annotation(SIZES[1], [bird]),
                _found(SIZES[1], [(((5, 255, 70, 299), 2), 0.7), (((0, 0, 30, 30), 0), 0.6), (bird, 0.55)]),
            ),
            Judged(2, _annotation(SIZES[2], []), _found(SIZES[2], [])),
            Judged(
                3,
                _annotation(SIZES[3], [((500, 500, 1500, 1000), 1), ((1, 1, 4, 4), 0)], [False, False]),
                _found(SIZES[3], [(((1400, 900, 1500, 1000), 1), 0.1)]),
            ),
        ]
    )


def test_kinds_of_mistakes(result: DetectionResult) -> None:
    kinds = kinds_of_mistakes(result)
    named = [None if kind < 0 else KINDS[kind] for kind in kinds]
    assert named == [
        None, "found twice", "of another class", None, "badly placed", "nothing there", None, None,
    ]  # fmt: skip


def test_the_worst_come_first_and_one_of_each_image_before_others(result: DetectionResult) -> None:
    false = worst_false(result, 3)
    assert [(mark.image, mark.reason) for mark in false] == [
        (0, "cat found twice"),
        (1, "overlaps bird by 35\u202f%"),
        (0, "is <b>dog</b>"),
    ]
    assert [round(mark.score, 2) for mark in worst_false(result, 9)] == [0.9, 0.7, 0.8, 0.6]
    missed = worst_missed(result, 9)
    assert [(mark.image, mark.label, mark.reason) for mark in missed] == [
        (3, 1, "not found"),
        (0, 1, "taken for bird (80\u202f%)"),
        (3, 0, "not found"),
    ]
    assert all(mark.score is None for mark in missed)
    right = surest_right(result, 9)
    assert [(mark.image, mark.label) for mark in right] == [(0, 0), (1, 2), (0, 1)]


def test_a_part_of_a_picture(result: DetectionResult) -> None:
    source = Pictures(SIZES)
    for mark in [*worst_false(result, 9), *worst_missed(result, 9)]:
        picture = part_with(mark, result, source)
        assert max(picture.size) <= SIDE
        colours = {colour for _, colour in picture.getcolors(2**20)}
        orange, blue = (0xF9, 0x73, 0x16) in colours, (0x22, 0xB8, 0xF0) in colours
        assert blue if mark.score is None else orange
    assert part_with(worst_false(result, 1)[0], result, Pictures(SIZES, broken=[0])) is None


def test_a_box_is_drawn_where_the_object_is() -> None:
    """Also if the picture has another size than the annotation says."""
    size, box = (400, 300), (100.0, 200.0, 140.0, 230.0)
    result = _result([Judged(0, _annotation(size, []), _found(size, [((box, 0), 0.9)]))])
    mark = worst_false(result, 1)[0]

    class Marked(Pictures):
        def load(self, index: int, min_side: int | None = None) -> Image.Image:
            image = Image.new("RGB", (600, 800), "black")
            image.paste("white", [int(2 * x) for x in box])
            return image

    pixels = np.array(part_with(mark, result, Marked([size])))
    white = np.argwhere((pixels > 200).all(2))
    orange = np.argwhere((pixels == [0xF9, 0x73, 0x16]).all(2))
    np.testing.assert_allclose(white.min(0), orange.min(0), atol=4)
    np.testing.assert_allclose(white.max(0), orange.max(0), atol=4)


def _well_formed(sections: Sequence[Section]) -> None:
    for section in sections:
        ElementTree.fromstring(f"<div>{section.html}</div>")


def _net(name: str) -> nn.Module:
    net = nn.Module()
    net.backbone = Backbone(name)
    return net.eval()


@pytest.mark.parametrize("backbone", ["transnext_pico", "resnet18"])
def test_the_sections_of_a_page(result: DetectionResult, backbone: str) -> None:
    train = _result(result.images, "train", threshold=None)
    look = Look(
        net=_net(backbone), splits={"val": Pictures(SIZES), "train": Pictures(SIZES)}, preprocessing=PREPROCESSING
    )
    sections = sections_of([train, result], CLASSES, look)
    assert [section.key for section in sections] == [
        "average-precision", "precision-recall", "confusion", "mistakes", "attention",
    ]  # fmt: skip
    _well_formed(sections)
    html = {section.key: section.html for section in sections}
    assert "<b>dog</b></th>" not in html["average-precision"]
    assert "&lt;b&gt;dog&lt;/b&gt;" in html["average-precision"]
    assert html["average-precision"].count("<details") == 2
    assert "train, boxes" in html["average-precision"]
    assert html["precision-recall"].count("<svg") == 6
    assert "1 nothing there, 1 badly placed, 1 of another class, 1 found twice" in html["mistakes"]
    assert "3 objects, 1 of them taken for another class" in html["mistakes"]
    assert html["mistakes"].count("<img") == 7
    assert "train" not in html["mistakes"]
    assert "folder/0 &amp; more.jpg" in html["mistakes"]
    assert html["attention"].count("<img") == (6 if backbone == "transnext_pico" else 0)
    page = build_report(title="t", config={}, history=[], results=[train, result], sections=sections)
    ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    keys = re.findall(r'<section id="([^"]+)"', page)
    assert len(keys) == len(set(keys))


def test_pictures_are_bounded() -> None:
    rng = np.random.default_rng(0)
    images = []
    for i in range(60):
        corners = rng.random((40, 2)) * 100
        rows = [((x, y, x + 30, y + 30), int(rng.integers(0, 3))) for x, y in corners.tolist()]
        truth = rows[:20]
        images.append(Judged(i, _annotation((140, 140), truth), _found((140, 140), [(row, 0.9) for row in rows[10:]])))
    source = Pictures([(140, 140)] * 60)
    for splits in (["val"], ["val", "test"], [f"split {i}" for i in range(30)]):
        results = [_result(images, split) for split in splits]
        look = Look(net=_net("transnext_pico"), splits=dict.fromkeys(splits, source), preprocessing=PREPROCESSING)
        html = "".join(section.html for section in sections_of(results, CLASSES, look))
        assert 16 <= html.count("<img") <= 24
        sides = [int(side) for side in re.findall(r'(?:width|height)="(\d+)"/>', html)]
        assert max(sides) <= SIDE


def test_pages_of_nothing() -> None:
    look = Look(
        net=_net("resnet18"),
        splits={"val": Pictures(SIZES, broken=range(4)), "train": Pictures(SIZES)},
        preprocessing=PREPROCESSING,
    )
    _well_formed(sections_of([], CLASSES, look))
    empty = _result([Judged(0, _annotation((9, 9), []), _found((9, 9), []))])
    sections = sections_of([empty], CLASSES, look)
    _well_formed(sections)
    assert "No mistakes" in sections[3].html
    assert sections[1].html == ""
    box = ((1.0, 1.0, 5.0, 5.0), 0)
    unreadable = _result([Judged(0, _annotation((9, 9), [box]), _found((9, 9), []))])
    _well_formed(sections_of([unreadable], CLASSES, look))


def test_outlines_have_columns_of_their_own() -> None:
    from pycocotools import mask as run_lengths

    pixels = np.zeros((20, 30), np.uint8, order="F")
    pixels[2:9, 3:11] = 1
    outline = run_lengths.encode(pixels)
    box = ((3.0, 2.0, 11.0, 9.0), 1)
    truth = Annotation(**{**vars(_annotation((20, 30), [box])), "segmentations": (outline,)})
    found = Placed(**{**vars(_found((20, 30), [(box, 0.9)])), "segmentations": (outline,)})
    meter = DetectionMeter(CLASSES, with_masks=True)
    meter.merge([([Judged(0, truth, found)], [])])
    look = Look(net=_net("resnet18"), splits={"val": Pictures([(20, 30)])}, preprocessing=PREPROCESSING)
    sections = sections_of([meter.result("val")], CLASSES, look)
    _well_formed(sections)
    assert "val, outlines" in sections[0].html
    assert "Box AP" in sections[0].html
    assert "No mistakes" in sections[3].html


def test_attention_is_that_of_the_place_of_the_object(result: DetectionResult) -> None:
    from transnext.explain import where_it_looks
    from transnext.explain.figures import overlay

    mark = surest_right(result, 9)[2]  # the dog of image 0
    look = Look(net=_net("transnext_pico"), splits={"val": Pictures(SIZES)}, preprocessing=PREPROCESSING)
    shown, where = attention_of(mark, result, look)
    position = (55 / 100, 140 / 200)
    inputs = torch.tensor([0, 90, 120], dtype=torch.uint8)[:, None, None].expand(3, 48, 96)
    heat = where_it_looks(look.net, PREPROCESSING.normalise()(inputs[None]), position)[0].numpy()
    expected = overlay(Image.new("RGB", (200, 100), (0, 90, 120)), heat, position=position)
    assert shown.size == where.size == (200, 100)
    np.testing.assert_array_equal(np.array(where), np.array(expected))
