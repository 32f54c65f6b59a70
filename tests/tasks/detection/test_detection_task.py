"""Detection with the engine: what a run leaves behind, and that it is the same however interrupted or divided."""

import json
import math
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import transnext
from tests.helpers.rectangles import CATEGORY_IDS, COLOURS, rectangle_config, rectangle_set
from transnext.config import TrainConfig
from transnext.engine import train, trainer
from transnext.engine.build import build_net, open_task
from transnext.engine.evaluation import evaluate
from transnext.engine.optim import make_optimizer
from transnext.engine.run_folder import RunFolder
from transnext.loaded import load
from transnext.models.checkpoint import read_tensors
from transnext.studies.report import report as report_again
from transnext.tasks.detection.looking import looking_at
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.detection.starting import HEADS
from transnext.tasks.detection.task import Detection

PROCESSES = Path(__file__).with_name("processes_driver.py")

pytestmark = pytest.mark.usefixtures("one_thread")

DETECTORS = {
    "outlines": {"detector": "mask_rcnn"},
    "boxes": {"detector": "mask_rcnn", "masks": False},
    "dino": {"detector": "dino"},
    "d_fine": {"detector": "d_fine"},
}


@pytest.fixture
def no_report(monkeypatch) -> None:
    monkeypatch.setattr(trainer, "write_report", lambda *_: None)  # takes longer than the training


def weights(run: Path | str, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(Path(run) / f"{name}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_numbers(a, b, path="") -> None:
    """Nested plain values are equal, speed aside."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a.keys() - {"images_per_second"}:
            same_numbers(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            same_numbers(one, other, f"{path}/{i}")
    else:
        # Scores of another batch: float32 sums in another order.
        assert a == (pytest.approx(b, abs=5e-6) if isinstance(b, float) else b), path


def test_it_learns(trained) -> None:
    _, result = trained
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] / 2
    train_split, val = result.results
    assert train_split.boxes.summary["AP50"] > 0.8
    assert val.boxes.summary["AP50"] > 0.5
    assert val.masks is not None


def test_columns_of_the_history(trained) -> None:
    _, result = trained
    row = result.history[-1]
    parts = [name for name in row if name.startswith("train_") and name != "train_loss"]
    assert {"train_proposal_objectness", "train_proposal_boxes"} <= set(parts)
    assert row["train_loss"] == pytest.approx(sum(row[name] for name in parts), rel=1e-5)
    for name in ("mask_AP", "mask_AP50", "mask_AP75", "AP", "AP50", "AP75", "AR", "F1", "threshold"):
        assert f"val_{name}" in row
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 31))


def test_the_page_is_well_formed_and_has_all_sections(trained) -> None:
    _, result = trained
    page = result.report.read_text(encoding="utf-8")
    root = ET.fromstring(page.replace("<!doctype html>", "").replace("<!DOCTYPE html>", ""))
    ids = {element.get("id") for element in root.iter()}
    assert {"average-precision", "precision-recall", "confusion", "mistakes", "attention"} <= ids
    for said in ("2 classes", "boxes and outlines", *COLOURS):
        assert said in page


def test_results_and_what_the_checkpoint_says(trained, rectangles) -> None:
    config, result = trained
    results = json.loads((result.folder / "results.json").read_text())
    assert set(results) == {"train", "val"}
    assert results["val"]["images"] == 4
    assert [c["category_id"] for c in results["val"]["classes"]] == list(CATEGORY_IDS.values())
    saved = read_tensors(result.folder / "best.safetensors")[1]
    assert saved["task"] == "detection"
    assert saved["class_names"] == list(COLOURS)
    assert saved["category_ids"] == list(CATEGORY_IDS.values())
    assert saved["with_masks"] is True
    assert saved["architecture"] == "transnext_pico.emoji"
    assert saved["preprocessing"]["input_size"] == [3, 64, 64]
    assert saved["model_args"]["detector"] == "mask_rcnn"
    assert 0 < saved["val_threshold"] < 1
    best = max(result.history, key=lambda row: row["val_mask_AP"])
    assert saved["val_AP"] == best["val_AP"]
    assert RunFolder(result.folder).config() == config.with_absolute_paths()


def test_evaluation_gives_the_numbers_of_training(trained, rectangles, tmp_path) -> None:
    """Of all splits, with the threshold of validation, by the commands and in Python."""
    _, result = trained
    before = json.loads((result.folder / "results.json").read_text())
    assert before["train"]["threshold"] == before["val"]["threshold"]
    assert before["val"]["threshold"] == pytest.approx(before["val"]["best_threshold"])
    for again in (
        evaluate(result.folder, rectangles, workers=0, device="cpu"),
        evaluate(result.folder, rectangles, workers=1, batch_size=1, device="cpu"),
    ):
        same_numbers({r.split: r.to_dict() for r in again}, before)
    from transnext.cli import main

    for command in (["eval"], ["detect", "eval"]):
        file = tmp_path / f"{len(command)}.json"
        args = [str(result.folder), str(rectangles), "--workers", "0", "--device", "cpu", "--json-file", str(file)]
        main([*command, *args])
        same_numbers(json.loads(file.read_text())["splits"], before)


def test_the_page_is_made_again(trained, rectangles) -> None:
    _, result = trained
    before = (result.folder / "results.json").read_text()
    page = result.report.read_text(encoding="utf-8")
    report_again(result.folder, workers=0, device="cpu")
    same_numbers(json.loads((result.folder / "results.json").read_text()), json.loads(before))
    assert len(result.report.read_text(encoding="utf-8")) == pytest.approx(len(page), rel=0.02)
    for study in ("robustness", "scales"):
        with pytest.raises(ValueError, match="classif") as raised:
            report_again(result.folder, workers=0, device="cpu", **{study: True})
        assert "\n" not in str(raised.value)


def test_a_set_that_was_not_trained_on_is_evaluated_whole(trained, tmp_path) -> None:
    """Other images are not divided, and may lack a class or the outlines."""
    _, result = trained
    other = rectangle_set(tmp_path / "other", train=5, val=0, outlines=False, seed=5)
    (found,) = evaluate(result.folder, other, workers=0, device="cpu")
    assert (found.split, found.num_images) == ("all", 5)
    assert found.masks is None
    split = evaluate(result.folder, other, splits=["train", "val"], workers=0, device="cpu")
    assert [r.num_images for r in split] == [4, 1]


def test_data_that_name_fewer_classes_than_the_model(trained, tmp_path) -> None:
    _, result = trained
    other = rectangle_set(tmp_path / "other", train=4, val=0, seed=5)
    file = other / "annotations" / "instances_train.json"
    data = json.loads(file.read_text())
    data["categories"] = [one for one in data["categories"] if one["name"] == "red"]
    data["annotations"] = [one for one in data["annotations"] if one["category_id"] == CATEGORY_IDS["red"]]
    file.write_text(json.dumps(data))
    (found,) = evaluate(result.folder, other, workers=0, device="cpu")
    assert "do not name green" in found.notes[0]
    green = list(found.classes).index("green")
    assert (found.outcomes.label == green).any()
    assert not found.confusion[:, green].any()


def test_answers(trained, rectangles) -> None:
    _, result = trained
    detector = transnext.Detector(result.folder)
    images = [Image.open(file) for file in sorted((rectangles / "train").glob("*.png"))]
    found = detector(images)
    truth = json.loads((rectangles / "annotations" / "instances_train.json").read_text())
    threshold = detector.loaded.task.threshold
    right = 0
    for number, answer in enumerate(found, 1):
        assert (answer.scores >= threshold).all()
        assert answer.size == (64, 80)
        own = [a for a in truth["annotations"] if a["image_id"] == number]
        for annotation in own:
            x, y, w, h = annotation["bbox"]
            name = next(n for n, i in CATEGORY_IDS.items() if i == annotation["category_id"])
            near = np.abs(answer.xyxy - [x, y, x + w, y + h]).max(1) < 6
            right += any(near & (np.array(answer.class_names) == name)) if len(answer) else 0
    assert right >= 0.6 * len(truth["annotations"])
    (reds,) = detector(images[0], classes=["red"], masks=False, threshold=0.0)
    assert set(reds.class_names) == {"red"}
    assert reds.mask is None
    with pytest.raises(ValueError, match="no class 'reed': did you mean 'red'"):
        detector(images[0], classes=["reed"])
    with pytest.raises(ValueError, match="answers of a detector have no options top_k"):
        detector(images[0], top_k=3)
    for wrong in ({"threshold": 1.5}, {"tile": 3}, {"overlap": 0.95}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            detector(images[0], **wrong)


@pytest.mark.parametrize("kind", DETECTORS)
def test_every_detector_is_the_same_when_it_is_opened_again(kind, tmp_path, no_report, monkeypatch) -> None:
    """Also how many objects it finds at most, which follows the data."""
    data = rectangle_set(tmp_path / "set", train=4, val=2)
    task = Detection.open(rectangle_config(data, tmp_path / "x", **DETECTORS[kind]))[0]
    assert task.metadata["most_objects"] == 2
    made: list[DetectionNet] = []
    build = Detection.build

    def crowded(self, config, saved_args=None):
        net = build(replace_most(self, 350), config, saved_args)
        made.append(net)
        return net

    monkeypatch.setattr(Detection, "build", crowded)
    config = rectangle_config(data, tmp_path / "run", **DETECTORS[kind])
    run = train(config, quiet=True).folder
    limit = max(400, made[0].max_detections)
    assert made[0].max_detections == limit == 400
    loaded = load(run)
    assert loaded.model.max_detections == 400
    assert loaded.model.detector == DETECTORS[kind]["detector"]
    assert same(dict(loaded.model.state_dict()), weights(run, "best"))
    images = torch.randn(2, 3, 64, 96)
    sizes = torch.tensor([[64, 96], [50, 64]])
    trained_net = made[0].eval()
    trained_net.load_state_dict(weights(run, "best"))
    with torch.no_grad():
        for ours, theirs in zip(trained_net(images, sizes), loaded.model(images, sizes), strict=True):
            assert torch.equal(ours.boxes, theirs.boxes)
            assert torch.equal(ours.scores, theirs.scores)
            assert torch.equal(ours.labels, theirs.labels)
    again = HEADS.rebuilt("transnext_pico", json.loads(json.dumps(HEADS.model_args(loaded.model))))
    assert HEADS.model_args(again) == HEADS.model_args(loaded.model)
    few = build_net(task, config.but(max_detections=3))
    assert few.max_detections == 3
    assert HEADS.rebuilt("transnext_pico", HEADS.model_args(few)).max_detections == 3


def replace_most(task: Detection, most: int) -> Detection:
    return Detection(metadata={**task.metadata, "most_objects": most}, notes=task.notes)


def interrupted(config: TrainConfig, monkeypatch, at: int) -> None:
    """Trains up to an update, at whose end the run is asked to stop."""
    call = trainer.Updater.__call__

    def stop(self, batches, update):
        if update == at:
            signal.raise_signal(signal.SIGTERM)
        return call(self, batches, update)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Updater, "__call__", stop)
        assert train(config, quiet=True).interrupted


@pytest.mark.parametrize("kind", ["outlines", "dino", "d_fine"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_goes_on_is_the_same(kind, workers, tmp_path, no_report, monkeypatch) -> None:
    """In the middle of an epoch, with pasted objects, an average of the weights and random depth."""
    data = rectangle_set(tmp_path / "set", train=4, val=2)
    more = {"copy_paste": 0.8} if kind == "outlines" else {}
    config = rectangle_config(
        data,
        tmp_path / "whole",
        epochs=2,
        workers=workers,
        augment="strong",
        ema=0.9,
        drop_path=0.2,
        repeat_factor=0.5,
        batch_size=2,
        **DETECTORS[kind],
        **more,
    )
    whole = train(config, quiet=True)
    parts = config.but(output=str(tmp_path / "parts"), workers=1 - workers)
    interrupted(parts, monkeypatch, 2)
    rest = train(parts.but(workers=workers), resume="auto", quiet=True)
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert same(weights(tmp_path / "parts", "best"), weights(tmp_path / "whole", "best"))
    times = {"seconds", "waiting", "images_per_second"}
    for a, b in zip(rest.history, whole.history, strict=True):
        assert {k: v for k, v in a.items() if k not in times} == {k: v for k, v in b.items() if k not in times}


def test_what_may_not_change_when_a_run_goes_on(rectangles, tmp_path, no_report, monkeypatch) -> None:
    data = rectangle_set(tmp_path / "set", train=4, val=2)
    config = rectangle_config(data, tmp_path / "run", epochs=2)
    interrupted(config, monkeypatch, 0)
    with pytest.raises(ValueError, match=r"started with --detector mask_rcnn \(now --detector dino\)"):
        train(config.but(detector="dino"), resume="auto", quiet=True)
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] -= 1
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotated in another way"):
        train(config, resume="auto", quiet=True)


def test_parts_of_a_batch_one_after_the_other(rectangles, tmp_path, no_report) -> None:
    """Divisors are those of each part, and what is sampled is sampled anew: the losses are alike, not equal."""
    runs = []
    for micro in (4, 2):
        config = rectangle_config(
            rectangles, tmp_path / f"run{micro}", micro_batch_size=micro, drop_path=0.0, augment="none", hflip=0.0
        )
        runs.append(train(config, quiet=True))
    assert weights(runs[0].folder).keys() == weights(runs[1].folder).keys()
    losses = [run.history[0]["train_loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=0.25)


def test_frozen_stages_keep_their_weights(rectangles, tmp_path, no_report) -> None:
    config = rectangle_config(
        rectangles, tmp_path / "run", freeze_stages=2, pretrained=True, model="transnext_pico.emoji", layer_decay=0.7
    )
    task, _ = open_task(config)
    start = {name: value.clone() for name, value in build_net(task, config).state_dict().items()}
    now = weights(train(config, quiet=True).folder)
    kept = [
        name for name in start if name.startswith(("backbone.body.model.stages.0.", "backbone.body.model.stages.1."))
    ]
    assert kept
    assert all(torch.equal(start[name], now[name]) for name in kept)
    moved = [name for name in start if "stages.3." in name and start[name].ndim > 1]
    assert all(not torch.equal(start[name], now[name]) for name in moved)


@pytest.mark.parametrize("kind", DETECTORS)
def test_rates_of_layers_and_of_the_backbone(kind, rectangles, tmp_path) -> None:
    own = dict(DETECTORS[kind])
    config = rectangle_config(rectangles, tmp_path / "x", layer_decay=0.5, **own)
    net = build_net(open_task(config)[0], config)
    names = {id(p): name for name, p in net.named_parameters()}
    scale = {names[id(p)]: g["lr_scale"] for g in make_optimizer(net, config).param_groups for p in g["params"]}
    assert scale.keys() == {name for name, p in net.named_parameters() if p.requires_grad}
    assert {s for name, s in scale.items() if not name.startswith("backbone.")} == {1.0}
    first, last = (f"backbone.body.model.stages.{i}.blocks.0.mlp.fc1.weight" for i in (0, 3))
    assert scale[first] < scale[last] < 1
    config = rectangle_config(rectangles, tmp_path / "x", backbone_lr=0.1, **own)
    scale = {names[id(p)]: g["lr_scale"] for g in make_optimizer(net, config).param_groups for p in g["params"]}
    assert scale[first] == scale[last] == 0.1
    assert {s for name, s in scale.items() if not name.startswith("backbone.")} == {1.0}
    full = {name for name, s in scale.items() if name.startswith("backbone.") and s == 1.0}
    assert bool(full) == (kind == "dino")


@pytest.mark.parametrize("kind", DETECTORS)
def test_less_memory_and_less_precision(kind, rectangles, tmp_path, no_report) -> None:
    """Activations that are computed twice change nothing, bfloat16 little."""
    config = rectangle_config(rectangles, tmp_path / "plain", drop_path=0.0, **DETECTORS[kind])
    plain = train(config, quiet=True)
    again = train(config.but(output=str(tmp_path / "again"), grad_checkpointing=True), quiet=True)
    assert again.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-3)
    low = train(config.but(output=str(tmp_path / "low"), precision="bf16"), quiet=True)
    assert low.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=0.1)
    assert all(torch.isfinite(value).all() for value in weights(low.folder).values())


def test_the_backbone_alone_is_compiled(rectangles, tmp_path, no_report, monkeypatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *a, **k: compiled.append(type(self).__name__))
    train(rectangle_config(rectangles, tmp_path / "run", compile=True), quiet=True)
    assert compiled == ["Backbone"]


@pytest.mark.slow
def test_it_trains_compiled(rectangles, tmp_path, no_report) -> None:
    config = rectangle_config(rectangles, tmp_path / "plain", drop_path=0.0)
    plain = train(config, quiet=True)
    fast = train(config.but(output=str(tmp_path / "compiled"), compile=True), quiet=True)
    assert fast.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-3)
    assert weights(fast.folder).keys() == weights(plain.folder).keys()


def test_unreadable_images_are_left_out(tmp_path) -> None:
    data = rectangle_set(tmp_path / "set", train=8, val=4)
    (data / "train" / "001.png").write_bytes((data / "train" / "001.png").read_bytes()[:200])
    (data / "val" / "000.png").write_bytes((data / "val" / "000.png").read_bytes()[:200])
    result = train(rectangle_config(data, tmp_path / "run"), quiet=True)
    assert [r.num_images for r in result.results] == [7, 3]
    said = (result.folder / "skipped.txt").read_text()
    assert "001.png" in said
    assert "000.png" in said


@pytest.mark.parametrize("kind", DETECTORS)
def test_batches_without_objects(kind, tmp_path, no_report) -> None:
    """Most batches have none; every parameter has a gradient all the same, as several processes need."""
    data = rectangle_set(tmp_path / "set", train=8, val=3, objects=(1, 0, 0, 0, 0, 0, 0, 0))
    config = rectangle_config(data, tmp_path / "run", batch_size=2, **DETECTORS[kind])
    result = train(config, quiet=True)
    assert math.isfinite(result.history[0]["train_loss"])
    task, sources = open_task(config)
    net = build_net(task, config)
    objective = task.objective(net, task.preprocessing(net, config), config)
    for batch in (objective.blank(torch.device("cpu")), with_objects(task, sources["train"], net, config)):
        net.zero_grad()
        losses = objective(*batch)
        torch.stack(list(losses.parts.values())).sum().backward()
        without = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []


def with_objects(task, source, net, config):
    images = task.images(source, task.preprocessing(net, config), config)
    sample = images[0]
    return sample.image[None], torch.tensor([sample.image.shape[1:]]), task.collate([sample.target])


def test_a_split_without_objects(tmp_path) -> None:
    data = rectangle_set(tmp_path / "set", train=6, val=2)
    shutil.copytree(data / "val", data / "test")
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    content["annotations"] = []
    (data / "annotations" / "instances_test.json").write_text(json.dumps(content))
    result = train(rectangle_config(data, tmp_path / "run"), quiet=True)
    assert [one.split for one in result.results] == ["train", "val", "test"]
    assert math.isnan(result.results[2].metrics["AP"].value)
    assert result.results[2].score == 0
    assert json.loads((result.folder / "results.json").read_text())["test"]["box"]["AP"] is None
    ET.fromstring(result.report.read_text().replace("<!doctype html>", "").replace("<!DOCTYPE html>", ""))
    assert len(transnext.Detector(result.folder)(data / "val")) == 2


def test_fewer_images_than_a_batch(tmp_path, no_report) -> None:
    data = rectangle_set(tmp_path / "set", train=3, val=1)
    result = train(rectangle_config(data, tmp_path / "run", batch_size=16), quiet=True)
    assert result.results[0].num_images == 3


def test_boxes_alone(tmp_path, no_report) -> None:
    data = rectangle_set(tmp_path / "set", train=4, val=2, outlines=False)
    with pytest.raises(ValueError, match="has boxes alone in train, val, no outlines: leave out --masks"):
        train(rectangle_config(data, tmp_path / "run", masks=True), quiet=True)
    result = train(rectangle_config(data, tmp_path / "run"), quiet=True)
    assert result.results[0].masks is None
    assert read_tensors(result.folder / "best.safetensors")[1]["with_masks"] is False
    assert not [name for name in weights(result.folder) if "mask" in name]
    with pytest.raises(ValueError, match="d_fine tells no outlines"):
        build_net(
            Detection.open(rectangle_config(rectangle_set(tmp_path / "b"), tmp_path))[0],
            rectangle_config(data, tmp_path, detector="d_fine").but(masks=None),
        )


def test_a_run_on_tiles_is_judged_in_tiles_then_and_later(trained, rectangles, tmp_path, no_report) -> None:
    _, before = trained
    options = {"checkpoint": str(before.folder / "best.safetensors"), "model": "transnext_pico", "train_tiles": 48}
    run = train(rectangle_config(rectangles, tmp_path / "run", lr=1e-6, min_lr=0.0, **options), quiet=True)
    assert read_tensors(run.folder / "best.safetensors")[1]["tile"] == 48
    again = evaluate(run.folder, rectangles, workers=0, device="cpu")
    for one, other in zip(run.results, again, strict=True):
        assert "pictures were looked at in tiles of 48 pixels" in one.notes
        same_numbers(one.to_dict(), other.to_dict())
    assert again[0].boxes.summary["AP50"] > 0.1
    model = load(run.folder)
    whole = evaluate(looking_at(model, tile=0), rectangles, workers=0, device="cpu")
    assert whole[0].boxes.summary != again[0].boxes.summary
    assert not any("tiles" in note for note in whole[0].notes)


@pytest.mark.parametrize("kind", [*DETECTORS, "tiles"])
def test_two_processes_train_and_evaluate_as_one(kind, tmp_path) -> None:
    """Images without objects are among them, so that each process has other numbers to divide by."""
    data = rectangle_set(tmp_path / "set", train=8, val=5, objects=(2, 0, 1, 1))
    options = {"drop_path": 0.0, "augment": "none", "hflip": 0.0, "ema": 0.9}
    options |= DETECTORS.get(kind, {**DETECTORS["boxes"], "train_tiles": 48})
    config = rectangle_config(data, tmp_path / "run", lr=1e-4, **options)
    (tmp_path / "config.json").write_text(config.to_json())
    done = subprocess.run(
        [sys.executable, str(PROCESSES), str(tmp_path / "config.json")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (tmp_path / f"run_{number}" for number in (1, 2))
    for run in (one, two):
        results = json.loads((run / "results.json").read_text())
        assert {split: r["images"] for split, r in results.items()} == {"train": 8, "val": 5}
        tiled = [note for r in results.values() for note in r["notes"] if "in tiles of 48 pixels" in note]
        assert len(tiled) == (2 if kind == "tiles" else 0)
    losses = [json.loads((run / "metrics.jsonl").read_text())["train_loss"] for run in (one, two)]
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    far = max(float((a[name].float() - b[name].float()).abs().max()) for name in a)
    print(losses, far)
    if kind == "d_fine":  # its batch norms see the images of their process alone
        assert losses[1] == pytest.approx(losses[0], rel=0.2)
    else:
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
        assert far < 3e-5  # of steps of 1e-4: where a gradient is rounding error, AdamW makes a step of it
