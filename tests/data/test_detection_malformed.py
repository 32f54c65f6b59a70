"""Annotation files that are broken in any way end in a data set that can be used or in one line."""

import copy
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.detection_sets import coco_image, coco_object, picture, square, voc_file, yolo_set
from transnext.data.detection import check_detection, open_checked

EXAMPLES = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SECONDS = 10
NASTY = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**30, 10**400, 1e308, -1e308, float("nan"), float("inf"),
    0.5, "", "1", "a" * 5000, "\0", "\ud800", "../../../etc/passwd", "/dev/zero", [], {}, [[]], [[[]]], [None] * 4,
    ["1", "2", "3", "4"], {"size": [30, 40], "counts": [2**31] * 4}, {"size": [10**9, 10**9], "counts": "a" * 99},
    {"size": [30, 40], "counts": "P" * 300}, {"size": [30, 40], "counts": [-5, 1205]}, [[0, 0, 1e9, 0, 1e9, 1e9]],
    [10**400] * 4, [1e308] * 4, {"size": [40, 30], "counts": [0, 1200]}, [[1, 2, 3]], [5] * 1000,
]  # fmt: skip
NASTY_TEXT = [
    "", "nan", "inf", "-1", "1e400", "9" * 5000, "\0", "\x1b[31m", "\n", " ", "é", "\ufeff", "\u2028", "[", "]", "{",
    "}", "&a", "*a", "<<", "!!python/object/apply:os.system [ls]", "!!binary x", "2001-99-99", "0x", "1:2:3", "? ",
    "- ", ": ", "<!DOCTYPE a>", "&lt;", "&#0;", "</object>", "<object>", "<xmin/>", "<![CDATA[",
    "<?xml version='9'?>", "<?xml version='1.0' encoding='utf-16'?>", "../", "%YAML 9",
]  # fmt: skip


def judge(root: Path) -> None:
    """Opening gives a data set whose parts can be used, or one line, in little time."""
    start = time.monotonic()
    message, report, sources = "", None, {}
    try:
        sources, _ = open_checked(root)
        report = check_detection(root)
    except (ValueError, OSError) as error:
        message = f"{type(error).__name__}: {error}"
    assert time.monotonic() - start < SECONDS
    if report is None:
        assert message.startswith(("ValueError: ", "FileNotFoundError: "))
        assert "\n" not in message
        assert len(message) < 2000
        return
    json.dumps(report.to_dict())
    report.text().encode()
    for source in sources.values():
        for i in range(len(source)):
            target = source.target(i)
            height, width = target.size
            assert np.isfinite(target.boxes).all()
            assert (target.boxes[:, :2] < target.boxes[:, 2:]).all()
            assert (target.boxes >= 0).all()
            assert (target.boxes <= [width, height, width, height]).all()
            assert (target.areas > 0).all()
            assert np.isfinite(target.areas).all()
            assert ((target.labels >= 0) & (target.labels < len(source.classes))).all()
            assert source.load(i).size == (width, height)
            if source.has_masks:
                assert target.masks().any((1, 2)).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("malformed")


def document() -> dict:
    run_lengths = {"size": [30, 40], "counts": "0n0bT1"}
    objects = [
        coco_object(1, 1, segmentation=[square(2, 3)], area=36),
        coco_object(2, 1, 7, (0, 0, 1, 30), segmentation=run_lengths),
        coco_object(3, 2, segmentation={"size": [30, 40], "counts": [0, 30, 1170]}) | {"iscrowd": 1},
        coco_object(4, 2, 7, segmentation=[square(2, 3), square(9, 9)]),
    ]
    images = [coco_image(1, "a.png", group="x"), coco_image(2, "b.png"), coco_image(3, "c.jpg", (30, 40))]
    categories = [{"id": 1, "name": "cat", "supercategory": "none"}, {"id": 7, "name": "dog", "supercategory": "cat"}]
    return {"images": images, "annotations": objects, "categories": categories}


def nodes(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from nodes(inner, (*path, key))


PATHS = [path for path in nodes(document()) if path]


def changed(tree, path, action, value):
    *above, last = path
    for key in above:
        if not isinstance(tree, (dict, list)):
            return
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            return
    try:
        if action == "remove":
            del tree[last]
        elif action == "repeat" and isinstance(tree, list):
            tree.append(copy.deepcopy(tree[last]))
        elif action == "nest":
            tree[last] = [tree[last]]
        else:
            tree[last] = value
    except (KeyError, IndexError, TypeError):
        return


@EXAMPLES
@given(
    st.lists(
        st.tuples(
            st.sampled_from(PATHS), st.sampled_from(["put"] * 5 + ["remove", "repeat", "nest"]), st.sampled_from(NASTY)
        ),
        min_size=1,
        max_size=5,
    )
)
def test_coco_with_changed_values(folder, changes):
    root = folder / "coco"
    if not root.is_dir():
        picture(root / "a.png")
        picture(root / "b.png", seed=1)
        picture(root / "c.jpg", orientation=6)
    tree = document()
    for path, action, value in changes:
        changed(tree, path, action, copy.deepcopy(value))
    (root / "train.json").write_text(json.dumps(tree))
    judge(root)


def edited(data: bytes, edits) -> bytes:
    for place, length, text in edits:
        start = int(place * len(data))
        data = data[:start] + text + data[start + length :]
    return data


def with_other_words(data: bytes, changes) -> bytes:
    """Replaces words between spaces and tags."""
    parts = re.split(r"([^\s<>]+)", data.decode())
    for place, text in changes:
        parts[2 * int(place * (len(parts) // 2 - 1)) + 1] = text
    return "".join(parts).encode()


WORDS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(
            [
                "nan",
                "inf",
                "-inf",
                "1e400",
                "-1",
                "0",
                "1",
                "41",
                "1e9",
                "0x1",
                "9" * 5000,
                "",
                "a b",
                "1.5",
                "1 2",
                "'",
            ]
        ),
    ),
    min_size=1,
    max_size=4,
)
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from([0, 0, 1, 1, 3, 20, 1000]),
        st.sampled_from([text.encode("utf-8") for text in NASTY_TEXT]) | st.binary(max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def broken(data: bytes, edits, words) -> bytes:
    return with_other_words(data, words) if words else edited(data, edits)


@EXAMPLES
@given(EDITS)
def test_coco_with_changed_bytes(folder, edits):
    root = folder / "coco_bytes"
    picture(root / "a.png")
    (root / "train.json").write_bytes(edited(json.dumps(document(), indent=1).encode(), edits))
    judge(root)


@EXAMPLES
@given(st.booleans(), EDITS, WORDS | st.just([]))
def test_yolo(folder, names, edits, words):
    root = folder / "yolo"
    labels = "0 0.5 0.5 0.25 0.2\n1 0.1 0.1 0.2 0.2\n1 0.1 0.1 0.5 0.1 0.5 0.5\n"
    if not root.is_dir():
        yolo_set(root, labels, train=3, val=2)
    label_file, yaml = root / "labels/train/0.txt", root / "data.yaml"
    yaml_text = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\nnc: 2\n"
    label_file.write_bytes(labels.encode() if names else broken(labels.encode(), edits, words))
    yaml.write_bytes(broken(yaml_text.encode(), edits, words) if names else yaml_text.encode())
    judge(root)


@EXAMPLES
@given(st.booleans(), EDITS, WORDS | st.just([]))
def test_voc(folder, in_list, edits, words):
    root = folder / "voc"
    boxes = [("cat", 1, 2, 20, 20), ("dog", 5, 5, 40, 30)]
    for name in ("a", "b"):
        picture(root / "JPEGImages" / f"{name}.png")
        voc_file(root / "Annotations" / f"{name}.xml", f"{name}.png", boxes, difficult="0")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_bytes(broken(b"a\nb\n", edits, words) if in_list else b"a\nb\n")
    if not in_list:
        file = root / "Annotations" / "a.xml"
        file.write_bytes(broken(file.read_bytes(), edits, words))
    judge(root)


def test_bombs(tmp_path):
    yolo_set(tmp_path / "yaml", train=1)
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))
    (tmp_path / "yaml/data.yaml").write_text(f"a0: &a0 [x]\n{levels}\nnames: *a29\n")
    judge(tmp_path / "yaml")
    (tmp_path / "yaml/data.yaml").write_text("names: " + "[" * 20_000)
    judge(tmp_path / "yaml")
    (tmp_path / "yaml/data.yaml").write_text("names: [" + "x," * 400_000)
    judge(tmp_path / "yaml")
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 20))
    file = voc_file(tmp_path / "voc/a.xml", "a.png", [("cat", 1, 1, 9, 9)])
    picture(tmp_path / "voc/a.png")
    file.write_text(f'<!DOCTYPE x [<!ENTITY a0 "b">{entities}]><annotation>&a19;</annotation>')
    judge(tmp_path / "voc")
    file.write_text("<a>" * 200_000)
    judge(tmp_path / "voc")
