"""OpenVINO files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import transnext
from transnext.export import ExportedModel

openvino = pytest.importorskip("openvino")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.usefixtures("one_thread")


def test_maps_of_the_stages(checkpoint: Path, network: nn.Module, tmp_path: Path) -> None:
    result = transnext.export_model(
        checkpoint, tmp_path / "maps.xml", features_only=True, image_size=(24, 40), fixed_size=True
    )
    assert {path.name for path in tmp_path.iterdir()} == {"maps.xml", "maps.bin"}
    assert [c.shape for c in result.checks] == [(1, 3, 24, 40), (3, 3, 24, 40)]
    compiled = openvino.compile_model(tmp_path / "maps.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert [output.get_any_name() for output in compiled.outputs] == ["stage0", "stage1"]
    images = torch.randn(2, 3, 24, 40)
    found = compiled(images.numpy())
    with torch.no_grad():
        expected = network.forward_intermediates(images, intermediates_only=True)
    for i, map_ in enumerate(expected):
        assert np.abs(found[f"stage{i}"] - map_.numpy()).max() < 1e-4
    with pytest.raises(ValueError, match="32x32: it was exported for 24x40 alone"):
        ExportedModel(tmp_path / "maps.xml")(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="stage0, stage1 and not classes"):
        transnext.Predictor(tmp_path / "maps.xml")


@pytest.mark.slow
def test_a_classifier_in_interpolating_mode(
    checkpoint: Path, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bias is resized from the trained size, and its bins of 5 rows in 2 overlap."""
    from transnext.tasks.classification.loading import load_classifier

    classifier = load_classifier(checkpoint)
    classifier.model.bias_mode = "interpolate"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"interpolated position bias .* --fixed-size"):
        transnext.export_model(classifier, tmp_path / "a.xml", image_size=(20, 36))
    transnext.export_model(classifier, tmp_path / "a.xml", image_size=(20, 36), fixed_size=True, license="mit")
    images = torch.randn(2, 3, 20, 36)
    found = ExportedModel(tmp_path / "a.xml")(images)
    with torch.no_grad():
        assert (found - classifier.model(images)).abs().max() < 1e-4
        assert (found - network(images)).abs().max() > 1e-3
    read = openvino.Core().read_model(tmp_path / "a.xml")
    assert json.loads(read.get_rt_info(["transnext", "class_names"]).astype(str)) == ["apples", "pears", "plüms"]
    assert json.loads(read.get_rt_info(["transnext", "license"]).astype(str)) == "mit"
    answer = transnext.Predictor(tmp_path / "a.xml")(np.zeros((50, 60, 3), np.uint8), top_k=1)[0]
    assert answer.classes[0] in ("apples", "pears", "plüms")
