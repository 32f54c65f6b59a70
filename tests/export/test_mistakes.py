"""What cannot be exported: one line, exit status 2, and no trace on the disk."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from transnext.cli import main
from transnext.export import checking, hub_folder
from transnext.models.checkpoint import read_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def _fails(*args: str) -> str:
        (tmp_path / "out").mkdir(exist_ok=True)
        before = sorted((tmp_path / "out").rglob("*"))
        with pytest.raises(SystemExit) as exit_:
            main(["export", *args])
        assert exit_.value.code == 2
        assert sorted((tmp_path / "out").rglob("*")) == before
        printed = capsys.readouterr()
        assert "\n" not in printed.err.strip()
        assert "Traceback" not in printed.err
        return printed.err

    return _fails


def test_arguments(fails, checkpoint: Path, tmp_path: Path) -> None:
    model, out = str(checkpoint), tmp_path / "out"
    pt2 = str(out / "a.pt2")
    assert "a.pt2: an output of format onnx ends in .onnx" in fails(model, "--output", pt2, "--format", "onnx")
    assert "does not say the format" in fails(model, "--output", str(out / "a"))
    assert "is a folder" in fails(model, "--output", pt2, "--format", "hf")
    assert "no folder" in fails(model, "--output", str(out / "none" / "a.pt2"))
    assert "no file or folder" in fails(str(tmp_path / "no.safetensors"), "--output", pt2)
    assert "neither a run folder" in fails("no_model", "--output", pt2)
    assert "no_such.pth" in fails("transnext_pico", "--checkpoint", str(tmp_path / "no_such.pth"), "--output", pt2)
    assert "does not fit" in fails("transnext_nano", "--checkpoint", model, "--output", pt2)
    assert "no model name" in fails(model, "--checkpoint", model, "--output", pt2)
    assert "--calibration" in fails(model, "--output", pt2, "--int8")
    assert "int8 is for the formats" in fails(model, "--output", pt2, "--int8", "--calibration", "emoji")
    assert "add --features-only" in fails(model, "--output", pt2, "--out-indices", "0")
    assert "stages 0 to 1" in fails(model, "--output", pt2, "--features-only", "--out-indices", "2")
    assert "30x30 are no multiples of 8" in fails(model, "--output", pt2, "--image-size", "30")
    assert "starts at 16: add --fixed-size" in fails(model, "--output", pt2, "--image-size", "8")
    assert "one number, or height and width" in fails(model, "--output", pt2, "--image-size", "8", "8", "8")


def test_what_is_there_stays(fails, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "a.pt2"
    target.write_text("precious")
    assert "--overwrite" in fails(str(checkpoint), "--output", str(target))
    assert target.read_text() == "precious"
    folder = tmp_path / "out" / "hub"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert "exists" in fails(str(checkpoint), "--output", str(folder), "--format", "hf")
    main(["export", str(checkpoint), "--output", str(folder), "--format", "hf", "--overwrite"])
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "config.json").exists()


@pytest.mark.parametrize(("name", "format"), [("a.pt2", None), ("a.onnx", None), ("a.xml", None), ("a", "hf")])
def test_a_disk_that_becomes_full(name: str, format: str | None, checkpoint: Path, tmp_path: Path) -> None:
    """Files of all formats, of which the system takes the first kilobytes alone; and none is left."""
    for package in {"a.onnx": ("onnxscript", "onnxruntime"), "a.xml": ("openvino", "onnxscript")}.get(name, ()):
        pytest.importorskip(package)
    pytest.importorskip("resource")
    target = tmp_path / "out" / name
    target.parent.mkdir()
    option = ["--format", format] if format else ["--fixed-size"]
    script = f"""
import resource
import transnext.export.exporting as exporting
real = exporting.naming
def naming(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    return real(path)
exporting.naming = naming
from transnext.cli import main
main(["export", {str(checkpoint)!r}, "--output", {str(target)!r}] + {option})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"transnext: cannot write {target}: ")
    assert line.endswith("B free)")
    assert list(target.parent.iterdir()) == []


def test_an_output_that_cannot_be_written(fails, checkpoint: Path, tmp_path: Path) -> None:
    """It is said before anything is loaded."""
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "folder.onnx").mkdir()
    for output, said in (
        (file / "a.onnx", f"no folder {file} for a.onnx"),
        (tmp_path / "folder.onnx", "is a folder: give the name of a file"),
        (tmp_path / ("a" * 300 + ".pt2"), "File name too long"),
    ):
        assert said in fails("no_model", "--output", str(output), "--overwrite")
    assert "is not a folder" in fails("no_model", "--output", str(file), "--format", "hf", "--overwrite")


def test_a_backbone_alone(fails, checkpoint: Path, tmp_path: Path) -> None:
    read = read_checkpoint(checkpoint)
    weights = {name: t for name, t in read.state_dict.items() if not name.startswith("head")}
    metadata = {**read.metadata, "model_args": {**read.metadata["model_args"], "num_classes": 0}}
    save_checkpoint(tmp_path / "backbone.safetensors", weights, metadata)
    said = fails(str(tmp_path / "backbone.safetensors"), "--output", str(tmp_path / "out" / "a.pt2"))
    assert "has no classifier: add --features-only" in said
    said = fails(str(tmp_path / "backbone.safetensors"), "--output", str(tmp_path / "out" / "hub"), "--format", "hf")
    assert "has no classifier, which a hub folder describes: write its maps with --features-only to a file" in said


def test_a_file_that_differs(fails, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = str(tmp_path / "out" / "hub")
    real = hub_folder.runner
    monkeypatch.setattr(hub_folder, "runner", lambda folder: lambda x: real(folder)(x) + 2e-4)
    said = fails(str(checkpoint), "--output", target, "--format", "hf")
    assert "hub differs from PyTorch by 2.0e-04 on images 1x3x32x32: 1e-04 is allowed" in said
    monkeypatch.setattr(hub_folder, "runner", lambda folder: lambda x: real(folder)(x) * torch.nan)
    assert "differs from PyTorch by nan" in fails(str(checkpoint), "--output", target, "--format", "hf")
    monkeypatch.setattr(hub_folder, "runner", lambda folder: lambda x: x.view(7, 7))
    assert "fails on images 1x3x32x32, where PyTorch does not" in fails(
        str(checkpoint), "--output", target, "--format", "hf"
    )


@pytest.mark.parametrize(
    ("suffix", "missing", "extra"), [(".onnx", "onnxscript", "onnx"), (".xml", "openvino", "openvino")]
)
def test_a_missing_extra(
    suffix: str, missing: str, extra: str, fails, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == missing else real(name, *a))
    said = fails(str(checkpoint), "--output", str(tmp_path / "out" / f"a{suffix}"))
    assert f'pip install "transnext[{extra}]"' in said
    assert missing in said


def test_shapes_to_check() -> None:
    assert checking.shapes_to_check(3, (32, 64), None) == [(1, 3, 32, 64), (3, 3, 32, 64)]
    shapes = checking.shapes_to_check(3, (32, 32), 32)
    assert len({shape[2:] for shape in shapes}) == 3
    assert all(side % 32 == 0 for shape in shapes for side in shape[2:])
