"""`transnext detect ...` as a user meets it: through `main`, with what it prints and writes."""

import csv
import importlib.util
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.rectangles import CATEGORY_IDS, COLOURS, rectangle_config, rectangle_set
from transnext.cli import main
from transnext.data.detection import open_detection
from transnext.engine.build import build_net, open_task
from transnext.predict import Detector
from transnext.tasks.detection.task import Detection
from transnext.tasks.detection.video import video_facts, write_video

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = ("--device", "cpu")


def fails(capsys, *args: str) -> str:
    """The single line that a mistake gives, with exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(list(args))
    error = capsys.readouterr().err.strip()
    assert exit_.value.code == 2, error
    assert "Traceback" not in error
    assert "\n" not in error, error
    return error


@pytest.fixture
def run(trained) -> str:
    return str(trained[1].folder)


@pytest.fixture
def images(rectangles, tmp_path) -> Path:
    """Some of the training images, and what is no image among them."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.png").write_bytes((rectangles / "train" / f"00{i}.png").read_bytes())
    (folder / "below" / "0.png").write_bytes((rectangles / "train" / "003.png").read_bytes())
    (folder / "1b.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def clip(rectangles, tmp_path) -> Path:
    """A video of one of the images, which moves by a pixel with each frame."""
    pixels = np.asarray(Image.open(rectangles / "train" / "000.png"))
    file = tmp_path / "clip.mp4"
    write_video(file, (np.roll(pixels, i, 1) for i in range(6)), 10)
    return file


def test_train_and_go_on(rectangles, tmp_path, capsys) -> None:
    output = tmp_path / "run"
    args = ["detect", "train", str(rectangles), "--output", str(output), "--image-size", "64", "--epochs", "1"]
    args += ["--batch-size", "4", "--workers", "0", "--detector", "d_fine", "--tracker", "none", *CPU]
    main(args)
    out = capsys.readouterr().out
    assert "epoch   1/1" in out
    assert "report.html" in out
    assert "AP50" in out
    assert "images" in out
    main(["detect", "train", "--output", str(output), "--resume", "auto"])
    assert "Going on from" in capsys.readouterr().out
    assert "is a run of detection, not of classification" in fails(
        capsys, "train", "--output", str(output), "--resume", "auto"
    )
    assert "--detector d_fine (now --detector dino)" in fails(
        capsys, "detect", "train", "--output", str(output), "--resume", "auto", "--detector", "dino"
    )


def test_a_recipe_with_other_values(rectangles, tmp_path, capsys, monkeypatch) -> None:
    configs = []
    monkeypatch.setattr("transnext.engine.trainer.train", lambda config, **_: configs.append(config) or Done())
    main(["detect", "train", str(rectangles), "--recipe", "dino_5scale_tiny_12e", "--epochs", "3", "--lr", "0.5"])
    (config,) = configs
    assert (config.task.scales, config.epochs, config.optim.lr, config.data) == (5, 3, 0.5, str(rectangles))
    assert "no recipe is called 'tiny_in1k'" in fails(
        capsys, "detect", "train", str(rectangles), "--recipe", "tiny_in1k"
    )
    assert "no recipe" in fails(capsys, "train", str(rectangles), "--recipe", "own_boxes")
    main(["recipes"])
    out = capsys.readouterr().out
    assert "own_boxes" in out
    assert "mask_rcnn_tiny_1x" in out


class Done:
    signal = None


def test_predict_writes_all_that_is_asked_for(run, images, tmp_path, capsys) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "coco")}
    args = ["detect", "predict", str(images), "--model", run, "--save", str(tmp_path / "drawn"), *CPU]
    args += ["--json-file", str(files["json"]), "--csv-file", str(files["csv"]), "--coco-file", str(files["coco"])]
    main([*args, "--yolo", str(tmp_path / "labels"), "--threshold", "0.1"])
    printed = capsys.readouterr()
    assert printed.out.count("drawn: ") == 4
    assert printed.err.count("skipped ") == 1
    assert "1b.png" in printed.err
    rows = json.loads(files["json"].read_text())
    assert sorted(Path(row["image"]).name for row in rows) == ["0.png", "0.png", "1.png", "2.png"]
    assert all(set(COLOURS) >= {o["class"] for o in row["objects"]} for row in rows)
    found = [o for row in rows for o in row["objects"]]
    assert found
    assert all(o["score"] >= 0.1 and "outlines" in o for o in found)
    results = json.loads(files["coco"].read_text())
    assert len(results) == len(found)
    assert {r["category_id"] for r in results} <= set(CATEGORY_IDS.values())
    by_class = {name: sum(o["class"] == name for o in found) for name in COLOURS}
    assert {n: sum(r["category_id"] == CATEGORY_IDS[n] for r in results) for n in COLOURS} == by_class
    assert all("segmentation" in r for r in results)
    table = list(csv.DictReader(files["csv"].open()))
    assert [row["class"] for row in table] == [o["class"] for o in found]
    drawn = sorted(str(p.relative_to(tmp_path / "drawn")) for p in (tmp_path / "drawn").rglob("*.png"))
    assert drawn == ["0-found.png", "1-found.png", "2-found.png", "below/0-found.png"]
    labels = sorted((tmp_path / "labels").rglob("*.txt"))
    lines = [line for file in labels if file.name != "classes.txt" for line in file.read_text().splitlines()]
    assert len(lines) == len(found)
    assert {int(line.split()[0]) for line in lines} <= {0, 1}
    assert (tmp_path / "labels" / "classes.txt").read_text().split() == list(COLOURS)


def test_eval_in_tiles(run, rectangles, tmp_path, capsys) -> None:
    file = tmp_path / "a.json"
    common = ["detect", "eval", run, str(rectangles), "--splits", "val", "--json-file", str(file), *CPU]
    notes = {}
    for tile in ("48", "0"):
        main([*common, "--tile", tile, "--overlap", "0.3", "--batch-size", "2"])
        notes[tile] = json.loads(file.read_text())["splits"]["val"]["notes"]
    said = "pictures were looked at in tiles of 48 pixels"
    assert said in notes["48"]
    assert said not in notes["0"]
    assert f"val: {said}" in capsys.readouterr().out
    assert "tile is 3:" in fails(capsys, *common, "--tile", "3")
    assert "overlap is 1" in fails(capsys, *common, "--tile", "48", "--overlap", "1")


def test_predict_in_other_ways(run, images, tmp_path, capsys, monkeypatch) -> None:
    """A pattern, boxes alone, some classes, polygons, tiles."""
    common = ["--model", run, "--threshold", "0.05", "--json-file", str(tmp_path / "a.json"), *CPU]

    def objects(*args: str) -> list[dict]:
        main(["detect", "predict", *args, *common])
        return [o for row in json.loads((tmp_path / "a.json").read_text()) for o in row["objects"]]

    pattern = str(images / "[0-2].png")
    everything = objects(pattern)
    assert {o["class"] for o in objects(pattern, "--classes", "red")} == {"red"}
    assert all("outlines" not in o for o in objects(pattern, "--no-masks"))
    assert len(objects(pattern, "--no-masks")) == len(everything)
    assert len(objects(pattern, "--batch-size", "1")) == len(everything)
    assert objects(pattern, "--image-size", "96")
    tiled = objects(pattern, "--tile", "64", "--overlap", "0.3")
    assert tiled
    assert all(0 <= v <= 80 for o in tiled for v in o["box"])
    main(["detect", "predict", pattern, "--yolo", str(tmp_path / "outlines"), "--polygons", *common])
    lines = [line for file in (tmp_path / "outlines").glob("[0-2].txt") for line in file.read_text().splitlines()]
    assert any(len(line.split()) > 6 for line in lines)
    error = fails(capsys, "detect", "predict", pattern, "--classes", "green", "reed", *common)
    assert error == "transnext: the model knows no class 'reed': did you mean 'red'?"
    assert "--polygons is for YOLO labels" in fails(capsys, "detect", "predict", pattern, "--polygons", *common)
    assert "no video is given" in fails(capsys, "detect", "predict", pattern, "--track", *common)
    assert "no image is given" in fails(capsys, "detect", "predict", *common)
    assert "no file" in fails(capsys, "detect", "predict", str(tmp_path / "gone.png"), *common)
    polygons = ["--yolo", str(tmp_path / "none"), "--polygons", *common]
    assert "--no-masks asks for boxes alone" in fails(capsys, "detect", "predict", pattern, "--no-masks", *polygons)
    ids = ["--image-ids", str(tmp_path / "ids.json"), *common]
    assert "add --coco-file" in fails(capsys, "detect", "predict", pattern, *ids)
    (tmp_path / "ids.json").write_text('{"images": [{"id": 1, "file_name": "0.png"}]}')
    ids += ["--coco-file", str(tmp_path / "none.json")]
    assert "1.png has no image id" in fails(capsys, "detect", "predict", pattern, *ids)
    again = [pattern, str(images / "below" / ".." / "0.png"), "--coco-file", str(tmp_path / "none.json"), *common]
    assert "0.png is given twice" in fails(capsys, "detect", "predict", *again)
    with monkeypatch.context() as patch:
        patch.setattr(Detection, "with_masks", False)
        assert "tells boxes alone, no outlines" in fails(capsys, "detect", "predict", pattern, *polygons)
    broken = str(images / "1b.png")
    capsys.readouterr()
    coco = tmp_path / "none.json"
    assert "nothing could be read of 1 files" in fails(
        capsys, "detect", "predict", broken, "--coco-file", str(coco), *common
    )
    assert not coco.exists()


def test_results_in_the_format_of_coco_are_those_of_the_annotations(run, rectangles, tmp_path) -> None:
    """An evaluation of theirs with the file gives the numbers of ours."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    file = tmp_path / "results.json"
    main(
        [
            "detect",
            "predict",
            str(rectangles / "train"),
            "--model",
            run,
            "--threshold",
            "0",
            "--coco-file",
            str(file),
            "--image-ids",
            str(rectangles / "annotations" / "instances_train.json"),
            "--coco-dataset",
            str(tmp_path / "set.json"),
            *CPU,
        ]
    )
    truth = COCO(str(rectangles / "annotations" / "instances_train.json"))
    ids = {image["file_name"]: image["id"] for image in truth.loadImgs(truth.getImgIds())}
    results = json.loads(file.read_text())
    assert all(row["image_id"] == ids[Path(row["file_name"]).name] for row in results)
    data = COCO(str(tmp_path / "set.json"))
    assert (len(data.imgs), len(data.anns)) == (len(truth.imgs), len(results))
    assert {data.cats[row["category_id"]]["name"] for row in data.anns.values()} == set(COLOURS)
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = json.loads((Path(run) / "results.json").read_text())["train"]["box"]
    assert evaluation.stats[0] == pytest.approx(ours["AP"], abs=2e-3)
    assert evaluation.stats[1] == pytest.approx(ours["AP50"], abs=2e-3)


def test_videos(run, clip, images, tmp_path, capsys) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "coco")}
    args = [
        "detect",
        "predict",
        str(clip),
        str(images / "0.png"),
        "--model",
        run,
        "--track",
        "--threshold",
        "0.2",
        *CPU,
    ]
    args += ["--save", str(tmp_path / "drawn"), "--json-file", str(files["json"]), "--csv-file", str(files["csv"])]
    main([*args, "--coco-file", str(files["coco"]), "--yolo", str(tmp_path / "labels")])
    out = capsys.readouterr().out
    assert out.count(" frame ") == 6
    rows = json.loads(files["json"].read_text())
    assert [row.get("frame") for row in rows] == [0, 1, 2, 3, 4, 5, None]
    assert rows[3]["time"] == pytest.approx(0.3)
    tracks = [o["track"] for row in rows[2:6] for o in row["objects"] if o["track"] is not None]
    assert Counter(tracks).most_common(1)[0][1] == 4  # frames in which the steadiest object is seen
    facts = video_facts(tmp_path / "drawn" / "clip-found.mp4")
    assert (facts.frames, facts.fps) == (6, 10)
    assert (tmp_path / "drawn" / "images" / "0-found.png").exists()
    table = list(csv.DictReader(files["csv"].open()))
    assert {row["frame"] for row in table} <= {*"012345", ""}
    assert len(table) == sum(len(row["objects"]) for row in rows)
    assert (tmp_path / "labels" / "clip_5.txt").exists() or list((tmp_path / "labels").rglob("clip_5.txt"))
    (tmp_path / "broken.mp4").write_bytes(clip.read_bytes()[:300])
    capsys.readouterr()
    main(["detect", "predict", str(tmp_path / "broken.mp4"), str(clip), "--model", run, *CPU])
    printed = capsys.readouterr()
    assert "broken.mp4" in printed.err
    assert printed.out.count(" frame ") == 6


def test_drawn_videos_replace_no_video_that_is_given(run, clip, capsys) -> None:
    """Not in a second run either, whose pattern names what the first one drew."""
    folder = clip.parent / "videos"
    folder.mkdir()
    shorter = folder / "clip-found.mp4"
    (folder / "clip.mp4").write_bytes(clip.read_bytes())
    write_video(shorter, (np.full((64, 80, 3), 120, np.uint8) for _ in range(3)), 10)
    before = shorter.read_bytes()
    args = ["detect", "predict", str(folder / "*.mp4"), "--model", run, "--save", str(folder), *CPU]
    main(args)
    assert capsys.readouterr().out.count(" frame ") == 6 + 3
    assert shorter.read_bytes() == before
    drawn = sorted(folder.glob("*.mp4"))
    assert len(drawn) == 4
    frames = {file.name: video_facts(file).frames for file in drawn}
    assert sorted(frames.values()) == [3, 3, 6, 6]
    contents = {file: file.read_bytes() for file in drawn}
    main(args)
    assert all(file.read_bytes() == content for file, content in contents.items())
    assert len(list(folder.glob("*.mp4"))) == 8


def test_the_video_example_of_the_documentation(run, clip, monkeypatch) -> None:
    monkeypatch.chdir(clip.parent)
    clip.rename("street.mp4")
    text = (Path(__file__).parents[3] / "docs" / "detection.md").read_text(encoding="utf-8")
    (example,) = (part.split("```")[0] for part in text.split("```python\n") if "video_writer(" in part.split("```")[0])
    exec(example, {"detector": Detector(run)})
    assert video_facts("found.mp4").frames == 6


def test_check(rectangles, tmp_path, capsys) -> None:
    for command in (["check"], ["detect", "check"]):
        file = tmp_path / f"{len(command)}.json"
        main([*command, str(rectangles), "--json-file", str(file)])
        out = capsys.readouterr().out
        assert "COCO" in out
        assert "train" in out
        assert json.loads(file.read_text())
    data = rectangle_set(tmp_path / "set", train=4, val=2)
    (data / "train" / "001.png").write_bytes(b"no image")
    main(["check", str(data)])
    assert "001.png" in capsys.readouterr().out
    main(["check", str(data), "--no-pixels"])
    capsys.readouterr()
    assert "no annotations that are known" in fails(capsys, "check", str(data / "train"))
    (data / "annotations" / "instances_train.json").write_text("{")
    assert "line 1" in fails(capsys, "check", str(data))
    assert "there is no folder or file" in fails(capsys, "check", str(tmp_path / "gone"))


def test_preview(rectangles, tmp_path, capsys) -> None:
    page = tmp_path / "page.html"
    args = ["detect", "train", str(rectangles), "--augment", "strong", "--image-size", "64", "--preview", str(page)]
    main([*args, "--output", str(tmp_path / "run")])
    assert "8 training pictures" in capsys.readouterr().out
    text = page.read_text()
    assert text.count("<img") >= 1 or text.count("data:image") >= 1
    assert not (tmp_path / "run").exists()
    first = page.read_bytes()
    main([*args, "--output", str(tmp_path / "run")])
    assert page.read_bytes() == first
    assert "page.html" in fails(capsys, *args[:-1], str(tmp_path / "gone" / "page.html"))


def test_formats_of_data(tmp_path, capsys) -> None:
    """YOLO and Pascal VOC train like COCO."""
    yolo, voc = tmp_path / "yolo", tmp_path / "voc"
    source = open_detection(rectangle_set(tmp_path / "coco", train=4, val=2))
    for split, found in source.items():
        for i in range(len(found)):
            name, annotation = f"{split}{i}", found.target(i)
            height, width = annotation.size
            for image in (yolo / "images" / split / f"{name}.png", voc / "JPEGImages" / f"{name}.png"):
                image.parent.mkdir(parents=True, exist_ok=True)
                found.load(i).save(image)
            lines, objects = [], ""
            for label, (x0, y0, x1, y1) in zip(annotation.labels.tolist(), annotation.boxes.tolist(), strict=True):
                centre = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height)
                lines.append(f"{label} {centre[0]} {centre[1]} {(x1 - x0) / width} {(y1 - y0) / height}")
                corners = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
                objects += f"<object><name>{found.classes[label]}</name><bndbox>{corners}</bndbox></object>"
            (yolo / "labels" / split).mkdir(parents=True, exist_ok=True)
            (yolo / "labels" / split / f"{name}.txt").write_text("\n".join(lines))
            (voc / "Annotations").mkdir(exist_ok=True)
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            (voc / "Annotations" / f"{name}.xml").write_text(
                f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"
            )
            (voc / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
            with (voc / "ImageSets" / "Main" / f"{split}.txt").open("a") as file:
                file.write(f"{name}\n")
    (yolo / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [green, red]\n")
    for data in (yolo, voc):
        args = ["detect", "train", str(data), "--output", str(tmp_path / "runs" / data.name), "--image-size", "64"]
        main([*args, "--epochs", "1", "--batch-size", "2", "--workers", "0", "--tracker", "none", *CPU])
        assert "val" in capsys.readouterr().out


def test_models_of_other_tasks_are_refused_in_a_line(run, images, rectangles, tmp_path, capsys) -> None:
    image = str(images / "0.png")
    classifier = "transnext_pico.emoji"
    said = f"{classifier} is a model of classification, not a detector"
    assert said in fails(capsys, "detect", "predict", image, "--model", classifier, *CPU)
    assert "use transnext detect predict" in fails(capsys, "predict", image, "--model", run, *CPU)
    assert said in fails(capsys, "detect", "eval", classifier, str(rectangles), *CPU)
    for study in ("corruptions", "sizes"):
        error = fails(capsys, "study", study, run, str(rectangles), *CPU)
        assert f"{study} can be measured of classifiers" in error
    assert "does not average mirror images" in fails(capsys, "eval", run, str(rectangles), "--flip", *CPU)
    assert "neither a run folder" in fails(capsys, "detect", "predict", image, "--model", "no_such", *CPU)
    photos = tmp_path / "photos"
    for name in ("a", "b"):
        (photos / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(photos / name / "x.png")
    assert "no annotations that are known" in fails(
        capsys, "detect", "train", str(photos), "--output", str(tmp_path / "r"), *CPU
    )
    assert "no annotations that are known" in fails(capsys, "detect", "eval", run, str(photos), *CPU)
    assert "tells no outlines" in fails(
        capsys, "detect", "train", str(rectangles), "--output", str(tmp_path / "r"), "--detector", "d_fine",
        "--masks", "True", *CPU,
    )  # fmt: skip
    assert not (tmp_path / "r").exists()


MISSING = {
    "faster_coco_eval": ["train"],
    "supervision": ["train", "predict"],
    "pycocotools": ["train", "predict", "check"],
    "transformers": ["train"],
    "trackers": ["track"],
    "av": ["track"],
}


@pytest.mark.parametrize(("package", "command"), [(p, c) for p, commands in MISSING.items() for c in commands])
def test_packages_that_are_missing(
    package, command, run, rectangles, images, clip, tmp_path, capsys, monkeypatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else real(name, *a))
    args = {
        "train": ["train", str(rectangles), "--output", str(tmp_path / "r"), "--detector", "d_fine", *CPU],
        "predict": ["predict", str(images / "0.png"), "--model", run, *CPU],
        "check": ["check", str(rectangles)],
        "track": ["predict", str(clip), "--model", run, "--track", *CPU],
    }[command]
    if package == "av":  # a video that cannot be read is skipped, and then nothing is left
        args.remove("--track")
    assert f'needs {package}: pip install "transnext[detect]"' in fails(capsys, "detect", *args)
    assert not (tmp_path / "r").exists()


def test_what_is_printed_is_not_cut_off(run, images, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    main(["detect", "predict", str(images / "0.png"), "--model", run, *CPU])
    assert str(images / "0.png") in capsys.readouterr().out
    assert os.environ["COLUMNS"] == "30"


def test_info_says_how_the_backbone_runs(run, capsys) -> None:
    main(["info", run])
    assert "blocks" in capsys.readouterr().out


def test_a_backbone_without_stochastic_depth(rectangles, tmp_path, capsys) -> None:
    args = ["detect", "train", str(rectangles), "--model", "vgg11", "--output", str(tmp_path / "r"), *CPU]
    assert "vgg11 has no stochastic depth: use --drop-path 0" in fails(capsys, *args)
    config = rectangle_config(rectangles, tmp_path / "r", model="vgg11", drop_path=0.0, masks=False)
    assert build_net(open_task(config)[0], config).backbone.strides == [4, 8, 16, 32]
