import base64
import functools
import io
import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transnext.data.datasets import EmojiImages
from transnext.engine import train
from transnext.engine.run_folder import RunFolder
from transnext.models.checkpoint import read_checkpoint, save_checkpoint
from transnext.studies import report as run_report
from transnext.studies.report import report
from transnext.tasks.classification import present
from transnext.tasks.classification.present import examples_section
from transnext.tasks.classification.task import Classification
from transnext.tasks.task import Look


@pytest.fixture
def run(config):
    train(config, quiet=True)
    return config.output


def test_what_was_measured_stays_until_the_weights_change(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    page = folder / "report.html"
    basic = page.read_text(encoding="utf-8")
    assert "Calibration" in basic
    assert "Image sizes" not in basic
    fewer = {"measure_robustness": {"corruptions": ("fog",)}, "measure_scales": {"scales": (1,)}}
    for name, options in fewer.items():
        monkeypatch.setattr(run_report, name, functools.partial(getattr(run_report, name), **options))
    assert report(run, robustness=True, scales=True, workers=0, device="cpu") == page
    full = page.read_text(encoding="utf-8")
    for part in ("Image sizes", "Corrupted images", "GMACs per image", "fog"):
        assert part in full
    assert json.loads((folder / "scales.json").read_text())["trained_size"] == 32
    assert json.loads((folder / "robustness.json").read_text())["images"] == 8

    report(run, workers=0, device="cpu")
    assert "Image sizes" in page.read_text(encoding="utf-8")

    best = folder / "best.safetensors"
    checkpoint = read_checkpoint(best)
    save_checkpoint(best, {k: v + 0.01 for k, v in checkpoint.state_dict.items()}, checkpoint.metadata)
    report(run, workers=0, device="cpu")
    assert "Image sizes" not in page.read_text(encoding="utf-8")


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        report(tmp_path)


def evaluated(run) -> dict:
    return json.loads((run / "results.json").read_text())["val"]


@pytest.mark.parametrize("old", [False, True])
def test_a_report_is_of_the_images_of_the_run_wherever_it_is_asked_for(config, tmp_path, monkeypatch, old):
    """Even where there is a folder of the same name, and for runs whose paths were not absolute."""
    monkeypatch.chdir(tmp_path)
    run = train(config.but(data="photos", output="runs/a", epochs=1), quiet=True).folder.absolute()
    values = json.loads((run / "config.json").read_text())
    assert values["data"] == str(tmp_path / "photos")
    assert values["given"] == {"data": "photos", "output": "runs/a"}
    assert "transnext_pico on photos" in (run / "report.html").read_text()
    if old:
        (run / "config.json").write_text(json.dumps({**values, **values.pop("given")}))
        shutil.rmtree(run / "checkpoints")
    before = evaluated(run)
    for name in ("blue", "green", "red"):
        (tmp_path / "elsewhere" / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "elsewhere" / "photos" / name / "0.png")
    monkeypatch.chdir(tmp_path / "elsewhere")
    report(run, workers=0, device="cpu")
    assert {**evaluated(run), "images_per_second": 0} == {**before, "images_per_second": 0}

    run.rename("moved")
    if old:
        with pytest.raises(
            ValueError, match="moved calls its data 'photos' and does not say where: name them with --da"
        ):
            report("moved", workers=0, device="cpu")
    report("moved", data="../photos", workers=0, device="cpu")
    assert {**evaluated(Path("moved")), "images_per_second": 0} == {**before, "images_per_second": 0}
    assert "transnext_pico on ../photos" in Path("moved/report.html").read_text()


def test_images_that_have_changed_are_not_evaluated_unasked(config, photos):
    run = train(config.but(epochs=1), quiet=True).folder
    before = (run / "results.json").read_bytes()
    for i in (0, 1, 2, 3):
        (photos / "red" / f"{i}.png").unlink()
    with pytest.raises(
        ValueError, match=r"photos is not what .*run was trained on: .*without red/.*name them with --data"
    ):
        report(run, workers=0, device="cpu")
    assert (run / "results.json").read_bytes() == before
    report(run, data=str(photos), workers=0, device="cpu")
    results = json.loads((run / "results.json").read_text())
    assert sum(split["images"] for split in results.values()) == 26


def test_attention_lies_over_the_picture_that_the_model_saw(config, tmp_path, monkeypatch):
    """An image of 3:2 with a bright square at a known place, of which the middle is cut out."""
    pixels = np.full((120, 180, 3), 20, np.uint8)
    pixels[50:70, 100:120] = 250
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "wide" / split / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / "wide" / split / name / "0.png")
    values = {"data": str(tmp_path / "wide"), "image_size": 96, "crop_pct": 0.75, "batch_size": 2, "epochs": 1}
    run = train(config.but(**values), quiet=True).folder

    def bright_places(model, images):
        """For "attention", what is bright in the input."""
        grey = images.mean(1)
        return (grey > grey.mean(dim=(1, 2), keepdim=True) + grey.std()).float()

    monkeypatch.setattr(present, "where_it_looks", bright_places)
    shown = []
    monkeypatch.setattr(present, "page_sections", lambda results, names, examples: shown.extend(examples) or [])
    report(run, workers=0, device="cpu")
    # The shorter side is 96 / 0.75 = 128 pixels of 120: 192 x 128, of which columns 48..144 and rows 16..112 are kept.
    top, left, bottom, right = (
        round(v * 128 / 120) - offset for v, offset in ((50, 16), (100, 48), (70, 16), (120, 48))
    )
    assert len(shown) == 2
    for example in shown:
        assert example.image.size == example.heat.shape[::-1] == (96, 96)
        seen = np.asarray(example.image.convert("L"))
        for found in (seen > 130, example.heat > 0):
            rows, cols = np.nonzero(found)
            assert (
                np.abs(
                    np.array([rows.min(), cols.min(), rows.max() + 1, cols.max() + 1]) - [top, left, bottom, right]
                ).max()
                <= 2
            )
        assert seen[top + 3 : bottom - 3, left + 3 : right - 3].min() > 240
        assert seen[: top - 4].max() < 30
    page = examples_section(shown[:1])
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    ]
    assert [picture.size for picture in pictures] == [(96, 96)] * 2
    assert page.count('width="96" height="96"') == 2
    # Beside the square the ring of the query, in the middle, is bright in the second one.
    overlaid = np.asarray(pictures[1].convert("L"), np.int16)
    assert overlaid[top + 2 : bottom - 2, left + 2 : right - 2].min() > 140
    assert overlaid[: top - 4].max() < 60
    assert overlaid[:, right + 8 :].max() < 60


def test_results_are_whole_or_not_there(config, monkeypatch):
    """As is every other file of a run folder: each is written beside its place first."""
    run = train(config.but(epochs=1), quiet=True).folder
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert {path.name for path in before} >= {"results.json", "config.json", "metrics.jsonl", "report.html"}

    def full(self, text, **options):
        self.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    folder = RunFolder(run)
    writes = {
        "results.json": lambda: folder.write_results([]),
        "metrics.jsonl": lambda: folder.write_history([{"epoch": 1}]),
        "config.json": lambda: folder.write_config(folder.config(), folder.config()),
        "skipped.txt": lambda: folder.write_skipped({"a": "b"}),
        "nan_batch.txt": lambda: folder.write_nan_batch(["a"]),
        "report.html": lambda: run_report.write_run_report(
            folder,
            Classification(metadata={"class_names": []}),
            Look(net=torch.nn.Identity(), splits={"val": EmojiImages("val")}, preprocessing=None),
            [],
        ),
    }
    monkeypatch.setattr(Path, "write_text", full)
    for name, write in writes.items():
        with pytest.raises(OSError, match="No space left"):
            write()
        assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before, name


def test_names_that_are_not_utf_8(config, photos, tmp_path):
    """Such a class and such images, one of them damaged: the page and all lists are valid text."""
    odd = os.fsdecode(b"caf\xe9")
    (photos / "red").rename(photos / odd)
    (photos / odd / "0.png").rename(photos / odd / os.fsdecode(b"\xff\n.png"))
    (photos / odd / "1.png").write_bytes(b"no image")
    (photos / "blue" / "1.png").rename(photos / "blue" / os.fsdecode(b"\xfe.png"))
    run = train(config.but(epochs=1), quiet=True).folder
    train(config.but(epochs=1), quiet=True, resume="auto")
    report(run, workers=0, device="cpu")
    for name in ("report.html", "skipped.txt", "results.json", "config.json", "metrics.jsonl"):
        (run / name).read_bytes().decode("utf-8")
    assert len((run / "skipped.txt").read_text().splitlines()) == 1
    ElementTree.fromstring((run / "report.html").read_text().partition("\n")[2])
    RunFolder(run).write_nan_batch([f"{odd}/1.png"])
    assert RunFolder(run).nan_file.read_text() == "caf\\udce9/1.png\n"
