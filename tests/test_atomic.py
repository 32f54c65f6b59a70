"""A file is replaced whole or not at all."""

import errno
import json
import os
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from transnext.atomic import check_writable, json_list, naming, replacing


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


@pytest.mark.parametrize("rows", [[], [1], [{"a": [], "ü": [[1.5, None], {}]}, "x\ny", [[]]], ["\udcff"]])
def test_a_list_is_written_as_json_does(rows: list, tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with json_list(target) as add:
        for row in rows:
            add(row)
        assert target.read_text() == "old"
    expected = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    assert target.read_bytes() == expected.encode("utf-8", "backslashreplace")
    assert json.loads(target.read_text(encoding="utf-8")) == rows
    with pytest.raises(KeyboardInterrupt), json_list(target) as add:  # noqa: PT012
        add(5)
        raise KeyboardInterrupt
    assert target.read_bytes() == expected.encode("utf-8", "backslashreplace")
    assert list(tmp_path.iterdir()) == [target]


def test_a_list_keeps_no_elements(tmp_path: Path) -> None:
    tracemalloc.start()
    with json_list(tmp_path / "a.json") as add:
        for _ in range(100):
            add(["x" * 100_000])
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    assert len(json.loads((tmp_path / "a.json").read_text())) == 100


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no devices")
def test_a_device_gets_a_list_in_one_piece() -> None:
    code = "from transnext.atomic import json_list\nwith json_list('/dev/stdout') as add:\n"
    code += " add('x' * 9999)\n print('between', flush=True)\n add(2)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out.removeprefix("between\n")) == ["x" * 9999, 2]


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


def test_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)
    check_writable(path)
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    with pytest.raises(OSError, match=r"^cannot write .*aaa: File name too long \("):
        check_writable(tmp_path / ("a" * 256))


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there are no such devices")
def test_a_device_is_written_to() -> None:
    check_writable("/dev/null")
    with replacing("/dev/null") as path:
        path.write_text("gone")
    assert not Path("/dev/null").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit for files")
def test_a_disk_that_becomes_full(tmp_path: Path) -> None:
    script = f"""
import resource
from transnext.atomic import replacing
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with replacing({str(tmp_path / "a.txt")!r}) as temporary:
        temporary.write_bytes(bytes(2000))
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {tmp_path / 'a.txt'}: File too large (")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_block_that_say_what_they_are_stay(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"photo\.jpg"), replacing(tmp_path / "a"):
        (tmp_path / "photo.jpg").read_bytes()
    with pytest.raises(ValueError, match="three"), naming(tmp_path / "a"):
        raise ValueError("three")


def test_naming(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"^cannot write .*/a: unexpected pos 64 \([0-9.]+ [GM]B free\)$"),
        naming(tmp_path / "a"),
    ):
        raise RuntimeError("unexpected pos 64\nat serialize.cc")


@pytest.mark.parametrize("folder", [False, True])
def test_writable_outputs(folder: bool, tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    check_writable(tmp_path / "new", folder=folder)
    if folder:
        check_writable(tmp_path / "folder", folder=True)
        check_writable(tmp_path / "a" / "b" / "c", folder=True)
    else:
        check_writable(str(tmp_path / "old"))
    assert sorted(tmp_path.rglob("*")) == before


def test_outputs_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileNotFoundError, match=r"^there is no folder .*/a for b$"):
        check_writable(tmp_path / "a" / "b")
    with pytest.raises(FileNotFoundError, match=r"^there is no folder .*/file for b$"):
        check_writable(tmp_path / "file" / "b")
    with pytest.raises(ValueError, match=r"/folder is a folder: give the name of a file$"):
        check_writable(tmp_path / "folder")
    for path in (tmp_path / "file", tmp_path / "file" / "b" / "c"):
        with pytest.raises(ValueError, match=r"/file is not a folder: choose another name for "):
            check_writable(path, folder=True)
    for name in ("file", "dangling"):
        with pytest.raises(ValueError, match="exists: choose another name"):
            check_writable(tmp_path / name, overwrite=False)
    with pytest.raises(OSError, match=r"^cannot write .*/b: No space left on device for 1000000000\.0 GB \("):
        check_writable(tmp_path / "b", num_bytes=10**18)

    def denied(path: Path, data: bytes) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", denied)
    with pytest.raises(OSError, match=r"^cannot write .*/b: Permission denied \([0-9.]+ [GM]B free\)$"):
        check_writable(tmp_path / "b")
    with pytest.raises(OSError, match=r"^cannot write .*/b/c: Permission denied \("):
        check_writable(tmp_path / "b" / "c", folder=True)
    assert sorted(tmp_path.rglob("*")) == before
