"""A file is replaced whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from transnext.atomic import replacing


def test_the_target_changes_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(str(target)) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_leaves_everything_as_it_was(existed: bool, tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    if existed:
        target.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as temporary:  # noqa: PT012 (the block is what fails)
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"] * existed


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with replacing(target) as first, replacing(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_file_and_folder_are_on_the_disk_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bool, str]] = []
    target = tmp_path / "a.txt"

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_folder, target.read_text()))

    target.write_text("old")
    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert synced == [(False, "old"), (True, "new")]


def test_others_may_read_it_as_any_new_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as temporary:
        temporary.touch()
        temporary.chmod(0o600)
    (tmp_path / "plain").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "nowhere" / "a"):
        pass
