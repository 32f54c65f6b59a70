"""Segmentation with the engine: what a run leaves behind, and that it is the same however interrupted or divided."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import transnext
from tests.helpers.coloured_maps import NAMES, SIZE, coloured_config, coloured_set
from transnext.cli import main
from transnext.data.class_names import kept_places
from transnext.engine import train, trainer
from transnext.engine.build import build_net, open_task
from transnext.engine.evaluation import evaluate
from transnext.loaded import load
from transnext.models.checkpoint import read_tensors
from transnext.tasks.segmentation.losses import PixelLoss, class_weights
from transnext.tasks.segmentation.starting import HEADS
from transnext.tasks.task import task_class

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return coloured_set(tmp_path_factory.mktemp("coloured") / "set")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Any:
    """A run that has learned what the colours are called, with its page."""
    return train(coloured_config(data, tmp_path_factory.mktemp("run") / "a", epochs=12))


@pytest.fixture
def no_report(monkeypatch) -> None:
    monkeypatch.setattr(trainer, "write_report", lambda *_: None)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_says_what_it_is(run) -> None:
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"] / 2
    assert {r.split: r.num_images for r in run.results} == {"train": 6, "val": 3}
    assert {r.split: r.mean_iou for r in run.results}["val"] > 0.8
    saved = read_tensors(run.folder / "best.safetensors")[1]
    assert (saved["task"], saved["class_names"]) == ("segmentation", list(NAMES))
    assert saved["model_args"]["segmenter"] == "upernet"
    assert saved["preprocessing"]["input_size"] == [3, 64, 64]
    page = run.report.read_text(encoding="utf-8")
    for said in ("3 classes of pixels", *NAMES, "mIoU", "Worst and best pictures"):
        assert said in page


def test_evaluation_again_gives_the_numbers_of_the_run(run, data) -> None:
    for again in evaluate(run.folder, str(data), workers=0):
        expected = json.loads((run.folder / "results.json").read_text())[again.split]
        assert again.to_dict()["confusion"] == expected["confusion"]
        assert again.mean_iou == pytest.approx(expected["mIoU"], abs=1e-12)


def test_ignored_pixels_do_not_count(run) -> None:
    for result in run.results:
        assert result.pixels == result.num_images * (SIZE[0] - 3) * SIZE[1]


def test_answers_lie_on_the_picture(run, data, tmp_path) -> None:
    segmenter = transnext.Segmenter(run.folder)
    file = data / "images" / "val" / "val0.png"
    found, again = segmenter([str(file), np.asarray(Image.open(file))], confidence=True)
    true = np.asarray(Image.open(data / "labels" / "val" / "val0.png"))
    assert (found.labels == true)[true != 255].mean() > 0.9
    assert np.array_equal(found.labels, again.labels)
    assert found.confidence.shape == found.labels.shape
    assert 1 / 3 <= found.confidence.min() <= found.confidence.max() <= 1
    assert np.array_equal(found.mask("red"), found.labels == 2)
    assert sum(row["share"] for row in found.to_dict()["classes"]) == pytest.approx(1)
    assert {name for name, _ in found.polygons()} == {NAMES[i] for i in np.unique(found.labels)}
    assert found.draw(Image.open(file)).width > SIZE[0]
    with pytest.raises(ValueError, match="knows no class 'blue'"):
        found.mask("blue")
    with pytest.raises(ValueError, match="no options thresh"):
        segmenter(str(file), thresh=1)
    with pytest.raises(ValueError, match="not a detector"):
        transnext.Detector(run.folder)


def test_a_batch_has_the_answers_of_single_pictures(run, data) -> None:
    segmenter = transnext.Segmenter(run.folder)
    files = sorted(map(str, (data / "images" / "val").glob("*.png")))
    together = segmenter(files, batch_size=3, confidence=True)
    for file, found in zip(files, together, strict=True):
        (alone,) = segmenter(file, confidence=True)
        np.testing.assert_allclose(found.confidence.astype(float), alone.confidence.astype(float), atol=2e-3)
        assert (found.labels == alone.labels).mean() > 0.999


def test_files_of_predict(run, data, tmp_path, capsys) -> None:
    outputs = {name: tmp_path / f"found.{name}" for name in ("json", "csv", "geojson", "coco")}
    options = [item for name, path in outputs.items() for item in (f"--{name}-file", str(path))]
    folders = ["--save", str(tmp_path / "drawn"), "--labels", str(tmp_path / "labels")]
    main(["segment", "predict", str(data / "images" / "val"), "--model", str(run.folder), *folders, *options])
    assert capsys.readouterr().out.count("ground") == 3
    labels = sorted((tmp_path / "labels").glob("*.png"))
    assert [np.asarray(Image.open(file)).shape for file in labels] == [(SIZE[1], SIZE[0])] * 3
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 3
    assert [row["size"] for row in json.loads(outputs["json"].read_text())] == [[SIZE[1], SIZE[0]]] * 3
    assert len(outputs["csv"].read_text().splitlines()) == 1 + 3 * len(NAMES)
    features = json.loads(outputs["geojson"].read_text())["features"]
    assert {feature["properties"]["class"] for feature in features} == set(NAMES)
    assert len(json.loads(outputs["coco"].read_text())["images"]) == 3


def test_a_picture_of_one_tile_has_the_map_of_the_network_itself(run, data) -> None:
    segmenter = transnext.Segmenter(run.folder, image_size=96)
    picture = np.asarray(Image.open(data / "images" / "val" / "val0.png"))
    large = segmenter.large(data / "images" / "val" / "val0.png", tile=96)
    assert large.size == picture.shape[:2]
    true = np.asarray(Image.open(data / "labels" / "val" / "val0.png"))
    assert (large.labels == true)[true != 255].mean() > 0.8


@pytest.mark.parametrize("segmenter", ["upernet", "mask2former"])
def test_the_same_options_give_the_same_bits(segmenter, data, tmp_path, no_report) -> None:
    options: dict[str, Any] = {"segmenter": segmenter, "augment": "light", "epochs": 1, "model": "resnet18"}
    options |= {"pretrained": False, "image_size": 32}
    runs = [train(coloured_config(data, tmp_path / name, **options)).folder for name in ("a", "b")]
    assert same(*(load_file(folder / "last.safetensors") for folder in runs))


def test_weights_of_classes_reach_the_loss_and_are_kept(data, tmp_path, no_report) -> None:
    config = coloured_config(data, tmp_path / "a", class_weights="data", loss="cross_entropy+dice", epochs=1)
    result = train(config)
    task, sources = open_task(config)
    expected = class_weights(sources["train"].pixels[:, :-1].sum(0))
    assert expected[1] > 1 > expected[0]
    criterion = load(result.folder).model.criterion
    assert isinstance(criterion, PixelLoss)
    assert criterion.names == ["cross_entropy", "dice"]
    assert torch.equal(criterion.weights, expected)
    with pytest.raises(ValueError, match="2 class_weights for 3 classes"):
        build_net(task, config.but(class_weights=(1.0, 2.0)))


def test_fine_tuning_to_other_classes_keeps_those_of_the_same_name(run, data, tmp_path) -> None:
    (other := coloured_set(tmp_path / "other")).joinpath("classes.txt").write_text("red\nsky\nGround\n")
    config = coloured_config(
        other, tmp_path / "b", pretrained=False, checkpoint=str(run.folder / "best.safetensors"), head_size="small"
    )
    task, _ = open_task(config)
    net = task.build(config)
    assert any("red, Ground are kept" in note and "sky are new" in note for note in task.notes)
    before = load(run.folder).model.decode_head.classifier.weight
    after = net.decode_head.classifier.weight
    assert torch.equal(after[0], before[2])
    assert torch.equal(after[2], before[0])
    assert not torch.equal(after[1], before[1])
    with pytest.raises(ValueError, match="give --segmenter upernet"):
        task.build(config.but(segmenter="mask2former"))
    with pytest.raises(ValueError, match="give --head-size small"):
        task.build(config.but(head_size="released"))


def test_a_network_is_built_again_from_what_a_checkpoint_says(run) -> None:
    net = load(run.folder).model
    again = HEADS.rebuilt("transnext_pico", json.loads(json.dumps(HEADS.model_args(net))))
    assert HEADS.model_args(again) == HEADS.model_args(net)
    with pytest.raises(ValueError, match="no segmenter on transnext_pico can be built"):
        HEADS.rebuilt("transnext_pico", {"segmenter": "upernet"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--class-weights", "1", "2"], "2 class_weights for 3 classes"),
        (["--loss", "dice", "--class-weights", "data"], "loss dice takes no class_weights"),
        (["--segmenter", "mask2former", "--loss", "dice"], "mask2former has losses of its own"),
        (["--window-stride", "30"], "window_stride is 30"),
        (["--crop", "64", "--augment", "none"], "crop is 64"),
        (["--schedule", "poly", "--poly-power", "0"], "poly_power is 0"),
        (["--model", "vit_tiny_patch16_224"], "strides"),
    ],
)
def test_what_cannot_be_is_said(arguments, said, data, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["segment", "train", str(data), "--output", str(tmp_path / "run"), "--device", "cpu", *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert said in " ".join(error.split())
    assert "Traceback" not in error


def test_a_page_of_training_pictures(data, tmp_path, capsys) -> None:
    main(["segment", "train", str(data), "--preview", str(tmp_path / "p.html"), "--workers", "0", "--device", "cpu"])
    assert "training pictures" in capsys.readouterr().out
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count("<figure>") >= 6
    assert "ignored" in page


def test_what_training_was_told_of_zero_holds_in_evaluation(data, tmp_path, capsys, no_report) -> None:
    def pixels(sources: Any) -> dict[str, int]:
        return dict(sources["val"].class_pixels())

    (named := coloured_set(tmp_path / "set")).joinpath("classes.txt").write_text("green\nred\n")
    config = coloured_config(named, tmp_path / "run", reduce_zero_label=True, epochs=1)
    run = train(config)
    trained = pixels(open_task(config)[1])
    loaded = load(run.folder)
    assert pixels(loaded.task.sources(str(named), 0.2, 0)) == trained
    said = [np.asarray(Image.open(file)) for file in sorted((named / "labels" / "val").glob("*.png"))]
    assert trained == {"green": sum((m == 1).sum() for m in said), "red": sum((m == 2).sum() for m in said)}
    # Values that a class file names need no saying.
    (other := coloured_set(tmp_path / "other")).joinpath("classes.txt").write_text("7 sky\n1 green\n2 red\n")
    assert pixels(loaded.task.sources(str(other), 0.2, 0)) == trained
    counted = {}
    for name, option in {
        "own": [],
        "said": ["--reduce-zero-label", "True"],
        "other": ["--reduce-zero-label", "False"],
    }.items():
        options = ["--workers", "0", "--device", "cpu", "--json-file", str(tmp_path / f"{name}.json"), *option]
        main(["segment", "eval", str(run.folder), str(named), "--splits", "val", *options])
        counted[name] = json.loads((tmp_path / f"{name}.json").read_text())["splits"]["val"]["confusion"]
    assert counted["own"] == counted["said"]
    assert [sum(row) for row in counted["own"]] == list(trained.values())
    assert [sum(row) for row in counted["other"]] == [sum((m == n).sum() for m in said) for n in (0, 1)]
    with pytest.raises(SystemExit):
        main(["segment", "eval", str(run.folder), str(other), "--splits", "val", "--reduce-zero-label", "True"])
    assert "names alone" in " ".join(capsys.readouterr().err.split())


def test_a_check_of_the_maps(data, tmp_path, capsys) -> None:
    main(["segment", "check", str(data), "--json-file", str(tmp_path / "c.json")])
    assert "maps of classes" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["splits"]["train"]["images"] == 6


def test_classification_has_no_heads() -> None:
    with pytest.raises(ValueError, match="no head on a backbone"):
        task_class("classification").heads()


def test_names_of_classes_match_as_in_evaluation() -> None:
    kept = kept_places(["traffic light", "Cat", "cat"], ["dog", "CAT", "traffic_light"])
    assert kept == {1: 1, 2: 0}, "of equal names the first counts"
    assert kept_places(["A", "a", "B"], ["a", "A", "b", "B"]) == {0: 1, 1: 0, 3: 2}, "the very name counts first"
