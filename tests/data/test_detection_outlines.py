import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.helpers.detection_sets import square
from transnext.data.detection import outlines
from transnext.data.images import _ORIENTATIONS


def some_masks(seed, number=40, size=(13, 9)):
    rng = np.random.default_rng(seed)
    for i in range(number):
        if i % 4 == 0:  # solid
            pixels = np.zeros(size, np.uint8)
            y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
            pixels[y : y + 5, x : x + 4] = 1
        else:
            pixels = (rng.random(size) < (0, 0.1, 0.5, 1.1)[i % 4]).astype(np.uint8)
        yield pixels


def runs_of(pixels):
    flat = pixels.ravel(order="F")
    borders = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *borders, len(flat)]).tolist()
    return runs if flat[0] == 0 else [0, *runs]


def test_run_lengths_are_those_of_pycocotools():
    for pixels in some_masks(0):
        counts = coco_mask.encode(np.asfortranarray(pixels))["counts"]
        assert outlines.compressed(runs_of(pixels)) == counts
    # Large numbers and negative differences of several digits.
    for runs in ([2**28, 5, 2**28, 7, 3, 2**20, 1], [0, 1], [12], [1] * 50, [31, 32, 33, 15, 16, 17, 1023, 1024, 0, 5]):
        total = sum(runs)
        theirs = coco_mask.frPyObjects({"size": [total, 1], "counts": runs}, total, 1)["counts"]
        assert outlines.compressed(runs) == theirs
        assert outlines.checked_areas([theirs], np.array([total]))[0] == sum(runs[1::2])


def test_areas_of_many_masks_at_once():
    masks = [*some_masks(1), *some_masks(2, size=(300, 200), number=8)]
    counts = [coco_mask.encode(np.asfortranarray(pixels))["counts"] for pixels in masks]
    pixels = np.array([mask.size for mask in masks])
    areas = outlines.checked_areas(counts, pixels)
    assert areas.tolist() == [int(mask.sum()) for mask in masks]
    assert (
        areas.tolist()
        == coco_mask.area(
            [{"size": list(mask.shape), "counts": c} for mask, c in zip(masks, counts, strict=True)]
        ).tolist()
    )


@pytest.mark.parametrize(
    "broken",
    [b"", b"0", b"~~~~", b"\xff\xfe", b"oooooooooooo", b"P", b"01", b"X4\x00", b"nO", b"oooooooo1", b"1O"],
)
def test_broken_run_lengths_are_found_among_others(broken):
    good = coco_mask.encode(np.asfortranarray(np.eye(8, dtype=np.uint8)))["counts"]
    areas = outlines.checked_areas([good, broken, good, broken, broken, good], np.full(6, 64))
    assert areas.tolist() == [8, -1, 8, -1, -1, 8]


def test_any_bytes_are_judged_as_counting_them_one_by_one_does():
    rng = np.random.default_rng(3)
    base = coco_mask.encode(np.asfortranarray(rng.integers(0, 2, (9, 7), np.uint8)))["counts"]
    variants = []
    for _ in range(3000):
        text = bytearray(base if rng.random() < 0.7 else rng.integers(48, 112, rng.integers(0, 9)).astype(np.uint8))
        for _ in range(rng.integers(0, 3)):
            if text:
                text[rng.integers(len(text))] = rng.integers(40, 120)
        variants.append(bytes(text))
    areas = outlines.checked_areas(variants, np.full(len(variants), 63)).tolist()
    assert areas == [one_by_one(text, 63) for text in variants]
    assert 0 < sum(area >= 0 for area in areas) < 3000


def one_by_one(text, pixels):
    runs, value, shift = [], 0, 0
    for i, char in enumerate(text):
        digit = char - 48
        if not 0 <= digit <= 63 or shift >= 30:
            return -1
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            if i == len(text) - 1:
                return -1
            continue
        if digit & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    return sum(runs[1::2]) if runs and min(runs) >= 0 and sum(runs) == pixels else -1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_and_boxes_turn_as_pixels_do(orientation):
    for pixels in some_masks(orientation, number=12, size=(11, 7)):
        counts = coco_mask.encode(np.asfortranarray(pixels))["counts"]
        expected = Image.fromarray(pixels)
        if orientation > 1:
            expected = expected.transpose(_ORIENTATIONS[orientation])
        turned = outlines.turned(counts, (11, 7), orientation)
        size = [expected.height, expected.width]
        assert turned == coco_mask.encode(np.asfortranarray(expected))["counts"]
        np.testing.assert_array_equal(coco_mask.decode({"size": size, "counts": turned}), np.asarray(expected))
        if pixels.any():
            box = outlines.bounds([counts], np.array([[11, 7]]))[0]
            box_after = outlines.bounds([turned], np.array([size]))[0]
            np.testing.assert_array_equal(outlines.turned_boxes(box, (11, 7), orientation), box_after)


def test_polygons_are_those_of_pycocotools_corners_not_rounded():
    rng = np.random.default_rng(4)
    shapes = [[rng.uniform(-3, 33, 2 * n) for n in parts] for parts in ((3,), (7, 4), (5,), (3, 3, 3))]
    made = outlines.rasterised(shapes, (25, 31))
    for parts, counts in zip(shapes, made, strict=True):
        theirs = coco_mask.merge(coco_mask.frPyObjects([part.tolist() for part in parts], 25, 31))
        assert counts == theirs["counts"]
    rounded = outlines.rasterised([[np.round(part) for part in parts] for parts in shapes], (25, 31))
    assert rounded != made
    assert outlines.rasterised([[np.array([0, 0, 5, 0, 1e9, 4])], shapes[0]], (25, 31)) == [None, made[0]]
    assert outlines.rasterised([], (25, 31)) == []


def test_bounds_of_more_masks_than_pycocotools_takes():
    pixels = np.zeros((9, 8), np.uint8)
    pixels[2:5, 3:7] = 1
    counts = coco_mask.encode(np.asfortranarray(pixels))["counts"]
    boxes, areas = outlines.bounds([counts] * 600, np.full((600, 2), (9, 8)))
    assert (boxes == [3, 2, 7, 5]).all()
    assert (areas == 12).all()
    assert outlines.bounds([], np.zeros((0, 2), np.int64))[0].shape == (0, 4)


def test_turning_takes_the_time_of_the_object_and_not_of_its_picture(monkeypatch):
    """Objects are drawn by pycocotools; a whole picture of 12 million pixels is neither decoded nor encoded."""
    height, width = 3000, 4000
    shapes = [[np.array(square(x, y, 40))] for x, y in ((0, 0), (3950, 2955))]
    counts = outlines.rasterised(shapes, (height, width))
    counts.append(outlines.rectangle([100, 0, 104, 3000], (height, width)))  # runs that go on in the next column
    expected = [
        coco_mask.encode(np.asfortranarray(coco_mask.decode({"size": [height, width], "counts": c}).T[:, ::-1]))
        for c in counts
    ]
    monkeypatch.setattr(coco_mask, "decode", None)
    monkeypatch.setattr(coco_mask, "encode", None)
    assert [outlines.turned(c, (height, width), 6) for c in counts] == [mask["counts"] for mask in expected]


def test_rectangle():
    pixels = coco_mask.decode({"size": [6, 9], "counts": outlines.rectangle([1.5, 2, 4, 5.2], (6, 9))})
    expected = np.zeros((6, 9))
    expected[2:6, 1:4] = 1
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "neither polygons"),
        ("text", "neither polygons"),
        ([1, 2, 3, 4], "three or more corners"),
        ([[1, 2, 3, 4, 5]], "pairs"),
        ([["1", "2", "3", "4", "5", "6"]], "list of numbers"),
        ([[[1, 2], [3, 4], [5, 6]]], "list of numbers"),
        ([[1, 2], [3, 4], [5, 6]], "three or more corners"),
        ([[1, 2, 3, 4, 5, None]], "list of numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "list of numbers"),
        ([[1, 2, 3, 4, 5, 6], "x"], "list of numbers"),
        ({"size": [3], "counts": "x"}, "size"),
        ({"size": [3, -1], "counts": "x"}, "size"),
        ({"size": [3, 1e3], "counts": "x"}, "size"),
        ({"size": [3, 3]}, "no run lengths"),
        ({"size": [3, 3], "counts": "é"}, "ASCII"),
        ({"size": [3, 3], "counts": [1, -1, 9]}, "at least 0"),
        ({"size": [3, 3], "counts": [1, 2.5]}, "at least 0"),
        ({"size": [3, 3], "counts": [2**70]}, "at least 0"),
    ],
)
def test_what_is_no_outline(value, message):
    with pytest.raises(ValueError, match=message):
        outlines.parsed(value)


def test_what_is_an_outline():
    assert all(outlines.parsed(value) is None for value in (None, [], {}, [[]], [[], []]))
    np.testing.assert_array_equal(outlines.parsed([1, 2, 3, 4, 5, 6.5])[0], [1, 2, 3, 4, 5, 6.5])
    assert len(outlines.parsed([[1, 2, 3, 4, 5, 6], [1, 2]])) == 1
    assert outlines.parsed({"size": [2, 3], "counts": [1, 5]}) == ((2, 3), b"15")
    assert outlines.parsed({"size": [2, 3], "counts": "15"}) == ((2, 3), b"15")
