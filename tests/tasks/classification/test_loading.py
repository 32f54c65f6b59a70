"""A size that is named changes the size and nothing else, wherever the classifier comes from."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from transnext.data.preprocessing import Preprocessing
from transnext.export import ExportedModel, ExportInfo
from transnext.loaded import load
from transnext.models.checkpoint import save_checkpoint

TRAINED = Preprocessing(
    input_size=(3, 64, 64),
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    interpolation="bilinear",
    crop_pct=0.95,
    crop_mode="squash",
)


@pytest.fixture
def run(tmp_path):
    """A run folder whose preprocessing is not that of its architecture."""
    model = timm.create_model("transnext_pico", num_classes=2, img_size=64)
    metadata = {
        "architecture": "transnext_pico",
        "model_args": {"num_classes": 2, "img_size": (64, 64)},
        "class_names": ["left", "right"],
        "preprocessing": TRAINED.to_dict(),
    }
    save_checkpoint(tmp_path / "best.safetensors", model.state_dict(), metadata)
    return tmp_path


@pytest.mark.parametrize("size", [64, 33, 96])
def test_a_run(run, size) -> None:
    expected = replace(TRAINED, input_size=(3, size, size))
    assert load(run, image_size=size).preprocessing == expected
    assert load(run / "best.safetensors", image_size=size).preprocessing == expected
    assert load(run).preprocessing == TRAINED


def test_an_exported_file(tmp_path, monkeypatch) -> None:
    def pretend(self, path) -> None:
        nn.Module.__init__(self)
        self.path, self.info = path, info

    info = ExportInfo(
        architecture="transnext_pico",
        task="classification",
        outputs=("logits",),
        class_names=("left", "right"),
        preprocessing=TRAINED,
        size_multiple=32,
        precision="fp32",
        license=None,
        transnext_version="0",
    )
    monkeypatch.setattr(ExportedModel, "__init__", pretend)
    found = load(tmp_path / "a.onnx", image_size=96)
    assert found.preprocessing == replace(TRAINED, input_size=(3, 96, 96))


@pytest.mark.parametrize("name", ["transnext_pico.emoji", "resnet18"])
def test_a_name(name, monkeypatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **kwargs: create(name, **{**kwargs, "pretrained": False}))
    usual = load(name).preprocessing
    assert load(name, image_size=96).preprocessing == replace(usual, input_size=(3, 96, 96))


def test_a_model_of_one_size(monkeypatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **_: create(name, pretrained=False))
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 takes no images of 96 pixels: Input height \(96\)"):
        load("vit_tiny_patch16_224", image_size=96)
    assert load("vit_tiny_patch16_224", image_size=224).preprocessing.input_size == (3, 224, 224)


@pytest.mark.parametrize("size", [0, -1, 10**9])
def test_sizes_that_cannot_be(run, size) -> None:
    with pytest.raises(ValueError, match=f"image_size is {size}: expected between 1 and 16384"):
        load(run, image_size=size)


def test_logits_of_the_trained_size_named_and_not_named_are_the_same(run) -> None:
    from PIL import Image

    from transnext.predict import Predictor

    picture = Image.linear_gradient("L").resize((90, 41)).rotate(20)
    torch.manual_seed(0)
    assert Predictor(run)(picture) == Predictor(run, image_size=64)(picture)
