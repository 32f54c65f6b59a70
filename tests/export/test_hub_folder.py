"""Folders for timm and transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import transnext
from transnext.cli import main
from transnext.tasks.classification.loading import load_classifier

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "fruit"
    main(["export", str(checkpoint), "--output", str(path), "--format", "hf", "--license", "cc-by-4.0"])
    return path


def test_timm_loads_it(folder: Path, network: nn.Module) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    maps = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=(0, 1)).eval()
    images = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(model(images), network(images))
        for a, b in zip(maps(images), network.forward_intermediates(images, intermediates_only=True), strict=True):
            assert torch.equal(a, b)
    config = timm.data.resolve_model_data_config(model)
    assert (tuple(config["input_size"]), tuple(config["mean"])) == ((3, 32, 32), (0.4, 0.5, 0.6))
    assert config["crop_pct"] == 0.9
    assert model.pretrained_cfg["label_names"] == ["apples", "pears", "plüms"]
    tuned = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=5)
    assert tuned.head.fc.out_features == 5


def test_transformers_loads_it(folder: Path, checkpoint: Path) -> None:
    transformers = pytest.importorskip("transformers")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    assert model.config.id2label == {0: "apples", 1: "pears", 2: "plüms"}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    classifier = load_classifier(checkpoint)
    images = classifier.preprocessing.normalise()(classifier.preprocessing.transform()(image)[None])
    inputs = processor(image)
    assert torch.equal(inputs["pixel_values"], images)
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, classifier.model(images), atol=1e-6)


def test_what_is_in_it(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["num_classes"] == 3
    assert "num_classes" not in config["model_args"]
    assert config["pretrained_cfg"]["license"] == "cc-by-4.0"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in readme
    assert "import transnext" in readme


def test_a_live_mode_goes_along(checkpoint: Path, tmp_path: Path) -> None:
    classifier = load_classifier(checkpoint)
    classifier.model.fixed_pool_size = (3, 2)  # type: ignore[assignment]
    transnext.export_model(classifier, tmp_path / "a", format="hf")
    model = timm.create_model(f"local-dir:{tmp_path / 'a'}", pretrained=True).eval()
    assert model.fixed_pool_size == (3, 2)
    assert "license" not in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
