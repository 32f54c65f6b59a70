"""ONNX files, as a user writes and runs them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

import transnext
from transnext.cli import main
from transnext.version import __version__

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def file(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of any size, written by the command; once for all processes that run tests, since it takes long."""
    shared = (
        tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else tmp_path_factory.getbasetemp()
    )
    folder = shared / "exported"
    path = folder / "fruit.onnx"
    with FileLock(shared / "exported.lock"):
        if not path.exists():
            folder.mkdir()
            main(["export", str(checkpoint), "--output", str(path), "--license", "cc-by-4.0"])
            assert list(folder.iterdir()) == [path]
    return path


@pytest.mark.parametrize("size", [(1, 32, 32), (3, 40, 64), (1, 16, 8), (2, 96, 24)])
def test_any_size(size: tuple[int, int, int], file: Path, network: nn.Module) -> None:
    images = torch.randn(size[0], 3, *size[1:])
    (found,) = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = network(images).numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert expected.std() > 0.05


def test_other_sizes_are_not_answered_wrongly(file: Path) -> None:
    """Their last rows would be left out of the pooled keys."""
    openvino = pytest.importorskip("openvino")
    session, compiled = onnxruntime.InferenceSession(file), openvino.compile_model(file, "CPU")
    for run in (lambda x: session.run(None, {"images": x})[0], lambda x: compiled(x)[0]):
        assert np.isfinite(run(np.zeros((1, 3, 40, 32), np.float32))).all()
        for height, width in ((36, 32), (32, 36), (34, 32), (39, 33), (41, 48)):
            try:
                found = run(np.zeros((1, 3, height, width), np.float32))
            except Exception:
                continue
            assert np.isnan(found).all()
    with pytest.raises(ValueError, match="36x32: their sides must be multiples of 8"):
        transnext.export.ExportedModel(file)(torch.zeros(1, 3, 36, 32))


def test_plain_operators_named_axes_and_metadata(file: Path) -> None:
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(o.domain, o.version) for o in model.opset_import if not o.domain] == [("", 20)]
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["batch", 3, "height", "width"]
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["batch", 3]
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert said["class_names"] == ["apples", "pears", "plüms"]
    assert (said["input_size"], said["mean"], said["std"]) == ([3, 32, 32], [0.4, 0.5, 0.6], [0.2, 0.25, 0.3])
    assert (said["interpolation"], said["crop_pct"], said["crop_mode"]) == ("bilinear", 0.9, "center")
    assert (said["license"], said["transnext_version"]) == ("cc-by-4.0", __version__)
    assert (said["architecture"], said["size_multiple"], said["precision"]) == ("transnext_pico", 8, "fp32")


def test_predict_and_evaluate_as_from_the_checkpoint(
    file: Path, checkpoint: Path, tmp_path: Path, png, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        folder = tmp_path / "val" / ["apples", "pears", "plüms"][number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    answers = []
    for model in (checkpoint, file):
        main(["predict", str(tmp_path / "val"), "--model", str(model), "--json-file", str(tmp_path / "p.json")])
        answers.append(json.loads((tmp_path / "p.json").read_text()))
    for a, b in zip(*answers, strict=True):
        assert a["classes"] == b["classes"]
        assert np.allclose(a["probabilities"], b["probabilities"], atol=1e-5)
    assert capsys.readouterr().out.count(".png: ") == 12
    results = [
        transnext.evaluate(model, tmp_path / "val", splits=["val"], workers=0, val_fraction=0.5, device="cpu")[0]
        for model in (checkpoint, file)
    ]
    assert results[0].top1 == results[1].top1
    assert results[0].loss == pytest.approx(results[1].loss, abs=1e-4)


def test_what_an_exported_file_cannot_do(file: Path, tmp_path: Path, png, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    image, model = str(tmp_path / "a.png"), ["--model", str(file)]
    for args, said in (
        (["--look", str(tmp_path / "looks")], "does not give its attention"),
        (["--image-size", "50"], "50x50: their sides must be multiples of 8"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["predict", image, *model, *args])
        assert exit_.value.code == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert "\n" not in error
    main(["predict", image, *model, "--image-size", "64"])


def test_files_of_others_and_damaged_ones(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="only files written by `transnext export`"):
        transnext.Predictor(tmp_path / "bare.onnx")
    (tmp_path / "half.onnx").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"half\.onnx cannot be read as ONNX"):
        transnext.Predictor(tmp_path / "half.onnx")
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.onnx"):
        transnext.Predictor(tmp_path / "absent.onnx")
