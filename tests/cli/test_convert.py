"""`transnext convert`, both ways."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from transnext.cli.convert import convert
from transnext.models.checkpoint import CheckpointError, load_checkpoint, read_checkpoint, save_checkpoint
from transnext.models.official import ours_to_official

METADATA = {"architecture": "transnext_pico", "model_args": {"num_classes": 7}}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The models are so small that threads only get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return randomise(timm.create_model("transnext_pico", num_classes=7)).eval()


@pytest.fixture
def source(model: nn.Module, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "ours.safetensors", model.state_dict(), METADATA)
    return tmp_path / "ours.safetensors"


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_there_and_back(source: Path, model: nn.Module, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ours = model.state_dict()
    official = {ours_to_official(key): tensor for key, tensor in ours.items()}

    convert(source, tmp_path / "official.pth", names="official")
    assert _same(torch.load(tmp_path / "official.pth", weights_only=True)["model"], official)
    convert(tmp_path / "official.pth", tmp_path / "official.safetensors", names="official")
    assert _same(load_file(tmp_path / "official.safetensors"), official)
    convert(tmp_path / "official.safetensors", tmp_path / "ours.pt")
    assert _same(torch.load(tmp_path / "ours.pt", weights_only=True)["model"], ours)
    convert(tmp_path / "ours.pt", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == source.read_bytes()

    assert capsys.readouterr().out.splitlines()[0].endswith("official.pth: 191 parameters with official names")
    assert not list(tmp_path.glob(".*.tmp"))


def test_converted_weights_give_the_same_logits(source: Path, model: nn.Module, tmp_path: Path) -> None:
    convert(source, tmp_path / "x.pth", names="official")
    other = timm.create_model("transnext_pico", num_classes=7).eval()
    load_checkpoint(other, tmp_path / "x.pth")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(other(x), model(x))


def test_backbone_of_a_dense_model(model: nn.Module, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    weights = {f"backbone.{ours_to_official(k)}": t for k, t in model.state_dict().items() if "head" not in k}
    weights |= {"decode_head.conv.weight": torch.zeros(2), "neck.norm1.weight": torch.zeros(2)}
    torch.save({"state_dict": weights, "meta": {"epoch": 1}}, tmp_path / "dense.pth")
    convert(tmp_path / "dense.pth", tmp_path / "x.safetensors")
    assert "left out 2 tensors" in (out := capsys.readouterr().out)
    assert "decode_head, neck" in out
    assert load_file(tmp_path / "x.safetensors").keys() == {k for k in model.state_dict() if "head" not in k}


def test_nothing_is_overwritten_unless_asked(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.pth"
    target.write_text("precious")
    with pytest.raises(CheckpointError, match=r"x\.pth exists: .*--overwrite"):
        convert(source, target)
    assert target.read_text() == "precious"
    convert(source, target, overwrite=True)
    assert read_checkpoint(target).metadata == METADATA


def test_a_file_may_replace_itself(source: Path, model: nn.Module, tmp_path: Path) -> None:
    convert(source, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "x.pth", names="official", overwrite=True)
    assert read_checkpoint(tmp_path / "x.pth").layout == "official"
    assert _same(read_checkpoint(tmp_path / "x.pth").state_dict, model.state_dict())


def test_what_cannot_be_converted(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="suffix"):
        convert(source, tmp_path / "x.onnx")
    with pytest.raises(FileNotFoundError, match="no folder"):
        convert(source, tmp_path / "nowhere" / "x.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(CheckpointError, match="is a folder"):
        convert(source, tmp_path / "folder.pth", overwrite=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        convert(tmp_path / "absent.pth", tmp_path / "x.pth")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not hold a TransNeXt"):
        convert(tmp_path / "other.pth", tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_from_the_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transnext.cli.main import main

    main(["convert", str(source), str(tmp_path / "x.pth"), "--names", "official"])
    assert read_checkpoint(tmp_path / "x.pth").layout == "official"
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(source), str(tmp_path / "x.pth")])
    assert caught.value.code == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_disk_that_becomes_full(name: str, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    script = f"""
import resource
import transnext.models.checkpoint.writing as writing
from transnext.cli import main
real = writing.naming
def naming(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return real(path)
writing.naming = naming
main(["convert", {str(source)!r}, {str(tmp_path / name)!r}])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"transnext: cannot write {tmp_path / name}: ")
    assert list(tmp_path.glob("*x.*")) == []
