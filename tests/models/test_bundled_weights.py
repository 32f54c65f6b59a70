"""The weights in the package, as a user who types no training command meets them."""

from pathlib import Path

import timm

import transnext
from transnext.data import load_emoji
from transnext.models.variants import EMOJI_CLASSES, WEIGHTS


def test_their_classes_are_those_of_the_bundled_set() -> None:
    assert load_emoji().class_names == EMOJI_CLASSES


def test_they_are_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 8 * 1024**2


def test_accuracy_is_what_the_model_card_says() -> None:
    card = (Path(__file__).parents[2] / "docs" / "pico_model_card.md").read_text(encoding="utf-8")
    for result in transnext.evaluate("transnext_pico.emoji", "emoji", workers=0, device="cpu"):
        assert f"| {result.split} | {result.num_images} | {100 * result.top1:.1f} % |" in card


def test_new_classes_keep_the_rest() -> None:
    old = timm.create_model("transnext_pico", pretrained=True)
    new = timm.create_model("transnext_pico", pretrained=True, num_classes=3)
    assert old.head.fc.out_features == 22
    assert new.head.fc.out_features == 3
    assert (old.stages[2].norm.weight == new.stages[2].norm.weight).all()
