"""The suite on small folders, with a classifier that reads the answer from the colour of an image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from transnext.data.corruptions import CORRUPTIONS
from transnext.data.imagenet import subset_indices, wnids
from transnext.data.preprocessing import Preprocessing
from transnext.engine import Evaluator
from transnext.studies.corruptions import ALEXNET_ERRORS
from transnext.studies.imagenet import evaluate_imagenet, published, suite_as_dict, suite_table
from transnext.tasks.classification.loading import loaded_classifier

OUTSIDE_A = next(i for i in range(1000) if i not in subset_indices("a"))


class Reads(nn.Module):
    """The class that the middle of an image encodes is first; `OUTSIDE_A` is surer still where blue says so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r, g, b = (255 * x[:, :, x.shape[2] // 2, x.shape[3] // 2]).round().long().unbind(1)
        logits = torch.zeros(len(x), 1000)
        logits[torch.arange(len(x)), 4 * r + g // 64] = 5
        logits[b > 127, OUTSIDE_A] = 9
        return logits


def save(path, answer, distracted=False):
    """An image that is taken for class `answer`; only the rim of it is another colour."""
    pixels = np.full((64, 64, 3), 200, np.uint8)
    pixels[2:-2, 2:-2] = (answer // 4, 64 * (answer % 4), 255 * distracted)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")


def evaluator(name="transnext_tiny", num_classes=1000) -> Evaluator:
    preprocessing = Preprocessing(
        input_size=(3, 64, 64),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        interpolation="nearest",
        crop_pct=0.875,
        crop_mode="center",
    )
    names = [f"class {i}" for i in range(num_classes)]
    classifier = loaded_classifier(Reads().eval(), names, preprocessing, name)
    return Evaluator(classifier, workers=0, device="cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for n, i in enumerate((0, 1, 7, 500, 999), start=1):
        save(root / "imagenet" / "val" / wnids()[i] / f"ILSVRC2012_val_{n:08d}.JPEG", i if n != 2 else 999)
    real = [[] for _ in range(50_000)]
    real[1], real[2], real[3] = [3, 999], [7], [501]  # the second is right after all, the fourth is not
    (root / "real.json").write_text(json.dumps(real))
    for i in (1, 2, 10, 100):
        save(root / "imagenetv2-matched-frequency-format-val" / str(i) / "0.jpeg", i)
    for subset in "ar":
        for place, i in list(enumerate(subset_indices(subset)))[::60]:
            save(root / f"imagenet-{subset}" / wnids(subset)[place] / "x.jpg", i, distracted=subset == "a")
    save(root / "sketch" / wnids()[4] / "sketch_0.JPEG", 5)
    save(root / "sketch" / wnids()[5] / "sketch_1.JPEG", 5)
    (root / "sketch" / wnids()[5] / "sketch_2.JPEG").write_text("damaged")
    for k, corruption in enumerate(CORRUPTIONS):
        for severity in range(1, 6):
            for n in range(2):
                wrong = n == 0 and k == 0
                folder = root / "imagenet-c" / corruption / str(severity) / wnids()[30]
                save(folder / f"{n}.JPEG", 31 if wrong else 30)
    return root


def test_every_set(root):
    result = evaluate_imagenet(evaluator(), root)
    values = {s.name: (s.images, s.value) for s in result.sets}
    assert list(values) == ["val", "real", "v2", "a", "r", "sketch", "c"]
    assert values["val"] == (5, 4 / 5)
    assert values["real"] == (3, 2 / 3)
    assert values["v2"] == (4, 1.0)
    assert values["a"] == (4, 1.0)  # 0 if the answer might be one of the other 800 classes
    assert values["r"] == (4, 1.0)
    assert values["sketch"] == (2, 0.5)
    assert values["c"][1] == pytest.approx(0.5 / ALEXNET_ERRORS["gaussian_noise"] / 15)
    assert result.missing == ()
    assert [name.endswith("sketch_2.JPEG") for name, _ in result.skipped] == [True]
    published_values = {s.name: s.published for s in result.sets}
    assert published_values["a"] == pytest.approx(0.399)
    assert published_values["c"] == pytest.approx(0.465)
    assert published_values["real"] is None
    json.dumps(suite_as_dict(result), allow_nan=False)
    assert suite_table(result).row_count == 7


def test_what_is_missing_is_said(root, tmp_path):
    (tmp_path / "sketch").symlink_to(root / "sketch")
    (tmp_path / "imagenet-c" / "noise").mkdir(parents=True)
    (tmp_path / "imagenet-c" / "noise" / "shot_noise").symlink_to(root / "imagenet-c" / "shot_noise")
    result = evaluate_imagenet(evaluator(), tmp_path)
    assert [s.name for s in result.sets] == ["sketch", "c"]
    assert result.sets[1].value is None
    missing = dict(result.missing)
    assert missing["ImageNet-A"] == "imagenet-a"
    assert missing["ReaL"] == "needs the validation set"
    assert "not whole: gaussian_noise" in missing["ImageNet-C (mCE)"]
    json.dumps(suite_as_dict(result), allow_nan=False)
    suite_table(result)


def test_a_validation_set_of_other_names_has_no_real_labels(tmp_path):
    save(tmp_path / "val" / wnids()[0] / "mine.png", 0)
    result = evaluate_imagenet(evaluator(), tmp_path)
    assert [s.name for s in result.sets] == ["val"]
    assert "not named as an image of the validation set" in dict(result.missing)["ReaL"]


def test_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none of the ImageNet sets is in .*: looked for imagenet/val, val"):
        evaluate_imagenet(evaluator(), tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        evaluate_imagenet(evaluator(), tmp_path / "missing")
    with pytest.raises(ValueError, match="has 22 classes: the ImageNet suite needs"):
        evaluate_imagenet(evaluator(num_classes=22), tmp_path)


def test_published_numbers_belong_to_released_weights():
    assert published("transnext_tiny")["val"] == 84.0
    assert published("transnext_small.in1k_384")["r"] == 56.4
    assert published("downloads/transnext_base_224_1k.pth")["sketch"] == 41.4
    for other in ("runs/mine", "transnext_tiny.pth", "transnext_pico.emoji", "convnext_tiny", "no_such_model"):
        assert published(other) == {}
