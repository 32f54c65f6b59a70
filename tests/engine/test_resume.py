"""A run that goes on is the same run: what is taken from it, and what must be as it was."""

import dataclasses
import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from transnext.cli import main
from transnext.engine import TrainConfig, train, trainer
from transnext.engine.resume import LEFT_OUT, MAY_CHANGE, ON_REQUEST, going_on
from transnext.engine.run_folder import RunFolder
from transnext.models.checkpoint import read_checkpoint, save_checkpoint
from transnext.models.variants import WEIGHTS

FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}
# Of each option another value than the default, for those that are not numbers or switches.
OTHER = {
    "data": "/other",
    "model": "transnext_nano",
    "output": "/other",
    "micro_batch_size": 3,
    "image_size": 96,
    "crop_pct": 0.5,
    "crop_mode": "squash",
    "checkpoint": "/a.safetensors",
    "optimizer": "muon",
    "schedule": "constant",
    "auto_augment": "",
    "crop_scale": (0.3, 0.9),
    "precision": "bf16",
    "strategy": "fsdp",
    "cache": "memory",
    "device": "cpu",
    "nan": "skip",
    "tracker": "none",
}


def another(field: dataclasses.Field) -> object:
    if field.name in OTHER:
        return OTHER[field.name]
    if isinstance(field.default, bool):
        return not field.default
    return field.default / 2 if isinstance(field.default, float) and field.default else field.default + 1


@pytest.fixture
def started() -> TrainConfig:
    return TrainConfig(data="/photos", output="/run")


@pytest.fixture(autouse=True)
def _no_report(monkeypatch) -> None:
    monkeypatch.setattr(trainer.Trainer, "_write_report", lambda self, results: None)  # takes longer than the training


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_compared_but_for_those_that_are_listed(started, name) -> None:
    """A new option is compared too: only the lists decide."""
    old, changed = dataclasses.asdict(started), dataclasses.replace(started, **{name: another(FIELDS[name])})
    if name in MAY_CHANGE:
        assert going_on(old, changed, run=Path("/run")) == changed
        return
    with pytest.raises(ValueError, match=f"^/run was started with (no )?--{name.replace('_', '-')}") as raised:
        going_on(old, changed, run=Path("/run"))
    assert "\n" not in str(raised.value)
    assert f"{another(FIELDS[name])}".strip("(),").split(",")[0] in str(raised.value) or another(FIELDS[name]) is True
    if name in ON_REQUEST:
        assert f"--accept-changed {name}" in str(raised.value)
        assert going_on(old, changed, run=Path("/run"), accepted=[name]) == changed
    else:
        assert "start another run from its weights with --checkpoint" in str(raised.value)
        with pytest.raises(ValueError, match=f"accept_changed is '{name}': expected some of"):
            going_on(old, changed, run=Path("/run"), accepted=[name])


def test_the_lists_name_options() -> None:
    assert FIELDS.keys() >= MAY_CHANGE | LEFT_OUT | ON_REQUEST
    assert not LEFT_OUT & (MAY_CHANGE | ON_REQUEST)
    assert MAY_CHANGE & ON_REQUEST == {"data"}


def test_all_differences_stand_in_one_line(started) -> None:
    old = dataclasses.asdict(dataclasses.replace(started, balanced=True, image_size=64))
    with pytest.raises(ValueError, match="/run was started with") as raised:
        going_on(old, started, run=Path("/run"))
    assert "--balanced (now no --balanced) and --image-size 64 (now no --image-size)" in str(raised.value)


def test_where_the_first_weights_came_from_need_not_be_said_again(started) -> None:
    for values in ({"pretrained": True}, {"checkpoint": "/gone.safetensors"}):
        config = dataclasses.replace(started, **values)
        assert going_on(dataclasses.asdict(config), started, run=Path("/run")) == config
        assert going_on(dataclasses.asdict(config), config, run=Path("/run")) == config


@pytest.fixture
def short(config) -> TrainConfig:
    return dataclasses.replace(config, batch_size=12, tracker="none", auto_augment="", epochs=1)


def stopped_at_once(config: TrainConfig, monkeypatch) -> Path:
    """A run that ends after its first update."""
    call = trainer.Updater.__call__

    def stop(self, *args):
        signal.raise_signal(signal.SIGTERM)
        return call(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Updater, "__call__", stop)
        assert train(config, quiet=True).interrupted
    return Path(config.output)


def test_another_optimizer_is_refused_both_ways(short, monkeypatch) -> None:
    for first, second in (("adamw", "muon"), ("muon", "adamw")):
        config = dataclasses.replace(short, optimizer=first, output=f"{short.output}-{first}")
        run = stopped_at_once(config, monkeypatch)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=rf"started with --optimizer {first} \(now --optimizer {second}\)"):
            train(dataclasses.replace(config, optimizer=second), resume="auto", quiet=True)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        train(config, resume="auto", quiet=True)


def metadata(run: Path) -> dict:
    return read_checkpoint(run / "last.safetensors").metadata


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize("old", [False, True])
def test_the_model_comes_from_the_run(short, tmp_path, monkeypatch, from_file, old) -> None:
    """Also when the file of the first weights is gone, and from runs of versions whose checkpoints did not say it."""
    given = {"pretrained": True, "model": "transnext_pico.emoji"}
    if from_file:
        file = Path(shutil.copy(WEIGHTS / "transnext_pico_emoji.safetensors", tmp_path))
        given = {"checkpoint": str(file)}
    config = dataclasses.replace(short, image_size=96, epochs=2, **given)
    train(dataclasses.replace(config, output=f"{config.output}-whole"), quiet=True)
    run = stopped_at_once(config, monkeypatch)
    assert metadata(run)["model_args"]["pretrain_size"] == [64, 64]
    if from_file:
        file.unlink()
    if old:
        for state_file in run.glob("checkpoints/*/state.pt"):
            state = torch.load(state_file, weights_only=True)
            torch.save({k: v for k, v in state.items() if k not in ("model_args", "preprocessing")}, state_file)
            values = {"state.pt": {"bytes": state_file.stat().st_size, "sha256": _sha256(state_file)}}
            state_file.with_name("manifest.json").write_text(json.dumps({"files": values}))

    train(dataclasses.replace(config, pretrained=False, checkpoint=None), resume="auto", quiet=True)
    assert metadata(run) == metadata(Path(f"{run}-whole"))
    assert metadata(run)["model_args"]["pretrain_size"] == [64, 64]
    saved = TrainConfig.load(run / "config.json")
    assert (saved.pretrained, saved.checkpoint) == (config.pretrained, config.checkpoint)
    a, b = (load_file(f"{run}{which}/last.safetensors") for which in ("", "-whole"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_changes_that_are_accepted_have_effect(short, monkeypatch) -> None:
    config = dataclasses.replace(short, epochs=2, schedule="constant", warmup_epochs=0.0)
    run = stopped_at_once(config, monkeypatch)
    faster = dataclasses.replace(config, lr=2e-3, epochs=3)
    with pytest.raises(ValueError, match=r"--epochs 2 \(now --epochs 3\) and --lr 0.001 .*--accept-changed epochs lr$"):
        train(faster, resume="auto", quiet=True)
    rows = train(faster, resume="auto", accept_changed=["lr", "epochs"], quiet=True).history
    assert [row["lr"] for row in rows] == [1e-3, 2e-3, 2e-3]
    assert TrainConfig.load(run / "config.json").lr == 2e-3
    train(faster, resume="auto", quiet=True)


def test_options_that_are_not_given_are_those_of_the_run(short, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    args = [
        "train",
        "photos",
        "--image-size",
        "32",
        "--batch-size",
        "12",
        "--epochs",
        "2",
        "--seed",
        "5",
        "--ema",
        "0.5",
    ]
    args += ["--balanced", "--workers", "0", "--device", "cpu", "--tracker", "none", "--output", "runs/a"]
    main(args)
    shutil.rmtree("runs/a/checkpoints/000000004")
    for resumed in (["train", "photos"], ["train"]):
        main([*resumed, "--output", "runs/a", "--resume", "auto"])
        assert "Going on from runs/a/checkpoints/" in capsys.readouterr().out
    main(["train", "--output=runs/b", "--resume=runs/a/checkpoints/000000002"])
    assert load_file("runs/b/last.safetensors").keys() == load_file("runs/a/last.safetensors").keys()
    a, b = (TrainConfig.load(Path(f"runs/{name}/config.json")) for name in "ab")
    assert dataclasses.replace(a, output=b.output) == b
    with pytest.raises(SystemExit):
        main(["train", "photos", "--output", "runs/a", "--resume", "auto", "--no-balanced"])
    assert "runs/a was started with --balanced (now no --balanced)" in capsys.readouterr().err
