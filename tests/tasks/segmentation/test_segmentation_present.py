"""What a page shows of a segmenter, and its maps as pictures and files."""

import csv
import itertools
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.helpers.detection_sets import picture
from tests.helpers.map_sets import label_file
from transnext.data import Batch, Frame
from transnext.data.preprocessing import Preprocessing
from transnext.data.segmentation import open_segmentation
from transnext.report.page import build_report
from transnext.tasks.segmentation.draw import class_colours, draw_map, overlaid
from transnext.tasks.segmentation.large import write_map
from transnext.tasks.segmentation.looking import Looking
from transnext.tasks.segmentation.metrics import SegmentationMeter
from transnext.tasks.segmentation.outlines import pixels_of, polygons_of
from transnext.tasks.segmentation.pictures import SIDE, chosen_images, compared, predicted_maps
from transnext.tasks.segmentation.present import sections_of
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.segmentation.writers import area_table, coco_masks, geojson
from transnext.tasks.task import Look

CLASSES = ["sky", "<b>cat</b>", "dog", "nothing"]
PREPROCESSING = Preprocessing(
    input_size=(3, 60, 90), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", crop_pct=1.0, crop_mode="fit"
)


class ByBrightness(nn.Module):
    """Says the class whose brightness, 30, 100 or 200, is nearest."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([30.0, 100, 200, 900]) / 127.5 - 1)

    def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        assert images.shape[2] % 32 == images.shape[3] % 32 == 0
        return -(images[:, :1] - self.levels[:, None, None]).abs()


@pytest.fixture
def shown(tmp_path):
    """Results of two splits, from pictures that the network gets right more and more, and what the page may look at."""
    for split, count in (("train", 2), ("val", 7)):
        for i in range(count):
            generator = np.random.default_rng(i)
            labels = np.kron(generator.integers(0, 3, (4, 5), np.uint8), np.ones((20, 20), np.uint8))[:, : 90 - i]
            labels = np.ascontiguousarray(labels)
            level = np.array([30, 100, 200], np.uint8)[labels]
            level[: 10 * (6 - i)] = 30
            path = tmp_path / "images" / split / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.repeat(level[..., None], 3, 2)).save(path)
            labels[70:, 10:20] = 255
            label_file(tmp_path / "labels" / split / f"{i}.png", labels)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    sources = open_segmentation(tmp_path)
    look = Look(net=ByBrightness(), splits=sources, preprocessing=PREPROCESSING)
    results = []
    for split, source in sources.items():
        meter = SegmentationMeter(CLASSES)
        for i in range(len(source)):
            said = torch.from_numpy(predicted_maps(source.load(i), look)[0])
            true = source.target(i).read()
            frame = Frame(original=true.shape, to_original=torch.eye(2, 3, dtype=torch.float64))
            sizes = torch.ones(1, 2, dtype=torch.int64)
            meter.add([said], Batch(torch.zeros(1, 3, 1, 1), [true], torch.tensor([i]), [], sizes, [frame]))
        results.append(meter.result(split, source.name))
    return results, look


def test_sections(shown) -> None:
    results, look = shown
    sections = sections_of(results, CLASSES, look)
    assert [section.key for section in sections] == ["classes", "confusion", "pictures"]
    page = build_report(title="t", config={}, history=[], results=results, sections=sections)
    root = ElementTree.fromstring(page.split("\n", 1)[1])
    assert len(page) < 2_000_000
    text = "".join(root.itertext())
    assert "<b>cat</b>" in text
    assert "1 class is neither there nor found" in text
    pictures = sections[2].html
    assert pictures.count("<img") == 3 * 7
    assert "train" not in pictures.split("<ul")[0]
    assert "taken for sky" in pictures
    for section in sections:
        ElementTree.fromstring(f"<div>{section.html}</div>")
    assert sections_of([], CLASSES, look)[0].html


def test_worst_and_best_are_so_and_never_both(shown) -> None:
    results, _ = shown
    worst, best = chosen_images(results[1], 3)
    order = np.argsort(results[1].image_iou).tolist()
    assert worst == order[:3]
    assert best == order[::-1][:3]
    worst, best = chosen_images(results[1], 100)
    assert sorted(worst + best) == list(range(7))
    assert chosen_images(results[0], 5) == ([0], [1])


class BySize(ByBrightness):
    """Says the class that the size of what it sees has a number for: another one of windows than of all."""

    def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        said = torch.full((len(images), 4, *images.shape[2:]), -1.0)
        said[:, int(images.shape[3] > 32)] = 1
        return said + 0 * super().forward(images, sizes)


def test_a_page_shows_what_was_measured_in_windows(shown) -> None:
    results, look = shown
    look = replace(look, net=BySize())
    task = Segmentation(metadata={"class_names": CLASSES, "window": 32, "window_stride": 16})
    picture = look.splits["val"].load(0)
    assert set(np.unique(predicted_maps(picture, look)[0])) == {1}
    assert set(np.unique(predicted_maps(picture, look, how=task.how)[0])) == {0}
    whole, parts = (compared(0, results[1], look, class_colours(4), how) for how in (Looking(), task.how))
    assert whole is not None
    assert parts is not None
    assert not np.array_equal(whole.predicted, parts.predicted)
    html = task.sections(results, look)[-1].html
    assert html == sections_of(results, CLASSES, look, task.how)[-1].html
    assert html != sections_of(results, CLASSES, look)[-1].html


def test_difference_map(shown) -> None:
    results, look = shown
    found = compared(0, results[1], look, class_colours(4))
    assert found is not None
    assert found.true.size == found.predicted.size == found.difference.size
    assert max(found.true.size) <= SIDE
    pixels = np.asarray(found.difference).astype(int)
    said = predicted_maps(look.splits["val"].load(0), look)[0]
    true = look.splits["val"].target(0).read()
    orange = pixels[..., 0] - pixels[..., 2] > 60
    assert (orange == ((said != true) & (true != 255))).all()
    assert found.wrong is not None
    assert found.wrong[1] == 0
    perfect = compared(6, results[1], look, class_colours(4))
    assert perfect is not None
    Path(look.splits["val"].paths[0]).unlink()
    assert compared(0, results[1], look, class_colours(4)) is None


def test_drawing(tmp_path) -> None:
    photo = Image.open(picture(tmp_path / "a.png", (60, 40)))
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 2
    labels[:5] = 255
    over = np.asarray(overlaid(photo, labels, class_colours(3)))
    assert (over[:5] == np.asarray(photo)[:5]).all()
    half = (np.asarray(photo)[10, 40].astype(int) + class_colours(3)[2]) / 2
    assert (np.abs(over[10, 40] - half) <= 1).all()
    drawn = draw_map(photo, labels, ["sky", "猫", "dog"])
    assert drawn.height == 320
    assert drawn.width > 480
    assert draw_map(photo, labels, ["a", "b", "c"], legend=False, least_side=1).size == photo.size
    many = np.arange(200, dtype=np.uint8)[None].repeat(3, 0)
    assert draw_map(Image.new("RGB", (200, 3)), many, [f"class {i}" for i in range(200)]).height < 100
    with pytest.raises(ValueError, match="a map of 60x40 pixels on a picture of 40x60"):
        overlaid(photo.transpose(Image.Transpose.ROTATE_90), labels, class_colours(3))
    with pytest.raises(ValueError, match="class 2, and there are 2 colours"):
        overlaid(photo, labels, class_colours(2))


def test_label_files_come_back(tmp_path) -> None:
    labels = np.random.default_rng(0).choice([0, 1, 2, 255], (31, 17)).astype(np.uint8)
    write_map(tmp_path / "x.png", iter([(slice(0, len(labels)), labels)]), labels.shape, classes=3)
    image = Image.open(tmp_path / "x.png")
    assert image.mode == "P"
    assert (np.asarray(image) == labels).all()
    assert (np.asarray(image.convert("RGB"))[labels == 1] == class_colours(3)[1]).all()
    assert (np.asarray(image.convert("RGB"))[labels == 255] == 255).all()


def test_areas(tmp_path) -> None:
    labels = np.array([[0, 0, 2], [2, 255, 2]], np.uint8)
    with area_table(tmp_path / "a.csv", ["a,b", "c", "d"]) as add:
        add("x.png", labels)
    rows = list(csv.reader((tmp_path / "a.csv").open()))
    assert [row[1:] for row in rows[1:]] == [["a,b", "2", "0.333333"], ["c", "0", "0.000000"], ["d", "3", "0.500000"]]
    with (
        pytest.raises(ValueError, match=r"x\.png has class 2, and there are 2 classes"),
        area_table(tmp_path / "b.csv", ["a", "b"]) as add,
    ):
        add("x.png", labels)
    assert not (tmp_path / "b.csv").exists()


def _inside(polygon, x: float, y: float) -> bool:
    """Whether a point is in a polygon with holes, by crossings."""
    crossings = 0
    for ring in polygon:
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize("seed", range(3))
def test_polygons_hold_the_pixels_of_their_class(seed: int) -> None:
    labels = np.random.default_rng(seed).choice([0, 1, 2, 255], (9, 11), p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)
    labels[2:7, 2:7], labels[4, 4] = 1, 2
    polygons = list(polygons_of(labels))
    for row in range(9):
        for column in range(11):
            owners = [place for place, polygon in polygons if _inside(polygon, column + 0.5, row + 0.5)]
            assert owners == ([] if labels[row, column] == 255 else [labels[row, column]])
    for _, polygon in polygons:
        areas = [float((r[:-1, 0] * r[1:, 1] - r[1:, 0] * r[:-1, 1]).sum() / 2) for r in polygon]
        assert areas[0] > 0
        assert all(area < 0 for area in areas[1:])
        assert all((ring[0] == ring[-1]).all() for ring in polygon)
        assert pixels_of(polygon) == sum(areas)
    for place in range(3):
        assert sum(pixels_of(polygon) for one, polygon in polygons if one == place) == (labels == place).sum()


def test_polygons_run_along_the_edges_of_pixels() -> None:
    one, square, row = np.zeros((3, 3, 4), np.uint8)
    one[1, 2], square[1:, 1:3], row[0] = 1, 1, 1
    for labels, count, corners in ((one, 1, [2, 1, 3, 2]), (square, 4, [1, 1, 3, 3]), (row, 4, [0, 0, 4, 1])):
        ((polygon,),) = [polygon for place, polygon in polygons_of(labels) if place == 1]
        assert len(polygon) == 5  # corners alone, and the first again
        assert [*polygon.min(0), *polygon.max(0)] == corners
        assert pixels_of([polygon]) == count


def test_regions_that_touch_at_a_corner_are_two() -> None:
    polygons = list(polygons_of(np.eye(2, dtype=np.uint8)))
    assert sorted(place for place, _ in polygons) == [0, 0, 1, 1]
    assert {pixels_of(polygon) for _, polygon in polygons} == {1}


def test_a_map_of_nothing_has_no_polygon() -> None:
    assert list(polygons_of(np.full((3, 4), 255, np.uint8))) == []


def test_geojson(tmp_path) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 5:15], labels[8:12, 8:12], labels[0, 29] = 1, 0, 2
    with geojson(tmp_path / "a.json", ["ground", "pond", "x"], transform=(2, 0, 100, 0, -2, 50), least_pixels=2) as add:
        add("x.tif", labels)
    features = json.loads((tmp_path / "a.json").read_text())["features"]
    assert sorted((f["properties"]["class"], f["properties"]["pixels"]) for f in features) == [
        ("ground", 16),
        ("ground", 600 - 100 - 1),
        ("pond", 84),
    ]
    (pond,) = [feature for feature in features if feature["properties"]["class"] == "pond"]
    outer, hole = (np.array(ring) for ring in pond["geometry"]["coordinates"])
    assert (outer.min(0) == [110, 20]).all()
    assert (outer.max(0) == [130, 40]).all()
    assert (hole.min(0) == [116, 26]).all()
    area = (outer[:-1, 0] * outer[1:, 1] - outer[1:, 0] * outer[:-1, 1]).sum()
    assert area > 0  # against the clock, where y goes up
    for least, count in ((1, 2), (2, 1), (84, 1), (84.5, 0)):
        with geojson(tmp_path / "b.json", ["ground", "pond", "x"], leave_out=["ground"], least_pixels=least) as add:
            add("x.tif", labels)
        assert len(json.loads((tmp_path / "b.json").read_text())["features"]) == count
    with pytest.raises(ValueError, match="no class 'sea'"), geojson(tmp_path / "c.json", ["a"], leave_out=["sea"]):
        pass


def test_coco_masks_come_back(tmp_path) -> None:
    folder = tmp_path / "images"
    labels = {}
    for i in range(3):
        picture(folder / f"{i}.png", (40, 30), seed=i)
        labels[f"{i}.png"] = np.random.default_rng(i).choice([0, 1, 2, 255], (30, 40)).astype(np.uint8)
    with coco_masks(folder / "all.json", ["sky", "cat", "dog"]) as add:
        for name, one in labels.items():
            add(name, one)
    source = open_segmentation(folder / "all.json", 0)["train"]
    assert source.classes == ("background", "sky", "cat", "dog")
    for i, name in enumerate(source.names_below()):
        expected = labels[name]
        assert (source.target(i).read() == np.where(expected == 255, 0, expected + 1)).all()
