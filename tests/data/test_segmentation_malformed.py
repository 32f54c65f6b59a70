"""Label files and class files that are broken in any way end in a data set that can be used or in one line."""

import copy
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.map_sets import map_set, panoptic_set
from transnext.data import UnreadableImage
from transnext.data.segmentation import check_segmentation, open_checked

EXAMPLES = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SECONDS = 10
NASTY = [
    None, True, 0, -1, 2**31, 2**63, 10**400, 1e308, float("nan"), 0.5, "", "a" * 5000, "\0",
    "\ud800", "../../etc/passwd", [], {}, [[]], [1, 2], [0, 0, 0], [256, 0, 0], ["a"] * 300, {"name": "a"}, [None] * 3,
]  # fmt: skip
LINES = [
    "", "a", "0", "-1 a", "1e5 a", "9" * 5000, "\0", "\x1b[31m", "é", "\ufeff", "1 2 3 a", "1,2,3", "a,1,2,3",
    "a:1,2,3::", "::::", "a:b:c", "256 0 0 a", "1 2 3 4 5", "Idx\tRatio\tTrain\tVal\tName", "1\t.1\t2\t3\twall",
    "[", "{", "#", "a,", ",", "name,r,g,b", "1\t", "\t", "0 0 0 b", "0 a", "1 a",
]  # fmt: skip


def judge(root: Path) -> None:
    """Opening gives a data set whose parts can be used, or one line, in little time."""
    start = time.monotonic()
    failure = None
    try:
        sources, _ = open_checked(root)
        report = check_segmentation(root)
    except (ValueError, OSError) as error:
        failure = error
    assert time.monotonic() - start < SECONDS
    if failure is not None:
        assert "\n" not in str(failure)
        assert 0 < len(str(failure)) < 2000
        assert type(failure) in (ValueError, FileNotFoundError)
        return
    json.dumps(report.to_dict())
    report.text().encode()
    for source in sources.values():
        assert all(source.classes)
        for i in range(len(source)):
            target = source.target(i)
            try:
                labels = target.read()
            except UnreadableImage:
                pytest.fail("a map that was opened cannot be read")
            assert labels.shape == target.size
            assert labels.dtype == np.uint8
            counts = np.bincount(labels.reshape(-1), minlength=256)
            assert counts[: len(source.classes)].tolist() == source.pixels[i, :-1].tolist()
            assert counts[255] + counts[len(source.classes) : 255].sum() == source.pixels[i, -1]
            assert not counts[len(source.classes) : 255].any()
            width, height = source.load(i).size
            assert (height, width) == target.size


@EXAMPLES
@given(data=st.data())
def test_label_files(tmp_path_factory, data) -> None:
    root = map_set(tmp_path_factory.mktemp("set"), train=3, val=1)
    path = root / "labels" / "train" / "im1.png"
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "other", "palette", "empty", "mode"]))
    if kind == "flip":
        for _ in range(data.draw(st.integers(1, 5))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        content = content[: data.draw(st.integers(0, len(content)))]
    elif kind == "insert":
        place = data.draw(st.integers(0, len(content)))
        content[place:place] = data.draw(st.binary(max_size=40))
    elif kind == "other":
        content = bytearray(data.draw(st.binary(max_size=200)))
    elif kind == "empty":
        content = bytearray()
    path.write_bytes(content)
    if kind == "palette":
        image = Image.fromarray(np.asarray(Image.open(path)))
        image.putpalette(
            data.draw(st.lists(st.integers(0, 255), min_size=3, max_size=768).map(lambda v: v[: len(v) // 3 * 3]))
        )
        image.save(path)
    elif kind == "mode":
        size = data.draw(st.sampled_from([(40, 30), (30, 40), (1, 1)]))
        dtype = data.draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]))
        channels = data.draw(st.sampled_from([(), (3,), (4,), (2,)])) if dtype == np.uint8 else ()
        high = data.draw(st.sampled_from([1, 3, 200, 256]))
        seed = data.draw(st.integers(0, 99))
        pixels = np.random.default_rng(seed).integers(0, high, (size[1], size[0], *channels)).astype(dtype)
        if dtype == np.float32:
            pixels[0, 0] = data.draw(st.sampled_from([0.5, np.nan, np.inf, -1, 3e38]))
        path.unlink()
        Image.fromarray(pixels).save(path.with_suffix(".tiff"))
    judge(root)


def _mutated(document, data):
    """The document with one value in it replaced or removed."""
    places = []

    def visit(node, path) -> None:
        places.append(path)
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            visit(value, (*path, key))

    visit(document, ())
    path = data.draw(st.sampled_from(places))
    value = copy.deepcopy(data.draw(st.sampled_from(NASTY)))
    if not path:
        return value
    node = document
    for key in path[:-1]:
        node = node[key]
    if data.draw(st.booleans()) and isinstance(node, dict):
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return document


CLASS_FILES = [
    ["sky", "cat", "dog"],
    {"0": "sky", "1": "cat", "2": "dog"},
    {"sky": 0, "cat": 1, "dog": 2},
    {"sky": [0, 0, 0], "cat": [1, 1, 1], "dog": [2, 2, 2]},
    {
        "classes": [{"name": "sky", "value": 0, "color": [1, 2, 3]}, {"name": "cat", "value": 1, "color": [4, 5, 6]}],
        "ignore": [2],
    },
    {"classes": ["cat", "dog"], "reduce_zero_label": True, "ignore": [9, [0, 0, 0]]},
]


@EXAMPLES
@given(data=st.data())
def test_class_files_in_json(tmp_path_factory, data) -> None:
    root = map_set(tmp_path_factory.mktemp("set"), names=(), train=2, val=1)
    document = json.loads(json.dumps(data.draw(st.sampled_from(CLASS_FILES))))
    for _ in range(data.draw(st.integers(1, 3))):
        document = _mutated(document, data)
    text = json.dumps(document)
    if data.draw(st.integers(0, 5)) == 0:
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.sampled_from(["[" * 100_000, "\0", "}", "9" * 6000, ""])) + text[place + 1 :]
    (root / "classes.json").write_text(text)
    judge(root)


@EXAMPLES
@given(data=st.data())
def test_class_files_in_text(tmp_path_factory, data) -> None:
    root = map_set(tmp_path_factory.mktemp("set"), names=(), train=2, val=1)
    lines = data.draw(st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=30)), max_size=8))
    name = data.draw(
        st.sampled_from(["classes.txt", "label_colors.txt", "class_dict.csv", "labelmap.txt", "objectInfo150.txt"])
    )
    (root / name).write_bytes(
        "\n".join(lines).encode("utf-8", "surrogatepass") + data.draw(st.sampled_from([b"", b"\xff", b"\n"]))
    )
    judge(root)


@EXAMPLES
@given(data=st.data())
def test_panoptic_files(tmp_path_factory, data) -> None:
    root = panoptic_set(tmp_path_factory.mktemp("set"))
    file = root / "annotations" / "panoptic_val2017.json"
    document = json.loads(file.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        document = _mutated(document, data)
    file.write_text(json.dumps(document))
    judge(root)
