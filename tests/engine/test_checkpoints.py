"""Checkpoints are whole, or say that they are not."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from transnext.engine.checkpoints import (
    Checkpoints,
    DamagedCheckpoint,
    load_state,
    naming_last_good,
    verify_checkpoint,
)
from transnext.models.checkpoint import save_checkpoint


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=3)


def state(value: int) -> dict:
    return {"model": {"a": torch.full((1000,), float(value))}, "epoch": value, "names": ["ä", "b"], "none": None}


def test_what_is_written_is_read(checkpoints) -> None:
    path = checkpoints.write(12, state(12))
    assert path.name == "000000012"
    assert set(json.loads((path / "manifest.json").read_text())["files"]) == {"state.pt"}
    verify_checkpoint(path)
    back = load_state(path)
    assert torch.equal(back.pop("model")["a"], torch.full((1000,), 12.0))
    assert back == {"epoch": 12, "names": ["ä", "b"], "none": None}


def test_the_newest_are_kept(checkpoints) -> None:
    for update in (2, 10, 999_999_999, 1_000_000_000):
        checkpoints.write(update, state(update))
    assert [int(path.name) for path in checkpoints.paths()] == [10, 999_999_999, 1_000_000_000]
    checkpoints.remove_after(10)
    assert [int(path.name) for path in checkpoints.paths()] == [10]
    assert len(list(checkpoints.folder.iterdir())) == 1


def test_one_of_the_same_update_is_replaced(checkpoints) -> None:
    checkpoints.write(1, state(1))
    path = checkpoints.write(1, state(2))
    assert load_state(path)["epoch"] == 2
    assert list(checkpoints.folder.iterdir()) == [path]


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:-1]), "bytes instead of"),
        (lambda path: flip(path / "state.pt"), "another checksum"),
        (lambda path: (path / "state.pt").unlink(), r"state\.pt is missing"),
        (lambda path: (path / "manifest.json").unlink(), r"manifest\.json is missing"),
        (lambda path: (path / "manifest.json").write_text("{"), r"manifest\.json cannot be read"),
        (lambda path: (path / "manifest.json").write_text('{"files": {}}'), r"manifest\.json cannot be read"),
        (lambda path: (path / "manifest.json").write_text("[]"), r"manifest\.json cannot be read"),
    ],
)
def test_damage_is_seen_and_the_one_before_is_taken(checkpoints, damage, reason, caplog) -> None:
    good, bad = checkpoints.write(1, state(1)), checkpoints.write(2, state(2))
    damage(bad)
    with pytest.raises(DamagedCheckpoint, match=reason):
        verify_checkpoint(bad)
    assert checkpoints.newest_whole() == good
    assert len(caplog.messages) == 1
    assert str(bad) in caplog.text
    shutil.rmtree(good)
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole"):
        checkpoints.newest_whole()


def test_none_at_all(checkpoints, tmp_path) -> None:
    assert checkpoints.newest_whole() is None
    checkpoints.clean()
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        verify_checkpoint(tmp_path / "nowhere")


def test_leftovers_are_no_checkpoints_and_go(checkpoints) -> None:
    good = checkpoints.write(1, state(1))
    shutil.copytree(good, checkpoints.folder / ".000000002.abc.tmp")
    assert checkpoints.newest_whole() == good
    checkpoints.clean()
    assert list(checkpoints.folder.iterdir()) == [good]


@pytest.mark.parametrize("write", ["file", "sync"])
def test_a_full_disk_leaves_the_last_good_one(checkpoints, monkeypatch, write) -> None:
    good = checkpoints.write(1, state(1))

    def full(*args) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*(("torch.save", full) if write == "file" else ("os.fsync", full)))
    with pytest.raises(OSError, match="No space left on device") as raised:
        checkpoints.write(2, state(2))
    message = str(raised.value)
    assert "\n" not in message
    assert "000000002" in message
    assert f"{good} is whole" in message
    assert list(checkpoints.folder.iterdir()) == [good]


def test_a_folder_that_cannot_be(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*Not a directory .*there is no checkpoint yet"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=1).write(0, state(0))


def test_everything_is_on_the_disk_before_it_has_its_name(checkpoints, monkeypatch) -> None:
    synced = []
    original = os.fsync

    def fsync(descriptor) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name[:5], len(checkpoints.paths())))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoints.write(7, state(7))
    assert [name for name, _ in synced] == ["state", "manif", ".0000", "check"]
    assert [there for _, there in synced] == [0, 0, 0, 1]


def test_a_full_disk_under_the_weights_is_said_once(checkpoints, tmp_path, monkeypatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    path = tmp_path / "last.safetensors"
    with pytest.raises(OSError, match=r"No space left on device") as raised, naming_last_good(path, checkpoints):
        save_checkpoint(path, {"a": torch.zeros(1)}, {})
    assert str(raised.value).count("cannot write") == 1
    assert str(raised.value).count("free") == 1
    assert not path.exists()
