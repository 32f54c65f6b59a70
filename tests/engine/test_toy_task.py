"""Another task with the same engine: nothing in it knows of classes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.mean_colour import ColourConfig
from transnext.cli import main
from transnext.config import TrainConfig
from transnext.engine import trainer
from transnext.engine.evaluation import evaluate
from transnext.engine.run_folder import RunFolder
from transnext.engine.signals import Stopped
from transnext.engine.trainer import train
from transnext.engine.update import Updater
from transnext.predict import Predictor

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def colour(config) -> TrainConfig:
    options = config.but(crop_scale=(1.0, 1.0), auto_augment="", color_jitter=0.0, epochs=30, lr=0.1, weight_decay=0.0)
    return TrainConfig(
        data=options.data,
        output=options.output,
        epochs=30,
        batch_size=8,
        task=ColourConfig(),
        images=options.images,
        optim=options.optim,
        run=options.run,
    )


def test_it_learns_and_reports(colour, tmp_path, capsys) -> None:
    result = train(colour, quiet=True)
    assert result.results[1].error < 0.03
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] / 10
    assert result.history[-1].keys() >= {"train_distance", "val_error"}
    page = result.report.read_text()
    assert "Here they would be." in page
    assert "mean error" in page
    folder = RunFolder(result.folder)
    assert folder.config() == colour.with_absolute_paths()
    assert json.loads(folder.results_file.read_text())["val"] == {"error": result.results[1].error}
    best = min(result.history, key=lambda row: row["val_error"])
    assert result.results[1].error == pytest.approx(best["val_error"], abs=1e-6)
    again = evaluate(result.folder, colour.data, splits=["val"], workers=0, device="cpu")
    assert again[0].error == pytest.approx(result.results[1].error, abs=1e-6)
    answers = list(Predictor(result.folder).stream([f"{colour.data}/red/0.png", "gone.png"]))
    assert (answers[0]["colour"] - torch.tensor([220, 40, 40]) / 255).abs().max() < 0.1
    assert answers[1].reason == "there is no such file"
    with pytest.raises(ValueError, match="answers of colour have no options top_k"):
        Predictor(result.folder)([], top_k=3)
    for option in (["--top-k", "2"], ["--look", str(tmp_path / "looks")]):
        with pytest.raises(SystemExit):
            main(["predict", f"{colour.data}/red/0.png", "--model", str(result.folder), *option])
        assert "answers of colour have no options" in capsys.readouterr().err


def test_it_goes_on_to_the_same_weights(colour, tmp_path, monkeypatch) -> None:
    colour = colour.but(epochs=2, checkpoint_every=1)
    train(colour.but(output=str(tmp_path / "whole")), quiet=True)
    original, updates = Updater.__call__, 0

    def stop(self, *args):
        nonlocal updates
        updates += 1
        if updates == 4:
            raise Stopped(15)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "__call__", stop)
        train(colour, quiet=True)
    train(colour, resume="auto", quiet=True)
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(ValueError, match=r"was started with --power 2 \(now --power 1\)"):
        train(colour.but(power=1), resume="auto", quiet=True)


def test_an_unreadable_image_is_left_out(colour) -> None:
    Path(colour.data, "red", "0.png").write_bytes(b"no image")
    result = train(colour.but(epochs=1), quiet=True)
    assert sum(r.num_images for r in result.results) == 29
    assert "0.png" in (result.folder / "skipped.txt").read_text()


def test_two_processes_are_one(colour, tmp_path, monkeypatch) -> None:
    colour = colour.but(epochs=2, drop_path=0.0, tracker="none", patience=0)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "write_report", lambda *_: None)
        train(colour.but(output=str(tmp_path / "one")), quiet=True)
    (tmp_path / "config.json").write_text(colour.but(output=str(tmp_path / "two")).to_json())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tests.helpers.mean_colour; from pathlib import Path;"
        "from transnext.config import TrainConfig; from transnext.engine import train;"
        "train(TrainConfig.load(Path(sys.argv[2])), quiet=True)"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command += [str(REPOSITORY), str(tmp_path / "config.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[0]["val"]["error"] == pytest.approx(results[1]["val"]["error"], rel=1e-4)
