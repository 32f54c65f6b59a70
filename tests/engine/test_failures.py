"""What goes wrong costs no more than it must, and says in one line what to do."""

import errno
import math
import os
import resource
import shutil
import signal
import sys
import time

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open

from transnext.cli import main
from transnext.config import TrainConfig
from transnext.data import open_dataset
from transnext.engine import train, trainer
from transnext.engine.run_evaluation import RunEvaluation
from transnext.engine.update import Updater
from transnext.tasks.classification import task


@pytest.fixture
def short(config) -> TrainConfig:
    """A run of two epochs with three updates each."""
    return config.but(batch_size=7, tracker="none", mix_prob=0.0, auto_augment="")


@pytest.fixture(autouse=True)
def _no_report(monkeypatch) -> None:
    monkeypatch.setattr(trainer, "write_report", lambda *_: None)  # takes longer than the training


def in_update(number, action):
    """An `Updater` that does something to its batches in an update, counted from 1."""
    original, updates = Updater.__call__, 0

    def call(self, batches, *args):
        nonlocal updates
        updates += 1
        std = self.objective.normalise.std
        usual = std.clone()
        try:
            return original(self, action(batches, self) if updates == number else batches, *args)
        finally:
            std.copy_(usual)

    return call


def not_numbers(batches, updater):
    """Makes images of an update NaN, by what they are divided by."""
    updater.objective.normalise.std.fill_(math.nan)
    return batches


def contents(path) -> dict[str, object]:
    """Everything in a file of weights, to be compared."""
    with safe_open(path, "pt") as file:
        return {"metadata": file.metadata(), **{name: file.get_tensor(name).tolist() for name in file.keys()}}  # noqa: SIM118


def different(a, b) -> list[object]:
    """Names of the tensors that two files do not have in common bit by bit, and their metadata if those differ."""
    ours, theirs = contents(a), contents(b)
    assert ours.keys() == theirs.keys()
    names = [name for name in ours if ours[name] != theirs[name]]
    return [(name, ours[name], theirs[name]) if name == "metadata" else name for name in names]


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_not_a_number_stops_the_run(short, monkeypatch) -> None:
    config = short.but(checkpoint_every=1)
    monkeypatch.setattr(Updater, "__call__", in_update(5, not_numbers))
    with pytest.raises(ValueError, match="the loss of update 5") as raised:
        train(config, quiet=True)
    message = str(raised.value)
    assert "\n" not in message
    assert "epoch 2" in message
    listed = (trainer.RunFolder(config.output).nan_file).read_text().splitlines()
    assert len(set(listed)) == 7
    assert all(line.startswith(config.data) for line in listed)
    assert listed[0] in message
    assert message.endswith(f"{config.output}/checkpoints/000000004")

    monkeypatch.undo()
    assert len(train(config, resume="auto", quiet=True).history) == 2


@pytest.mark.parametrize("model", ["transnext_nano", "resnet10t"])
def test_not_a_number_is_left_out_and_counted(model, short, monkeypatch, capsys) -> None:
    """Nothing of the update stays, the statistics of batch norm included."""
    config = short.but(nan="skip", epochs=1, model=model)
    before = None

    def bad(batches, updater):
        nonlocal before
        before = [p.detach().clone() for p in (*run.model.parameters(), *run.model.buffers())]
        return not_numbers(batches, updater)

    monkeypatch.setattr(Updater, "__call__", in_update(3, bad))
    run = trainer.Trainer(config)
    result = run.run()
    run.close()
    trainer.AcceleratorState._reset_state(reset_partial_state=True)
    now = (*run.model.parameters(), *run.model.buffers())
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
    assert result.history[0]["nan_updates"] == 1
    assert result.history[0]["train_loss"] > 0
    assert "1 updates left out" in capsys.readouterr().out


def test_a_gradient_that_is_not_finite_counts_as_such(short) -> None:
    with pytest.raises(ValueError, match=r"the (loss|gradient) of update \d+ .* is not finite"):
        train(short.but(lr=1e30, epochs=5, clip_grad=0.0), quiet=True)
    with pytest.raises(ValueError, match="no update of epoch 2 had a finite loss"):
        train(
            short.but(lr=1e30, epochs=5, clip_grad=0.0, nan="skip", output=short.output + "2"),
            quiet=True,
        )


def test_a_full_disk(short, monkeypatch, capsys) -> None:
    save = torch.save

    def full_later(state, file) -> None:
        if state["progress"]["totals"]["updates"] == 2:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full_later)
    config = short.but(checkpoint_every=1)
    with pytest.raises(OSError, match="No space left on device") as raised:
        train(config, quiet=True)
    folder = trainer.RunFolder(config.output)
    assert f"{folder.checkpoints}/000000001 is whole" in str(raised.value)
    assert names(folder.checkpoints) == ["000000000", "000000001"]
    assert not list(folder.path.glob("*.tmp"))


@pytest.mark.skipif(sys.platform != "linux", reason="file sizes are limited")
def test_a_limit_on_the_size_of_files(short, capfd) -> None:
    """The real thing, in a child: writing the weights fails in the middle."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        try:
            main(["train", short.data, "--output", short.output, "--image-size", "32", "--workers", "0"])
        except SystemExit as exit_:
            os._exit(exit_.code)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "cannot write" in error
    assert "last.safetensors" in error
    assert not list(trainer.RunFolder(short.output).path.rglob("*.tmp"))


def test_a_folder_that_cannot_be_written(short, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*file/run: Not a directory; choose another --output"):
        train(short.but(output=str(tmp_path / "file" / "run")), quiet=True)


def test_two_runs_in_one_folder(short, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(ValueError, match=r"another process trains in .*run: wait for it"),
    ):
        train(short, quiet=True)
    train(short.but(epochs=1), quiet=True)


def test_a_worker_that_hangs(short, monkeypatch) -> None:
    def hanging(*args):
        splits = open_dataset(*args)
        load = splits["train"].load

        def slow(index, min_side=None):
            while index == 5:
                time.sleep(60)
            return load(index, min_side)

        splits["train"].load = slow
        return splits

    monkeypatch.setattr(task, "open_dataset", hanging)
    with pytest.raises(
        TimeoutError, match=r"no batch for 2 s: a reading process hangs on one of 7 images from .*\.png"
    ):
        train(short.but(workers=1, worker_timeout=2), quiet=True)
    assert names(trainer.RunFolder(short.output).checkpoints) == ["000000000"]


def test_sigterm_ends_with_a_checkpoint_and_ctrl_c_too(short, tmp_path, monkeypatch, capsys) -> None:
    whole = short.but(output=str(tmp_path / "whole"))
    train(whole, quiet=True)

    def interrupted(number):
        def action(batches, updater):
            signal.raise_signal(number)
            return batches

        return action

    args = ["train", short.data, "--output", short.output, "--image-size", "32", "--batch-size", "7", "--epochs", "2"]
    args += ["--workers", "0", "--device", "cpu", "--tracker", "none", "--auto-augment", ""]
    with monkeypatch.context() as patch:
        patch.setattr(Updater, "__call__", in_update(2, interrupted(signal.SIGTERM)))
        main(args)
    out = capsys.readouterr().out
    assert "Stopped after 0 of 2 epochs and 2 of 3 updates; the same command with --resume auto goes on." in out
    assert names(tmp_path / "run" / "checkpoints") == ["000000000", "000000002"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit_:  # noqa: PT012
        patch.setattr(Updater, "__call__", in_update(3, interrupted(signal.SIGINT)))
        main([*args, "--resume", "auto"])
    assert exit_.value.code == 130
    assert names(tmp_path / "run" / "checkpoints") == ["000000002", "000000003", "000000005"]
    main([*args, "--resume", "auto"])
    assert different(*(tmp_path / name / "last.safetensors" for name in ("whole", "run"))) == []


def test_a_signal_during_evaluation_waits_for_no_more_than_a_batch(short, monkeypatch) -> None:
    def signalling(self, batches):
        signal.raise_signal(signal.SIGTERM)
        return until_stopped(self, batches)

    until_stopped = RunEvaluation._until_stopped
    with monkeypatch.context() as patch:
        patch.setattr(RunEvaluation, "_until_stopped", signalling)
        result = train(short, quiet=True)
    assert result.signal == signal.SIGTERM
    assert result.history == []
    folder = trainer.RunFolder(short.output)
    assert names(folder.checkpoints) == ["000000000", "000000003"]
    assert [row["epoch"] for row in train(short, resume="auto", quiet=True).history] == [1, 2]


def test_going_back_to_a_chosen_checkpoint(short, tmp_path) -> None:
    config = short.but(checkpoint_every=1, keep=9)
    folder = trainer.RunFolder(config.output)
    last = train(config, quiet=True).folder / "last.safetensors"
    before = shutil.copy(last, tmp_path / "before.safetensors")
    shutil.copytree(folder.checkpoints / "000000002", tmp_path / "elsewhere")
    result = train(config, resume=folder.checkpoints / "000000002", quiet=True)
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert different(last, before) == []

    branch = config.but(output=str(tmp_path / "branch"))
    train(branch, resume=str(tmp_path / "elsewhere"), quiet=True)
    assert different(tmp_path / "branch" / "last.safetensors", before) == []
    with pytest.raises(ValueError, match="already holds a run"):
        train(branch, resume=tmp_path / "elsewhere", quiet=True)
    with pytest.raises(ValueError, match=r"was started with --seed 0 \(now --seed 7\): give the same"):
        train(branch.but(seed=7, output=str(tmp_path / "c")), resume=tmp_path / "elsewhere", quiet=True)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        train(config, resume="nowhere", quiet=True)
    (tmp_path / "elsewhere" / "state.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is damaged: state\.pt has 0 bytes"):
        train(config, resume=tmp_path / "elsewhere", quiet=True)


def test_a_damaged_checkpoint_is_passed_over(short, tmp_path, caplog) -> None:
    config = short.but(epochs=1)
    before = (train(config, quiet=True).folder / "last.safetensors").read_bytes()
    newest = trainer.RunFolder(config.output).checkpoints / "000000003"
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-100])
    result = train(config, resume="auto", quiet=True)
    assert (result.folder / "last.safetensors").read_bytes() == before
    assert len([message for message in caplog.messages if "damaged" in message]) == 1


def test_patience(short) -> None:
    config = short.but(epochs=30, lr=0.0, warmup_lr=0.0, min_lr=0.0, patience=2)
    result = train(config, quiet=True)
    assert len(result.history) == 3
    assert len(train(config, resume="auto", quiet=True).history) == 3


def test_tensorboard_has_each_epoch_once(short) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = short.but(tracker="tensorboard")
    folder = train(config, quiet=True).folder
    train(config, resume=folder / "checkpoints" / "000000003", quiet=True)
    events = EventAccumulator(str(folder / "tensorboard" / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("val_top1")] == [1, 2]


def test_a_tracker_that_is_not_installed(short, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r'tracker is .wandb., which is not installed: pip install "transnext\[wandb\]"'
    ):
        train(short.but(tracker="wandb"), quiet=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"micro_batch_size": 3},
            "batch_size 7 cannot be divided among micro_batch_size 3 x 1 processes: use for example 6",
        ),
        ({"batch_size": 100, "micro_batch_size": 50}, "22 training images are fewer than micro_batch_size 50"),
        ({"strategy": "fsdp", "ema": 0.9}, "ema is 0.9, which strategy 'fsdp' does not have"),
        ({"strategy": "fsdp", "optimizer": "muon"}, "strategy 'fsdp' shards matrices, which muon needs whole"),
        ({"model": "resnet10t", "freeze_stages": 9}, "freeze_stages is 9"),
    ],
)
def test_what_cannot_be_is_named(short, values, message) -> None:
    with pytest.raises(ValueError, match=message):
        train(short.but(**values), quiet=True)
