"""The page as a whole: what is in it, that it is well-formed and that it needs nothing beside itself."""

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from transnext.data.corruptions import CORRUPTIONS
from transnext.report.page import build_report
from transnext.report.parts import Section
from transnext.studies.corruptions import RobustnessResult, robustness_section
from transnext.studies.sizes import ScalePoint, ScaleResult, scales_section
from transnext.tasks.classification.calibration import Calibration, calibration
from transnext.tasks.classification.intervals import bootstrap_interval
from transnext.tasks.classification.present import Example, page_sections
from transnext.tasks.classification.results import Prediction, SplitResult

HOSTILE = "<script>alert('x')</script>\"&'\x00\udcff\u202e"


def split_result(split="val", num_classes=4, num_images=200, accuracy=0.75, skipped=()) -> SplitResult:
    rng = np.random.default_rng(0)
    target = rng.integers(0, num_classes, num_images)
    predicted = np.where(np.arange(num_images) < accuracy * num_images, target, (target + 1) % num_classes)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (target, predicted), 1)
    predictions = [
        Prediction(index=i, name=f"{i}.png", target=int(t), predicted=int(p), probability=0.5)
        for i, (t, p) in enumerate(zip(target, predicted, strict=True))
    ]
    top1 = float((target == predicted).mean()) if num_images else math.nan
    return SplitResult(
        split=split,
        top1=top1,
        top1_interval=bootstrap_interval(round(top1 * num_images) if num_images else 0, num_images),
        top5=top1,
        loss=0.8125 if num_images else math.nan,
        calibration=_calibration(target == predicted),
        confusion=confusion,
        images_per_second=321.0,
        predictions=predictions,
        skipped=list(skipped),
    )


def _calibration(correct: np.ndarray) -> Calibration:
    return calibration(np.random.default_rng(1).uniform(0.2, 1, len(correct)), correct)


def epochs(n: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": e,
            "train_loss": 2 / e,
            "train_accuracy": 0.5,
            "val_loss": 2.5 / e,
            "val_top1": 0.7 - abs(e - 3) / 100,
            "lr": 1e-3 / e,
            "images_per_second": 123.0,
            "seconds": 40.0,
        }
        for e in range(1, n + 1)
    ]


def example(**kwargs) -> Example:
    values = {
        "split": "val",
        "name": "cats/1.jpg",
        "image": Image.new("RGBA", (64, 48), (200, 80, 40, 255)),
        "target": "cat",
        "predicted": "dog",
        "probability": 0.61,
        "heat": np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64),
    }
    return Example(**{**values, **kwargs})


def robustness(corruptions=CORRUPTIONS, clean: float | None = 0.75) -> RobustnessResult:
    top1 = np.linspace(0.7, 0.1, 5 * len(corruptions)).reshape(len(corruptions), 5)
    return RobustnessResult(split="val", images=200, clean=clean, corruptions=corruptions, top1=top1)


def scales(modes=("extrapolate", "interpolate", "linear"), **kwargs) -> ScaleResult:
    values = {"top1_interval": (0.4, 0.6), "images_per_second": 250.0, "macs": 2e7, **kwargs}
    points = tuple(ScalePoint(size=size, mode=mode, top1=32 / size, **values) for mode in modes for size in (64, 96))
    return ScaleResult(split="val", images=200, trained_size=64, points=points, failures=((32, "too <small>"),))


def studies(robustness=None, scales=None) -> list[Section]:
    return [
        Section(key="robustness", title="Corrupted images", html=robustness_section(robustness)),
        Section(key="sizes", title="Image sizes", html=scales_section(scales)),
    ]


def report(*, class_names=("cat", "dog", "owl", "ant"), examples=None, studies=(), **kwargs) -> str:
    values = {
        "title": "A run",
        "config": {"model": "transnext_pico", "data": "emoji", "image_size": 64, "parameters": 1_067_288, "ema": None},
        "history": epochs(5),
        "results": [split_result(), split_result("shift", accuracy=0.5)],
        "facts": [f"{len(class_names)} classes"],
        **kwargs,
    }
    examples = [example(), example(predicted="cat", heat=None)] if examples is None else examples
    page = build_report(**values, sections=[*page_sections(values["results"], class_names, examples), *studies])
    page.encode("utf-8")
    return page


def elements(page: str) -> ElementTree.Element:
    """The page parsed as XML, which forgives nothing, and as HTML."""
    parser = HTMLParser()
    parser.feed(page)
    parser.close()
    return ElementTree.fromstring(page)


def text_of(page: str) -> str:
    return " ".join("".join(elements(page).itertext()).replace("\u202f", " ").split())


def test_headline_numbers():
    text = text_of(report())
    assert "Validation top-170.0 %" in text
    assert "in epoch 3" in text
    assert "val top-175.0 %" in text
    assert "69.0 to 81.0 %" in text  # bootstrap, 150 of 200
    assert "200 images" in text
    assert "3 min 20 s" in text
    assert "1.07 M" in text
    assert "transnext_pico" in text


def test_needs_nothing_beside_itself():
    page = report()
    for element in elements(page).iter():
        for name in ("src", "href", "{http://www.w3.org/1999/xlink}href", "srcset", "action", "data"):
            assert element.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))
        assert element.tag not in ("script", "link", "iframe", "object")
    assert not re.search(r"https?:|@import|url\(", page)
    assert "default-src 'none'" in page


def test_accessible():
    root = elements(report())
    assert root.get("lang") == "en"
    assert all(image.get("alt") for image in root.iter("img"))
    assert all(svg.get("aria-label") for svg in root.iter("svg"))
    for table in root.iter("table"):
        assert any(th.get("scope") == "col" for th in table.iter("th"))
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    assert {a.get("href") for a in root.iter("a")} == {f"#{i}" for i in ids}


def test_users_text_is_escaped_everywhere():
    page = report(
        title=HOSTILE,
        config={HOSTILE: HOSTILE, "model": HOSTILE, "data": HOSTILE, "image_size": [HOSTILE]},
        results=[split_result(HOSTILE, skipped=[(HOSTILE, HOSTILE)])],
        class_names=[HOSTILE] * 4,
        examples=[example(split=HOSTILE, name=HOSTILE, target=HOSTILE, predicted=HOSTILE + "2")],
    )
    root = elements(page)
    assert not list(root.iter("script"))
    assert "<script" not in page
    assert "alert('x')" in "".join(root.itertext())
    assert "\u202e" not in page


def test_a_matrix_of_each_split_with_counts():
    root = elements(report())
    matrices = [t for t in root.iter("table") if "matrix" in t.get("class", "")]
    assert len(matrices) == 2
    cells = [[td.text for td in row.findall("td")] for row in matrices[0].iter("tr")][1:]
    confusion = split_result().confusion
    assert [[int(c or 0) for c in row] for row in cells] == confusion.tolist()
    assert f"cat, predicted dog: {confusion[0, 1]} of {confusion[0].sum()}" in report()


def test_many_classes_have_pairs_and_no_matrix():
    names = [f"class {i}" for i in range(1000)]
    page = report(results=[split_result(num_classes=1000, num_images=5000)], class_names=names)
    root = elements(page)
    assert not [t for t in root.iter("table") if "matrix" in t.get("class", "")]
    assert "Most confused" in text_of(page)
    assert len(page) < 300_000


def test_predictions():
    root = elements(report())
    cards = [li for li in root.iter("li") if "card" in li.get("class", "")]
    assert ["wrong" in card.get("class") for card in cards] == [True, False]
    assert [len(list(card.iter("img"))) for card in cards] == [2, 1]
    text = "".join(cards[0].itertext()).replace("\u202f", " ")
    assert "dog 61 %" in text
    assert "is cat" in text
    assert "cats/1.jpg" in text


def test_skipped_images_are_listed():
    skipped = [(f"bad{i}.jpg", "cannot identify image file") for i in range(250)]
    text = text_of(report(results=[split_result(skipped=skipped)]))
    assert "250 images left out" in text
    assert "bad0.jpg" in text
    assert "And 50 more." in text
    assert "could not be read" not in text_of(report())


def test_the_whole_configuration_is_there():
    text = text_of(report(config={"lr": 2e-3, "ema": None, "crop_scale": (0.4, 1.0), "nested": {"a": [1]}}))
    for part in ("0.002", "emanull", "[0.4, 1.0]", '{"a": [1]}'):
        assert part in text


def test_size_stays_modest():
    noise = np.random.default_rng(0).integers(0, 256, (1200, 900, 3), dtype=np.uint8)
    names = [f"a class of a rather long name {i}" for i in range(50)]
    page = report(
        results=[split_result(f"split {i}", num_classes=50, num_images=20_000) for i in range(4)],
        class_names=names,
        history=epochs(300),
        examples=[example(image=Image.fromarray(noise), split=f"split {i % 4}") for i in range(100)],
    )
    assert len(page.encode()) < 3_000_000
    assert len(list(elements(page).iter("img"))) == 96


@pytest.mark.parametrize(
    "kwargs",
    [
        {"history": []},
        {"history": epochs(1)},
        {"history": [{"epoch": 1}]},
        {"history": [{"epoch": 1, "train_loss": math.nan, "val_loss": math.inf, "val_top1": math.nan}]},
        {"history": [*epochs(3), {"epoch": 4, "train_loss": math.nan}, *epochs(2)]},
        {"history": [{**e, "val_top1": 1.0, "lr": 0.0} for e in epochs(3)]},
        {"examples": []},
        {"examples": [example(image=Image.new("L", (1, 500)), heat=np.zeros((500, 1)))]},
        {"results": []},
        {"results": [split_result(num_images=0)]},
        {"results": [split_result(accuracy=1.0)]},
        {"results": [split_result(num_classes=1)], "class_names": ["all"]},
        {"config": {}},
        {"config": {"parameters": None, "model": None}},
        {"results": [], "history": [], "examples": [], "config": {}, "class_names": []},
        {"studies": studies(robustness(), scales())},
        {"studies": studies(robustness(("fog",), clean=None), scales((None,), macs=None, images_per_second=None))},
    ],
)
def test_edge_cases_are_well_formed(kwargs):
    page = report(**kwargs)
    text = text_of(page)
    assert "nan" not in text.replace("NaN", "").split()
    assert not re.search(r'="[^"]*\bnan\b[^"]*"', re.sub('base64,[^"]*', "", page))


def test_loss_that_is_no_number_is_reported():
    history = [{**e, "train_loss": math.nan if e["epoch"] > 3 else 1.0} for e in epochs(5)]
    assert "Training loss was not a finite number in epochs 4, 5." in text_of(report(history=history))


def test_names_that_do_not_fit_the_matrix():
    with pytest.raises(ValueError, match="there are 3 class names"):
        report(class_names=["a", "b", "c"])


def test_classes_are_listed_worst_first():
    confusion = split_result().confusion
    table = next(t for t in elements(report()).iter("table") if "Mostly taken for" in "".join(t.itertext()))
    rows = [["".join(cell.itertext()).replace("\u202f", " ") for cell in row] for row in table.find("tbody")]
    accuracy = np.diag(confusion) / confusion.sum(axis=1)
    names = ["cat", "dog", "owl", "ant"]
    assert [row[0] for row in rows] == [names[i] for i in np.argsort(accuracy, kind="stable")]
    worst = int(accuracy.argmin())
    assert rows[0][1:3] == [str(confusion[worst].sum()), f"{100 * accuracy[worst]:.1f} %"]
    assert rows[0][5] == f"{names[(worst + 1) % 4]} ({confusion[worst].sum() - confusion[worst, worst]})"


def test_reliability():
    result = split_result()
    root = elements(report(results=[result]))
    svg = next(s for s in root.iter("svg") if "Reliability" in s.get("aria-label"))
    assert f"{100 * result.calibration.expected_error:.1f}" in svg.get("aria-label")
    bars = [r for r in svg.iter("rect") if r.get("class") == "level"]
    assert len(bars) == np.count_nonzero(result.calibration.counts)
    gaps = [r for r in svg.iter("rect") if r.get("class") == "gap"]
    assert len(gaps) == np.nansum(result.calibration.confidence > result.calibration.accuracy)


def test_robustness_and_sizes():
    page = report(studies=studies(robustness(), scales()))
    text = text_of(page)
    assert "Mean corruption error 60.0 %, 35.0 points more" in text
    assert "gaussian noise" in text
    assert "At 32 pixels: too <small>" in text
    charts = [s.get("aria-label") for s in elements(page).iter("svg")]
    assert sum("by severity, 0 to 5" in label for label in charts) == 5
    assert sum("by image size, pixels, 64 to 96" in label for label in charts) == 3
    assert "interpolate 4" in next(label for label in charts if label.startswith("Milliseconds"))
    assert "Corrupted images" not in text_of(report())


@pytest.mark.parametrize(("side", "number", "shown"), [(64, 48, 64), (224, 48, 224), (384, 12, 384), (1024, 48, 224)])
def test_pictures_have_their_own_size_as_far_as_the_page_has_room(side, number, shown):
    image = Image.new("RGB", (side, side), (90, 200, 90))
    heat = np.zeros((side, side), np.float32)
    page = report(results=[], examples=[example(image=image, heat=heat) for _ in range(number)])
    assert page.count(f'width="{shown}" height="{shown}"') == 2 * number
    assert image.size == (side, side)
