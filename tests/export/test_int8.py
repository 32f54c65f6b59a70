"""Quantised files. What quantisation costs in accuracy is measured by benchmarks/serving.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import transnext
from transnext.export import ExportedModel
from transnext.export.int8 import calibration_images
from transnext.tasks.classification.loading import load_classifier

pytest.importorskip("nncf")
pytest.importorskip("openvino")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def photos(tmp_path: Path, png: Callable[[int], bytes]) -> Path:
    for number in range(15):
        folder = tmp_path / "photos" / ("val" if number > 11 else "train") / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    return tmp_path / "photos"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
def test_products_are_of_8_bit_and_answers_about_the_same(
    suffix: str, checkpoint: Path, network: nn.Module, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / f"a{suffix}"
    result = transnext.export_model(checkpoint, path, fixed_size=True, calibration=str(photos))
    assert result.info.precision == "int8"
    model = ExportedModel(path)
    assert model.info == result.info
    content = path.read_bytes()
    assert content.count(b"FakeQuantize" if suffix == ".xml" else b"DequantizeLinear") > 5
    images = torch.cat(calibration_images(str(photos), load_classifier(checkpoint).preprocessing))
    assert len(images) == 12
    with torch.no_grad():
        expected = network(images)
    found = model(images)
    assert (found - expected).abs().max() > 1e-5
    assert (found - expected).square().mean().sqrt() < 0.4 * expected.std()


def test_calibration_images_are_spread_over_the_training_split(photos: Path, checkpoint: Path) -> None:
    preprocessing = load_classifier(checkpoint).preprocessing
    everything = calibration_images(str(photos), preprocessing)
    some = calibration_images(str(photos), preprocessing, 4)
    assert [t.shape for t in some] == [(1, 3, 32, 32)] * 4
    assert all(torch.equal(a, everything[3 * i]) for i, a in enumerate(some))
    with pytest.raises(FileNotFoundError, match="no_data"):
        calibration_images("no_data", preprocessing)
