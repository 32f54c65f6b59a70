"""Every output is whole or not there, and one that cannot be written is refused before the work."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from transnext.cli import main

MODEL = "transnext_pico.emoji"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40)).save("a.png")
    Path("file").write_text("old")
    Path("folder").mkdir()
    return tmp_path


def fails(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(list(args))
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


COMMANDS = {
    "predict": ["predict", "a.png"],
    "eval": ["eval", MODEL, "emoji"],
    "study sizes": ["study", "sizes", MODEL, "emoji", "--scales", "1"],
    "bench": ["bench", "transnext_pico"],
}


@pytest.mark.parametrize(
    ("command", "option", "value", "message"),
    [
        ("predict", "--json-file", "nowhere/a.json", "there is no folder nowhere for a.json"),
        ("predict", "--json-file", "folder", "folder is a folder"),
        ("predict", "--look", "file", "is not a folder"),
        ("predict", "--look", "file/below", "is not a folder"),
        ("eval", "--json-file", "nowhere/a.json", "there is no folder nowhere for a.json"),
        ("eval", "--json-file", "folder", "folder is a folder"),
        ("study sizes", "--figure", "nowhere/a.png", "there is no folder nowhere for a.png"),
        ("study sizes", "--figure", "a.gif", "a.gif does not say how to draw: end it in .png, .svg, .pdf"),
        ("bench", "--output", "file", "is not a folder"),
    ],
)
def test_refused_before_the_work(here, capsys, monkeypatch, command, option, value, message) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    for place in ("predict.Predictor", "engine.evaluation.Evaluator", "bench.run.run_bench"):
        monkeypatch.setattr(f"transnext.{place}.__init__" if place[-1] == "r" else f"transnext.{place}", work)
    before = sorted(here.rglob("*"))
    assert message in fails(capsys, *COMMANDS[command], option, value)
    assert sorted(here.rglob("*")) == before


def test_a_full_disk_leaves_what_was_there(here, capsys, monkeypatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(here.iterdir())
    assert "file: No space left on device" in fails(capsys, "predict", "a.png", "--json-file", "file")
    assert Path("file").read_text() == "old"
    assert sorted(here.iterdir()) == before


def test_a_report_that_cannot_be_written(here, capsys, monkeypatch) -> None:
    from transnext.config import TrainConfig

    Path("folder/config.json").write_text(TrainConfig(data="emoji").to_json())
    Path("folder/best.safetensors").write_bytes(b"")

    def denied(path: Path, data: bytes) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", denied)
    assert "cannot write folder: Permission denied" in fails(capsys, "report", "folder")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_output_of_any_encoding(here, encoding) -> None:
    names = ["Grüße.png", "日本.png", os.fsdecode(b"caf\xe9.png")]
    for name in names:
        Image.new("RGB", (40, 40)).save(name)
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "transnext", "predict", *names, "bad.png", "--json-file", "a.json"]
    Path("bad.png").write_text("")
    done = subprocess.run(command, capture_output=True, env=env, check=True)
    lines = done.stdout.decode(encoding).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        name.encode(encoding, "backslashreplace").decode(encoding) for name in names
    ]
    assert done.stderr.decode(encoding).strip() == "skipped bad.png: the file is empty"
    rows = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert [row["image"] for row in rows] == names
