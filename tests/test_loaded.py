"""Models without a classifier are refused as they are opened, by whatever would have classified with them."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from transnext import Predictor, export_model
from transnext.cli import main
from transnext.engine.evaluation import Evaluator
from transnext.loaded import load
from transnext.tasks.classification.loading import load_classifier, loaded_classifier

BACKBONES = ["headless.pth", "detector.pth"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    state = timm.create_model("transnext_pico", num_classes=0).state_dict()
    torch.save(state, tmp_path / "headless.pth")
    detector = {f"backbone.{name}": tensor for name, tensor in state.items()}
    torch.save(
        {"state_dict": {**detector, "neck.fpn_convs.0.conv.weight": torch.zeros(3, 3)}}, tmp_path / "detector.pth"
    )
    Image.new("RGB", (70, 70)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    "command",
    [
        ["predict", "a.png", "--model", "MODEL"],
        ["eval", "MODEL", "emoji"],
        ["study", "imagenet", "MODEL", "."],
        ["export", "MODEL", "--output", "a.pt2"],
    ],
)
def test_commands_say_so(command: list[str], name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name if word == "MODEL" else word for word in command])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"transnext: {name} has no classifier")
    assert "\n" not in error
    assert "--features-only" in error


@pytest.mark.parametrize("name", BACKBONES)
def test_loaded_ones_are_refused_too(name: str, folder: Path) -> None:
    classifier = load_classifier(name)
    assert classifier.class_names == []
    for use in (load, Predictor, Evaluator):
        with pytest.raises(ValueError, match=f"{name} has no classifier, only a backbone: .*--features-only"):
            use(classifier)
    with pytest.raises(ValueError, match=f"{name} has no classifier: add --features-only"):
        export_model(classifier, folder / "a.pt2")


def test_names_must_be_as_many_as_classes() -> None:
    classifier = load_classifier()
    assert load(classifier) is classifier
    with pytest.raises(ValueError, match=r"transnext_pico.emoji names 3 classes, but its classifier has 22"):
        load(loaded_classifier(classifier.model, ["a", "b", "c"], classifier.preprocessing, classifier.name))
