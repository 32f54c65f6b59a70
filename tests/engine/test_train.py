import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import transnext
from transnext.config import TrainConfig
from transnext.engine import evaluate, train
from transnext.engine.update import Updater
from transnext.models.checkpoint import read_checkpoint
from transnext.models.variants import WEIGHTS


def signalling(update, number):
    """An `Updater` that sends a signal to its own process in an update, counted from 1."""
    original, updates = Updater.__call__, 0

    def call(self, *args):
        nonlocal updates
        updates += 1
        if updates == update:
            signal.raise_signal(number)
        return original(self, *args)

    return call


def test_a_run_leaves_everything_it_promises(config) -> None:
    result = train(config, quiet=True)
    folder = result.folder
    assert TrainConfig.load(folder / "config.json") == config
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) >= {"lr", "train_loss", "train_accuracy", "val_loss", "val_top1", "images_per_second"}
    assert list((folder / "tensorboard").rglob("events*"))
    assert "<html" in (folder / "report.html").read_text()
    assert [r.split for r in result.results] == ["train", "val"]
    assert json.loads((folder / "results.json").read_text())["val"]["top1"] == result.results[1].top1
    assert not (folder / "skipped.txt").exists()

    again = evaluate(folder, config.data, workers=0, device="cpu")
    assert [r.top1 for r in again] == [r.top1 for r in result.results]
    assert again[1].confusion.sum() == again[1].num_images == result.results[1].num_images

    answer = transnext.Predictor(folder)(config.data + "/red/0.png", look=True)[0]
    assert set(answer.classes) == {"blue", "green", "red"}
    assert sum(answer.probabilities) == pytest.approx(1, abs=1e-5)
    assert answer.heat.shape == (32, 32)


def test_it_learns(config) -> None:
    config = config.but(epochs=6, mix_prob=0.0, auto_augment="", color_jitter=0.0, erasing=0.0)
    assert train(config, quiet=True).results[0].top1 > 0.9


def test_the_same_seed_gives_the_same_weights(config, tmp_path) -> None:
    train(config, quiet=True)
    train(config.but(output=str(tmp_path / "again"), workers=1), quiet=True)
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in ("run", "again"))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "extra", [{}, {"ema": 0.9}, {"micro_batch_size": 4}, {"precision": "bf16"}, {"optimizer": "muon"}]
)
def test_an_interrupted_run_goes_on_to_the_same_weights(config, tmp_path, monkeypatch, extra) -> None:
    config = config.but(epochs=3, **extra)
    train(config.but(output=str(tmp_path / "whole")), quiet=True)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "__call__", signalling(3, signal.SIGINT))  # in the first update of the second epoch
        stopped = train(config, quiet=True)
    assert stopped.interrupted
    assert stopped.report.exists()
    assert len(stopped.history) == 1

    resumed = train(config, resume=True, quiet=True)
    assert not resumed.interrupted
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_resuming_a_finished_run_changes_no_weights(config) -> None:
    folder = train(config, quiet=True).folder
    before = (folder / "last.safetensors").read_bytes()
    assert len(train(config, resume=True, quiet=True).history) == 2
    assert (folder / "last.safetensors").read_bytes() == before


def test_resuming_nothing_starts(config) -> None:
    assert len(train(config, resume=True, quiet=True).history) == 2


def test_a_run_is_not_overwritten(config) -> None:
    train(config.but(epochs=1), quiet=True)
    with pytest.raises(ValueError, match="already holds a run: add --resume auto"):
        train(config, quiet=True)
    with pytest.raises(
        ValueError,
        match=r"started with --model transnext_pico \(now --model transnext_nano\) and --epochs 1 \(now",
    ):
        train(config.but(model="transnext_nano"), resume=True, quiet=True)


def test_an_unreadable_image_is_skipped_and_listed(config, photos) -> None:
    (photos / "red" / "0.png").write_bytes(b"not an image")
    whole = (photos / "blue" / "1.png").read_bytes()
    (photos / "blue" / "1.png").write_bytes(whole[: len(whole) // 2])
    result = train(config, quiet=True)
    listed = (result.folder / "skipped.txt").read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in listed) == [str(photos / "blue/1.png"), str(photos / "red/0.png")]
    assert sum(r.num_images for r in result.results) == 28
    assert sum(len(r.skipped) for r in result.results) == 2


def test_nothing_readable_is_an_error(config, photos) -> None:
    for file in photos.rglob("*.png"):
        file.write_bytes(b"not an image")
    with pytest.raises(ValueError, match="no training image could be read; the first"):
        train(config, quiet=True)


def test_all_kinds_of_images_train(config, photos) -> None:
    rng = np.random.default_rng(1)
    grey = Image.fromarray(rng.integers(0, 255, (50, 40), np.uint8))
    grey.save(photos / "red" / "grau-ü-日本.png")
    grey.convert("P").save(photos / "red" / "palette.gif")
    grey.convert("RGBA").save(photos / "green" / "alpha.webp")
    grey.convert("CMYK").save(photos / "green" / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65535, (50, 40), np.uint16)).save(photos / "blue" / "deep.png")
    Image.new("RGB", (1, 1)).save(photos / "blue" / "dot.png")
    result = train(config, quiet=True)
    assert sum(r.num_images for r in result.results) == 36
    assert not any(r.skipped for r in result.results)


def test_a_loss_that_is_not_a_number_stops_the_run(config) -> None:
    with pytest.raises(ValueError, match="is not finite"):
        train(config.but(lr=1e30, epochs=5, clip_grad=0.0), quiet=True)


def test_other_models_of_timm_train(config) -> None:
    result = train(config.but(model="resnet10t", epochs=1), quiet=True)
    assert len(result.history) == 1


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"data": "no/such/folder"}, FileNotFoundError, "no/such/folder"),
        ({"model": "transnext_gigantic"}, ValueError, "no model is called 'transnext_gigantic'"),
        ({"device": "tpu"}, ValueError, "device is 'tpu'"),
        ({"precision": "fp16"}, ValueError, "needs a GPU"),
        ({"checkpoint": "none.safetensors"}, FileNotFoundError, "none.safetensors"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(config, tmp_path, values, error, message) -> None:
    with pytest.raises(error, match=message):
        train(config.but(**values), quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_on_the_command_line(config, tmp_path) -> None:
    command = [sys.executable, "-m", "transnext", "train", config.data, "--output", str(tmp_path / "cli")]
    command += ["--image-size", "32", "--batch-size", "8", "--epochs", "1000", "--workers", "1", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "cli" / "metrics.jsonl"
    deadline = time.time() + 120
    while time.time() < deadline and not (metrics.exists() and len(metrics.read_text().splitlines()) > 1):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume auto goes on" in out
    assert "Traceback" not in err
    assert (tmp_path / "cli" / "report.html").exists()
    assert (tmp_path / "cli" / "best.safetensors").exists()


def test_fine_tuning_keeps_the_coordinates_of_the_weights(config, tmp_path) -> None:
    first = train(config.but(epochs=1), quiet=True).folder / "last.safetensors"
    tuned = config.but(
        epochs=1,
        image_size=64,
        checkpoint=str(first),
        lr=0.0,
        warmup_lr=0.0,
        min_lr=0.0,
        output=str(tmp_path / "b"),
    )
    folder = train(tuned, quiet=True).folder
    assert read_checkpoint(folder / "last.safetensors").metadata["model_args"]["pretrain_size"] == [32, 32]
    image = config.data + "/red/0.png"
    before, after = (transnext.Predictor(path, image_size=64)(image)[0] for path in (first, folder))
    assert before.probabilities == pytest.approx(after.probabilities, abs=1e-5)


def test_a_classifier_of_other_classes_is_left_out(config) -> None:
    result = train(config.but(checkpoint=str(WEIGHTS / "transnext_pico_emoji.safetensors")), quiet=True)
    assert result.results[0].confusion.shape == (3, 3)


def test_a_class_that_appears_before_resuming_is_named(config, photos) -> None:
    config = config.but(epochs=1)
    train(config, quiet=True)
    (photos / "yellow").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), (240, 230, i)).save(photos / "yellow" / f"{i}.png")
    with pytest.raises(ValueError, match="now has blue, green, red, yellow"):
        train(config, resume=True, quiet=True)


def test_a_refused_run_leaves_nothing_behind_for_the_next(config) -> None:
    with pytest.raises(ValueError, match="auto_augment"):
        train(config.but(auto_augment="nonsense"), quiet=True)
    train(config.but(epochs=1, precision="bf16"), quiet=True)


def test_models_of_a_fixed_size_train_at_another(config) -> None:
    """The checkpoint says which; what cannot take another size is refused before there is a folder."""
    config = config.but(model="vit_tiny_patch16_224", image_size=64, epochs=1, drop_path=0.0)
    folder = train(config, quiet=True).folder
    assert transnext.load(folder).model.patch_embed.img_size == (64, 64)
    assert [result.split for result in evaluate(folder, config.data, workers=0, device="cpu")] == ["train", "val"]
    other = config.but(model="maxvit_nano_rw_256", output=f"{config.output}-b")
    with pytest.raises(
        ValueError, match="maxvit_nano_rw_256 takes images of its own size alone: leave out --image-size 64"
    ):
        train(other, quiet=True)
    assert not Path(other.output).exists()


def test_what_an_epoch_leaves_out_is_said(config, capsys) -> None:
    train(config.but(batch_size=15, epochs=1))
    assert "15 of 22 training images are seen in an epoch" in capsys.readouterr().out
