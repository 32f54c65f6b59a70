"""Files of torch.export."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import transnext
from transnext.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_any_size(checkpoint: Path, network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "transnext_pico", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "a.pt2")])
    printed = capsys.readouterr().out
    assert "torch.export, fp32, images of 32x32 or any multiples of 8 to logits" in printed
    assert printed.count("differs from PyTorch by") == 4
    entries = {"transnext.json": ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=entries)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any(target.startswith("transnext") for target in targets)
    assert json.loads(json.loads(entries["transnext.json"])["class_names"]) == ["apples", "pears", "plüms"]
    assert json.loads(json.loads(entries["transnext.json"])["license"]) is None
    for size in ((1, 3, 32, 32), (4, 3, 48, 16)):
        images = torch.randn(size)
        with torch.no_grad():
            assert (program.module()(images) - network(images)).abs().max() < 1e-4
    with pytest.raises(ValueError, match="8x32: their sides must be at least 16"):
        transnext.export.ExportedModel(tmp_path / "a.pt2")(torch.zeros(1, 3, 8, 32))
    for side in (36, 39):
        try:
            found = program.module()(torch.zeros(1, 3, side, 32))
        except (AssertionError, RuntimeError):
            continue
        assert found.isnan().all()


def test_maps_of_one_stage(checkpoint: Path, network: nn.Module, tmp_path: Path) -> None:
    result = transnext.export_model(
        checkpoint, tmp_path / "a.pt2", features_only=True, out_indices=[0], fixed_size=True
    )
    assert result.info.outputs == ("stage0",)
    (found,) = transnext.export.ExportedModel(tmp_path / "a.pt2")(images := torch.randn(2, 3, 32, 32))
    with torch.no_grad():
        (expected,) = network.forward_intermediates(images, indices=[0], intermediates_only=True)
    assert (found - expected).abs().max() < 1e-4
    stored = torch.export.load(tmp_path / "a.pt2").state_dict
    assert not any("stages.1" in name or "head" in name for name in stored)


def test_a_model_that_is_not_ours(tmp_path: Path) -> None:
    from transnext.data.preprocessing import Preprocessing
    from transnext.models.variants import create
    from transnext.tasks.classification.loading import loaded_classifier

    model = create("convnext_atto", {"num_classes": 2, "depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}).eval()
    preprocessing = Preprocessing.of_model(model, 32)
    classifier = loaded_classifier(model, ["a", "b"], preprocessing, "atto")
    result = transnext.export_model(classifier, tmp_path / "a.pt2")
    assert result.info.size_multiple is None
    assert [c.shape for c in result.checks] == [(1, 3, 32, 32), (3, 3, 32, 32)]
