"""Files of what was found, read again by those who read such files."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from PIL import Image
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO

from transnext.tasks.detection.answers import ObjectsFound
from transnext.tasks.detection.draw import colour_of, draw
from transnext.tasks.detection.image_ids import check_image_ids, image_id_of, read_image_ids
from transnext.tasks.detection.writers import coco_dataset, coco_results, csv_table, label_files, yolo_labels

CLASSES = ["rot, groß", "WBC", "赤血球"]


def _answer(name: str = "photos/000000000139.jpg", size: tuple[int, int] = (41, 60), masks: bool = True, n: int = 5):
    """Objects of odd shapes: noise, whole columns (runs that join), a corner, nothing, and a disc with a hole."""
    rng = np.random.default_rng(len(name))
    dense = np.zeros((5, *size), bool)
    dense[0] = rng.random(size) > 0.5
    dense[1, :, 10:13] = True
    dense[2, -1, -1] = True
    distance = ((np.indices(size) - np.array([20, 25])[:, None, None]) ** 2).sum(0)
    dense[4] = (distance < 150) & (distance > 20)
    boxes = np.array([[0, 0, size[1], size[0]], [10, 0, 13, 41], [59, 40, 60, 41], [1.25, 2, 3, 7.1], [12, 7, 38, 33]])
    ids = np.array([0, 2, 1, 1, 0])[:n]
    return ObjectsFound(
        xyxy=boxes[:n].astype(np.float32),
        mask=sv.CompactMask.from_dense(dense[:n], boxes[:n], size) if masks else None,
        confidence=np.array([0.9, 0.8, 0.7, 0.6, 0.55], np.float32)[:n],
        class_id=ids,
        data={"class_name": np.array([CLASSES[i] for i in ids], dtype=None if n else np.str_)},
        name=name,
        size=size,
    )


def _coco(path: Path, answers: Sequence[ObjectsFound], **options) -> list[dict]:
    with coco_results(path, **options) as add:
        for answer in answers:
            add(answer)
    return json.loads(path.read_text(encoding="utf-8"))


def test_coco_results_are_read_by_pycocotools(tmp_path) -> None:
    answer = _answer()
    rows = _coco(tmp_path / "r.json", [answer, _answer("b/8.png", n=0)], category_ids=[7, 3, 90])
    assert [row["category_id"] for row in rows] == [7, 90, 3, 3, 7]
    assert {row["image_id"] for row in rows} == {139}
    assert rows[3]["bbox"] == [1.25, 2.0, 1.75, 5.1]
    assert rows[0]["score"] == 0.9
    truth = COCO()
    truth.dataset = {"images": [{"id": 139}], "annotations": [], "categories": [{"id": i} for i in (7, 3, 90)]}
    truth.createIndex()
    read = truth.loadRes(str(tmp_path / "r.json"))
    assert len(read.anns) == 5
    for row, mask in zip(rows, answer.mask, strict=True):
        np.testing.assert_array_equal(run_lengths.decode(row["segmentation"]), mask)
        expected = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert row["segmentation"]["counts"] == expected["counts"].decode()


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_of_parts_are_those_of_the_picture(tmp_path, seed) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 9, 2))
    dense = rng.random((30, *size)) > rng.random((30, 1, 1))
    corners = np.sort(rng.integers(0, 9, (30, 2, 2)), axis=1).reshape(30, 4)
    compact = sv.CompactMask.from_dense(dense, corners, size)
    for mask in (compact, np.asarray(compact)):
        answer = ObjectsFound(
            xyxy=corners.astype(np.float32),
            mask=mask,
            data={"class_name": np.array(["x"] * 30)},
            name="7.png",
            size=size,
        )
        rows = _coco(tmp_path / "r.json", [answer])
        for row, whole in zip(rows, np.asarray(compact), strict=True):
            expected = run_lengths.encode(np.asfortranarray(whole.astype(np.uint8)))
            assert row["segmentation"]["counts"] == expected["counts"].decode()


def test_image_ids_are_given_or_told_by_names(tmp_path) -> None:
    path = tmp_path / "r.json"
    answers = [_answer("a/1.jpg", n=1), _answer("b/1.jpg", n=1), _answer("c/dog 1.jpg", n=1)]
    assert [row["image_id"] for row in _coco(path, answers)] == [1, "b/1.jpg", "dog 1.jpg"]
    assert [row["image_id"] for row in _coco(path, answers[1:], image_ids={"1.jpg": 5, "c/dog 1.jpg": 0})] == [5, 0]
    with pytest.raises(ValueError, match=r"dog 1\.jpg has no image id"):
        _coco(path, answers[1:], image_ids={"1.jpg": 5})
    with pytest.raises(ValueError, match=r"b/1\.jpg and a/1\.jpg have one image id"):
        _coco(path, answers, image_ids={"1.jpg": 5})
    with pytest.raises(ValueError, match=r"a/1\.jpg is given twice"):
        _coco(path, [answers[0], answers[1], answers[0], answers[0]])
    with pytest.raises(ValueError, match=r"a/1\.jpg is given twice"):
        _coco(path, [answers[0], answers[0]])
    with pytest.raises(ValueError, match=r"b/1\.jpg is given twice"):
        _coco(path, [*answers, answers[1]])
    with pytest.raises(ValueError, match="1 category ids for 3 classes"):
        _coco(path, [_answer()], category_ids=[1])
    frames = [_answer("clip.mp4", n=1), _answer("clip.mp4", n=1)]
    for place, frame in enumerate(frames):
        frame.frame, frame.time = place, place / 25
    assert [row["image_id"] for row in _coco(path, frames)] == ["clip.mp4#0", "clip.mp4#1"]


def test_image_ids_of_an_annotation_file(tmp_path) -> None:
    file = tmp_path / "a.json"

    def ids(*images: dict) -> dict[str, int]:
        file.write_text(json.dumps({"images": images}))
        return read_image_ids(file)

    known = ids(
        {"file_name": "a/x.jpg", "id": 5},
        {"file_name": "b\\x.jpg", "id": 6.0},
        {"file_name": "c/y.jpg", "id": 7},
        {"file_name": "z.jpg", "id": 0},
    )
    names = ["/data/a/x.jpg", "../b/x.jpg", "other/y.jpg", "z.jpg"]
    assert [image_id_of(name, known) for name in names] == [5, 6, 7, 0]
    check_image_ids(names, known)
    with pytest.raises(ValueError, match=r"^d/x\.jpg has no image id"):
        check_image_ids(["d/x.jpg"], known)
    with pytest.raises(ValueError, match=r"c/y\.jpg and other/y\.jpg have one image id, 7"):
        check_image_ids(["other/y.jpg", "c/y.jpg"], known)
    assert [row["image_id"] for row in _coco(tmp_path / "r.json", [_answer("d/b/x.jpg", n=1)], image_ids=known)] == [6]
    with pytest.raises(ValueError, match=r"x\.jpg is image 1 and image 2"):
        ids({"file_name": "x.jpg", "id": 1}, {"file_name": "x.jpg", "id": 2})
    for entry in (7, {"id": 1}, {"file_name": "x", "id": "one"}):
        with pytest.raises(ValueError, match="entry 0 of images has no file_name"):
            ids(entry)
    for text, said in (("{", "broken JSON"), ("[]", "no list of 'images'"), ('{"images": 5}', "no list of 'images'")):
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_image_ids(file)


def test_nothing_is_written_if_it_cannot_be_written_whole(tmp_path) -> None:
    for path in (tmp_path / "a.json", tmp_path / "a.csv"):
        path.write_text("old")
    files = label_files(["a.jpg"])
    contexts = [
        coco_results(tmp_path / "a.json"),
        csv_table(tmp_path / "a.csv"),
        coco_dataset(tmp_path / "b.json", CLASSES),
        yolo_labels(tmp_path / "labels", CLASSES, files),
    ]

    for context in contexts:
        with pytest.raises(RuntimeError, match="stop"), context as add:  # noqa: PT012
            add(_answer("a.jpg"))
            raise RuntimeError("stop")
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "a.json"}
    assert (tmp_path / "a.json").read_text() == (tmp_path / "a.csv").read_text() == "old"


def test_coco_data_set(tmp_path) -> None:
    answers = [_answer("a/x.jpg"), _answer("ü.jpg", n=0), _answer("z.jpg")]
    with coco_dataset(tmp_path / "d.json", CLASSES) as add:
        for answer in answers:
            add(answer)
    data = COCO(str(tmp_path / "d.json"))
    assert [data.imgs[i]["file_name"] for i in (1, 2, 3)] == ["a/x.jpg", "ü.jpg", "z.jpg"]
    assert [data.cats[i]["name"] for i in (1, 2, 3)] == CLASSES
    assert len(data.getAnnIds(imgIds=[1])) == 5
    assert data.getAnnIds(imgIds=[2]) == []
    ring = data.loadAnns(data.getAnnIds(imgIds=[1]))[4]
    filled = np.asarray(answers[0].mask)[4]
    filled[15:26, 20:31] = True
    assert (data.annToMask(ring) != filled).mean() < 0.01
    assert ring["area"] == answers[0].area[4]
    with coco_dataset(tmp_path / "boxes.json", CLASSES, category_ids=[4, 8, 2]) as add:
        add(_answer(masks=False))
    rows = json.loads((tmp_path / "boxes.json").read_text(encoding="utf-8"))["annotations"]
    assert [(row["id"], row["category_id"], row["segmentation"]) for row in rows[:2]] == [(1, 4, []), (2, 2, [])]
    assert rows[3]["area"] == pytest.approx(1.75 * 5.1)


def test_csv_has_a_row_for_each_object(tmp_path) -> None:
    with csv_table(tmp_path / "a.csv") as add:
        add(_answer('a "1", b.jpg', n=2))
        add(_answer("leer.jpg", n=0))
        add(_answer(os.fsdecode(b"\xff.jpg"), n=1))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert list(rows[1].values()) == ['a "1", b.jpg', "赤血球", "0.8", "10.0", "0.0", "13.0", "41.0"]
    assert list(rows[1]) == ["image", "class", "score", "x0", "y0", "x1", "y1"]
    assert rows[2]["image"] == "\\udcff.jpg"
    found = _answer("v.mp4", n=2)
    found.frame, found.time, found.tracker_id = 3, 0.12, np.array([4, -1])
    with csv_table(tmp_path / "v.csv", video=True) as add:
        add(found)
    with (tmp_path / "v.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["time"], row["track"]) for row in rows] == [("3", "0.12", "4"), ("3", "0.12", "")]


def test_yolo_boxes_and_polygons(tmp_path) -> None:
    answers = [_answer("/d/a/x.jpg"), _answer("/d/b/x.jpg", n=0)]
    files = label_files([answer.name for answer in answers])
    for _ in range(2):  # a folder that is there is filled again
        with yolo_labels(tmp_path / "l", CLASSES, files, scores=True) as add:
            for answer in answers:
                add(answer)
    assert (tmp_path / "l/classes.txt").read_text(encoding="utf-8").splitlines() == CLASSES
    lines = (tmp_path / "l/a/x.txt").read_text().splitlines()
    assert (tmp_path / "l/b/x.txt").read_text() == ""
    values = np.array([[float(v) for v in line.split()] for line in lines])
    assert values[:, 0].tolist() == answers[0].class_id.tolist()
    centre, side = values[:, 1:3] * [60, 41], values[:, 3:5] * [60, 41]
    np.testing.assert_allclose(np.concatenate([centre - side / 2, centre + side / 2], 1), answers[0].xyxy, atol=1e-4)
    np.testing.assert_allclose(values[:, 5], answers[0].confidence, atol=1e-6)
    with yolo_labels(tmp_path / "p", CLASSES, files, polygons=True) as add:
        add(answers[0])
    lines = [line.split() for line in (tmp_path / "p/a/x.txt").read_text().splitlines()]
    assert len(lines) == 5
    masks = np.asarray(answers[0].mask)
    for place in (1, 2, 4):
        filled = _filled(np.array(lines[place][1:], float).reshape(-1, 2) * [60, 41], (41, 60))
        expected = masks[place].copy()
        if place == 4:
            expected[15:26, 20:31] = True
        np.testing.assert_array_equal(filled, expected)
    np.testing.assert_allclose(np.array(lines[3][1:3], float) * [60, 41], [1.25, 2], atol=1e-4)  # an empty mask
    with (
        pytest.raises(ValueError, match="no outlines"),
        yolo_labels(tmp_path / "q", CLASSES, files, polygons=True) as add,
    ):
        add(_answer("/d/a/x.jpg", masks=False))


def _filled(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from matplotlib.path import Path as Outline

    centres = np.stack(np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5), -1).reshape(-1, 2)
    return Outline(polygon).contains_points(centres).reshape(size)


def test_parts_of_an_object_are_one_yolo_polygon(tmp_path) -> None:
    dense = np.zeros((1, 41, 60), bool)
    for y, x in ((2, 3), (20, 30), (30, 5), (5, 40)):
        dense[0, y : y + 7, x : x + 9] = True
    answer = _answer("a.jpg", n=1)
    answer.mask = dense
    with yolo_labels(tmp_path / "p", CLASSES, label_files(["a.jpg"]), polygons=True) as add:
        add(answer)
    (line,) = (tmp_path / "p/a.txt").read_text().splitlines()
    np.testing.assert_array_equal(
        _filled(np.array(line.split()[1:], float).reshape(-1, 2) * [60, 41], (41, 60)), dense[0]
    )


def test_each_image_has_a_label_file_of_its_own() -> None:
    names = ["/d/a.jpg", "/d/b/a.jpg", "/d/c.jpg", "/d/c.png", "/d/classes.jpg", "http://x/y/a.jpg", "/d/C.txt.jpg"]
    files = {name: path.as_posix() for name, path in label_files(names).items()}
    assert files == {
        "/d/a.jpg": "a.jpg.txt",
        "/d/b/a.jpg": "b/a.txt",
        "/d/c.jpg": "c.jpg.txt",
        "/d/c.png": "c.png.txt",
        "/d/classes.jpg": "classes.jpg.txt",
        "http://x/y/a.jpg": "a.jpg-2.txt",
        "/d/C.txt.jpg": "C.txt.txt",
    }
    assert label_files(["image 0", "x/image 1"])["image 0"] == Path("image 0.txt")
    assert label_files([]) == {}


def test_frames_of_a_video_have_label_files(tmp_path) -> None:
    with yolo_labels(tmp_path / "l", CLASSES, label_files(["clip.mp4"])) as add:
        for place in range(2):
            found = _answer("clip.mp4", n=1)
            found.frame = place
            add(found)
    assert {path.name for path in (tmp_path / "l").iterdir()} == {"classes.txt", "clip_0.txt", "clip_1.txt"}


@pytest.mark.parametrize("order", [1, -1])
def test_frames_of_a_video_and_images_have_label_files_of_their_own(tmp_path, order) -> None:
    names = ["clip.mp4", "clip_1.png", "clip_10.png", "clip_x.png", "film.mp4", "film_0.mp4", "clip.mp4_1.jpg"][::order]
    with yolo_labels(tmp_path / "l", CLASSES, label_files(names)) as add:
        for name in names:
            for place in range(2) if name.endswith("mp4") else [None]:
                found = _answer(name, n=1)
                found.frame = place
                add(found)
    written = {path.name for path in (tmp_path / "l").iterdir()} - {"classes.txt"}
    images = {"clip_1.txt", "clip_10.txt", "clip_x.txt", "clip.mp4_1.txt"}
    films = {"film_0.txt", "film_1.txt", "film_0_0.txt", "film_0_1.txt"}
    assert written == images | films | {"clip.mp4-2_0.txt", "clip.mp4-2_1.txt"}


@pytest.mark.parametrize("size", [(41, 60), (7, 3), (700, 901)])
@pytest.mark.parametrize("masks", [True, False])
def test_pictures_show_boxes_masks_and_names(size, masks) -> None:
    picture = np.full((*size, 3), 128, np.uint8)
    boxes = np.array([[0, 0, size[1], size[0]], [size[1] / 2, 1, size[1] / 2 + 0.2, 1.1]], np.float32)
    dense = np.zeros((2, *size), bool)
    dense[0, : size[0] // 2] = True
    found = ObjectsFound(
        xyxy=boxes,
        mask=dense if masks else None,
        class_id=np.array([0, 30]),
        tracker_id=np.array([7, -1]),
        confidence=np.array([0.5, 0.4], np.float32),
        data={"class_name": np.array(["赤血球 \n x", "b"])},
    )
    drawn = draw(picture, found)
    assert max(drawn.size) >= 480
    assert drawn.size[0] % size[1] == drawn.size[1] % size[0] == 0
    plain = np.array(draw(Image.fromarray(picture), found, names=False, least_side=1))
    assert plain.shape == picture.shape
    np.testing.assert_array_equal(plain[-1, 0], colour_of(0))
    assert (picture == 128).all()
    if size == (700, 901):
        assert (plain[100, 100] == 128).all() != masks
        assert (plain[600, 100] == 128).all()
        assert not np.array_equal(np.array(drawn), plain)


def test_pictures_of_other_sizes_and_of_nothing() -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    found = ObjectsFound(xyxy=np.zeros((1, 4), np.float32), mask=np.zeros((1, 30, 20), bool))
    with pytest.raises(ValueError, match="masks of 20x30 pixels on a picture of 30x20"):
        draw(picture, found)
    assert not np.array(draw(picture, sv.Detections.empty())).any()
    assert len({colour_of(place) for place in range(200)}) == 200
