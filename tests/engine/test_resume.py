"""A run that goes on is the same run: what is taken from it, and what must be as it was."""

import dataclasses
import hashlib
import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from transnext.cli import main
from transnext.config import TrainConfig
from transnext.engine import train, trainer
from transnext.engine.checkpoints import load_state
from transnext.engine.resume import LEFT_OUT, MAY_CHANGE, ON_REQUEST, config_of_run, going_on
from transnext.engine.run_folder import RunFolder
from transnext.models.checkpoint import read_checkpoint
from transnext.models.variants import WEIGHTS

DEFAULTS = {name: value for name, value in TrainConfig(data="").options().items() if name != "task"}
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
    "milestones": (3,),
}
TOGETHER = {"milestones": {"schedule": "step"}}
"""Options that cannot be given alone."""


def another(name: str) -> object:
    if name in OTHER:
        return OTHER[name]
    default = DEFAULTS[name]
    if isinstance(default, bool):
        return not default
    return default / 2 if isinstance(default, float) and default else default + 1


@pytest.fixture
def started() -> TrainConfig:
    return TrainConfig.of(data="/photos", output="/run")


@pytest.fixture(autouse=True)
def _no_report(monkeypatch) -> None:
    monkeypatch.setattr(trainer, "write_report", lambda *_: None)  # takes longer than the training


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_option_is_compared_but_for_those_that_are_listed(started, name) -> None:
    """A new option is compared too: only the lists decide."""
    old, changed = started.options(), started.but(**{name: another(name)}, **TOGETHER.get(name, {}))
    if name in MAY_CHANGE:
        assert going_on(old, changed, Path("/run")) == changed
        return
    with pytest.raises(
        ValueError, match=f"^/run was started with (.* and )?(no )?--{name.replace('_', '-')}"
    ) as raised:
        going_on(old, changed, Path("/run"))
    assert "\n" not in str(raised.value)
    assert f"{another(name)}".strip("(),").split(",")[0] in str(raised.value) or another(name) is True
    if name in ON_REQUEST:
        assert re.search(f"--accept-changed .*{name}", str(raised.value))
        assert going_on(old, changed, Path("/run"), [name, *TOGETHER.get(name, {})]) == changed
    else:
        assert "start another run from its weights with --checkpoint" in str(raised.value)
        with pytest.raises(ValueError, match=f"accept_changed is '{name}': expected some of"):
            going_on(old, changed, Path("/run"), [name])


def test_the_lists_name_options() -> None:
    assert DEFAULTS.keys() >= MAY_CHANGE | LEFT_OUT | ON_REQUEST
    assert not LEFT_OUT & (MAY_CHANGE | ON_REQUEST)
    assert {"data"} == MAY_CHANGE & ON_REQUEST


def test_all_differences_stand_in_one_line(started) -> None:
    old = started.but(balanced=True, image_size=64).options()
    with pytest.raises(ValueError, match="/run was started with") as raised:
        going_on(old, started, Path("/run"))
    assert "--image-size 64 (now no --image-size) and --balanced (now no --balanced)" in str(raised.value)


def test_where_the_first_weights_came_from_need_not_be_said_again(started) -> None:
    for values in ({"pretrained": True}, {"checkpoint": "/gone.safetensors"}):
        config = started.but(**values)
        assert going_on(config.options(), started, Path("/run")) == config
        assert going_on(config.options(), config, Path("/run")) == config


@pytest.fixture
def short(config) -> TrainConfig:
    return config.but(batch_size=12, tracker="none", auto_augment="", epochs=1)


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
        config = short.but(optimizer=first, output=f"{short.output}-{first}")
        run = stopped_at_once(config, monkeypatch)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=rf"started with --optimizer {first} \(now --optimizer {second}\)"):
            train(config.but(optimizer=second), resume="auto", quiet=True)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        train(config, resume="auto", quiet=True)


def metadata(run: Path) -> dict:
    return read_checkpoint(run / "last.safetensors").metadata


@pytest.mark.parametrize(("from_file", "old"), [(True, True), (False, False)])
def test_the_model_comes_from_the_run(short, tmp_path, monkeypatch, from_file, old) -> None:
    """Also when the file of the first weights is gone, and from runs of versions whose checkpoints did not say it."""
    given = {"pretrained": True, "model": "transnext_pico.emoji"}
    if from_file:
        file = Path(shutil.copy(WEIGHTS / "transnext_pico_emoji.safetensors", tmp_path))
        given = {"checkpoint": str(file)}
    config = short.but(image_size=96, epochs=2, **given)
    train(config.but(output=f"{config.output}-whole"), quiet=True)
    run = stopped_at_once(config, monkeypatch)
    assert metadata(run)["model_args"]["pretrain_size"] == [64, 64]
    if from_file:
        file.unlink()
    if old:
        for path in run.glob("checkpoints/*/state.pt"):
            rewrite(path, lambda state: [state.pop(name) for name in ("model_args", "preprocessing")])

    train(config.but(pretrained=False, checkpoint=None), resume="auto", quiet=True)
    assert metadata(run) == metadata(Path(f"{run}-whole"))
    assert metadata(run)["model_args"]["pretrain_size"] == [64, 64]
    saved = TrainConfig.load(run / "config.json")
    assert (saved.start.pretrained, saved.start.checkpoint) == (config.start.pretrained, config.start.checkpoint)
    a, b = (load_file(f"{run}{which}/last.safetensors") for which in ("", "-whole"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def rewrite(state_file: Path, change) -> None:
    """Changes the state of a checkpoint, which is whole afterwards."""
    state = torch.load(state_file, weights_only=True)
    change(state)
    torch.save(state, state_file)
    data = state_file.read_bytes()
    files = {"state.pt": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    state_file.with_name("manifest.json").write_text(json.dumps({"files": files}))


def test_changes_that_are_accepted_have_effect(short, monkeypatch) -> None:
    config = short.but(epochs=2, schedule="constant", warmup_epochs=0.0)
    run = stopped_at_once(config, monkeypatch)
    faster = config.but(lr=2e-3, epochs=3)
    with pytest.raises(ValueError, match=r"--epochs 2 \(now --epochs 3\) and --lr 0.001 .*--accept-changed epochs lr$"):
        train(faster, resume="auto", quiet=True)
    rows = train(faster, resume="auto", accept_changed=["lr", "epochs"], quiet=True).history
    assert [row["lr"] for row in rows] == [1e-3, 2e-3, 2e-3]
    assert TrainConfig.load(run / "config.json").optim.lr == 2e-3
    train(faster, resume="auto", quiet=True)


@pytest.mark.parametrize("epochs", [1, 2])
def test_going_back_leaves_no_weights_of_epochs_that_are_discarded(short, epochs, monkeypatch) -> None:
    """Best and last weights are of the run as it now is, whatever scores the epochs had that are no more."""
    scores = iter([0.5, 0.6, 1.0])
    evaluate = trainer.Trainer._evaluate

    def scored(self, split, model):
        result = evaluate(self, split, model)
        return dataclasses.replace(result, top1=next(scores, 0.3)) if split == "val" else result

    monkeypatch.setattr(trainer.Trainer, "_evaluate", scored)
    config = short.but(epochs=3, keep=9)
    train(config, quiet=True)
    run = Path(config.output)
    assert read_checkpoint(run / "best.safetensors").metadata["epoch"] == 3
    first = sorted((run / "checkpoints").iterdir())[1]
    train(config.but(epochs=epochs), resume=first, accept_changed=["epochs"], quiet=True)
    best, last = (read_checkpoint(run / f"{which}.safetensors") for which in ("best", "last"))
    assert (best.metadata["epoch"], last.metadata["epoch"]) == (epochs, epochs)
    if epochs == 1:
        weights = load_state(first)["model"]
        assert all(torch.equal(last.state_dict[name], value) for name, value in weights.items())


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
    assert a.but(output=b.output) == b
    # Older versions wrote relative paths: they are of the folder that the run was started in.
    for path in Path("runs/a").glob("checkpoints/*/state.pt"):
        rewrite(path, lambda state: state["config"].update(data="photos", output="runs/a"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert config_of_run("auto", RunFolder("../runs/a")).data == str(tmp_path / "photos")
    shutil.copytree("../runs/a/checkpoints/000000002", "checkpoint")
    assert config_of_run(Path("checkpoint"), RunFolder("b")) is None
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "photos", "--output", "runs/a", "--resume", "auto", "--no-balanced"])
    assert "runs/a was started with --balanced (now no --balanced)" in capsys.readouterr().err


def remove(photos: Path) -> None:
    for i in range(9):
        (photos / "red" / f"{i}.png").unlink()


def add(photos: Path) -> None:
    for i in range(20):
        shutil.copy(photos / "red" / "0.png", photos / "blue" / f"new{i}.png")


def rename(photos: Path) -> None:
    (photos / "red" / "0.png").rename(photos / "red" / "x.png")


def move(photos: Path) -> None:
    (photos / "red" / "0.png").rename(photos / "blue" / "x.png")


@pytest.mark.parametrize(("change", "every"), [(remove, 1), (add, 1), (rename, 0), (move, 0)])
def test_images_that_have_changed_are_named_and_may_be_accepted(short, photos, monkeypatch, change, every) -> None:
    config = short.but(batch_size=4, epochs=2, checkpoint_every=every, keep=2, warmup_epochs=0.0)
    if every:
        run = stopped_at_once(config, monkeypatch)  # within an epoch
    else:
        run = train(config.but(epochs=2), quiet=True).folder
        shutil.rmtree(
            run / "checkpoints" / max(path.name for path in (run / "checkpoints").iterdir())
        )  # after the first epoch
    change(photos)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"photos is not what .*run was trained on: .* has .* images") as raised:
        train(config, resume="auto", quiet=True)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("add --accept-changed data to begin the epoch anew with those that are there")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    images = len(list(photos.rglob("*.png")))
    result = train(config, resume="auto", accept_changed=["data"], quiet=True)
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert sum(split.num_images for split in result.results) == images
    updates = result.results[0].num_images // 4
    names = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    assert names[-1] == 2 * updates
    # From then on it is a run like any other.
    last = load_file(run / "last.safetensors")
    shutil.rmtree(run / "checkpoints" / f"{names[-1]:09d}")
    train(config, resume="auto", quiet=True)
    assert all(torch.equal(value, last[name]) for name, value in load_file(run / "last.safetensors").items())


def test_the_best_so_far_is_measured_again_on_other_images(short, photos, monkeypatch) -> None:
    config = short.but(epochs=2, lr=0.0, warmup_lr=0.0, min_lr=0.0)
    run = train(config, quiet=True).folder
    shutil.rmtree(run / "checkpoints" / "000000002")
    rewrite(run / "checkpoints" / "000000001" / "state.pt", lambda state: state["progress"].update(best_score=0.99))
    add(photos)
    result = train(config, resume="auto", accept_changed=["data"], quiet=True)
    state = load_state(sorted((run / "checkpoints").iterdir())[-1])
    assert state["progress"]["best_score"] == result.results[1].top1 < 0.9


@pytest.mark.parametrize("path", ["photos/../photos/", "moved"])
def test_the_same_images_by_another_path(short, photos, tmp_path, monkeypatch, path) -> None:
    monkeypatch.chdir(tmp_path)
    config = short.but(data="photos", epochs=2)
    stopped_at_once(config, monkeypatch)
    train(config.but(output="whole"), quiet=True)
    if path == "moved":
        photos.rename("moved")
    run = train(config.but(data=path), resume="auto", quiet=True).folder
    assert TrainConfig.load(run / "config.json").data == str(tmp_path / ("moved" if path == "moved" else "photos"))
    a, b = (load_file(folder / "last.safetensors") for folder in (run, Path("whole")))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_branch_that_is_killed_at_once_goes_on_from_where_it_branched(short, tmp_path, monkeypatch) -> None:
    config = short.but(epochs=2)
    run = train(config, quiet=True).folder
    branch = config.but(output=str(tmp_path / "branch"))
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_epoch", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(branch, resume=run / "checkpoints" / "000000001", quiet=True)
    assert len(train(branch, resume="auto", quiet=True).history) == 2
    a, b = (load_file(folder / "last.safetensors") for folder in (run, tmp_path / "branch"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    # Of a finished run there is nothing left to train, but it can be evaluated.
    finished = config.but(output=str(tmp_path / "finished"))
    assert len(train(finished, resume=run / "checkpoints" / "000000002", quiet=True).results) == 2


def test_checkpoints_that_did_not_know_their_images(short, photos, tmp_path, monkeypatch) -> None:
    """Those of older versions: the path is compared, as it was then."""
    run = stopped_at_once(short.but(epochs=2), monkeypatch)
    for path in run.glob("checkpoints/*/state.pt"):
        rewrite(path, lambda state: state.pop("data"))
    shutil.copytree(photos, tmp_path / "copy")
    other = short.but(epochs=2, data=str(tmp_path / "copy"))
    with pytest.raises(ValueError, match=r"copy is not what .*run was trained on: its path was .*photos; "):
        train(other, resume="auto", quiet=True)
    train(short.but(epochs=2), resume="auto", quiet=True)
