import math
import random

import pytest
import torch
from torch import nn

from transnext.data import open_dataset, train_transform
from transnext.data.preprocessing import Preprocessing
from transnext.tasks.classification.config import ClassificationConfig
from transnext.tasks.classification.objective import (
    ClassificationObjective,
    ErasedImages,
    erase,
    make_mixer,
    random_rectangle,
)

PREPROCESSING = Preprocessing(
    input_size=(3, 9, 7), mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bicubic", crop_pct=1.0, crop_mode="center"
)


def test_rectangles_are_those_of_timm() -> None:
    from timm.data.random_erasing import RandomErasing

    for seed in range(30):
        image = torch.full((3, 33, 47), 7.0)
        random.seed(seed)
        RandomErasing(1.0, mode="pixel", device="cpu")(image)
        random.seed(seed)
        random.random()  # whether to hide anything
        top, left, height, width = random_rectangle(33, 47)
        expected = torch.zeros(33, 47, dtype=torch.bool)
        expected[top : top + height, left : left + width] = True
        assert torch.equal((image != 7).any(0), expected)


def test_erasing_is_decided_by_the_image_alone() -> None:
    rectangles = torch.tensor([[1, 2, 3, 4, 11], [0, 0, 0, 0, 12], [5, 0, 2, 7, 13]])
    images = torch.zeros(3, 3, 9, 7)
    erase(images, rectangles)
    assert (images[0, :, 1:4, 2:6] != 0).all()
    assert (images != 0).sum() == 3 * (3 * 4 + 2 * 7)
    alone = torch.zeros(1, 3, 9, 7)
    erase(alone, rectangles[2:])
    assert torch.equal(alone[0], images[2])


def test_as_many_are_erased_as_asked_for() -> None:
    source = open_dataset("emoji")["val"]
    images = ErasedImages(source, train_transform((3, 16, 16), (0.5,) * 3, (0.5,) * 3, "bicubic"), erasing=0.3)
    random.seed(0)
    hidden = sum(images[i].target[3] > 0 for i in range(400))
    assert 90 < hidden < 150
    assert ErasedImages(source, images.transform)[5].target[:5] == (source.target(5), 0, 0, 0, 0)


class Ones(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_losses_are_sums() -> None:
    objective = ClassificationObjective(Ones(), PREPROCESSING, ClassificationConfig(label_smoothing=0.1), 3)
    images = torch.randint(0, 256, (5, 3, 9, 7), dtype=torch.uint8)
    sizes, targets = torch.tensor([[9, 7]]).expand(5, 2), torch.zeros(5, 6, dtype=torch.int64)
    targets[:, 0] = torch.tensor([0, 1, 2, 0, 1])
    losses = objective(images, sizes, targets)
    logits = PREPROCESSING.normalise()(images).mean((2, 3))
    expected = nn.functional.cross_entropy(logits, targets[:, 0], label_smoothing=0.1)
    torch.testing.assert_close(losses.parts["loss"], 5 * expected)
    assert losses.weight == 5
    assert losses.seen["accuracy"] == (logits.argmax(-1) == targets[:, 0]).sum()
    blank = objective(*objective.blank(torch.device("cpu")))
    assert math.isfinite(blank.parts["loss"])
    assert blank.parts.keys() == losses.parts.keys()
    assert blank.seen.keys() == losses.seen.keys()


def test_mixing_keeps_targets_probabilities() -> None:
    torch.manual_seed(0)
    mix = make_mixer(ClassificationConfig(mixup=0.8, cutmix=1.0, mix_prob=1.0), num_classes=5)
    mixed = 0
    for _ in range(10):
        images, targets = mix(torch.rand(7, 3, 8, 8), torch.arange(7) % 5)
        assert images.shape == (7, 3, 8, 8)
        assert targets.shape == (7, 5)
        torch.testing.assert_close(targets.sum(-1), torch.ones(7))
        mixed += bool((targets.max(-1).values < 1).any())
    assert mixed >= 8  # a box of no area mixes nothing


def test_copies_are_not_mixed_with_each_other() -> None:
    """Each image comes three times in a row; its own class keeps its row, and partners are of other classes."""
    torch.manual_seed(0)
    config = ClassificationConfig(mixup=0.8, cutmix=0.0, mix_prob=1.0)
    mix = make_mixer(config, num_classes=20, repeated=True)
    classes = torch.arange(20).repeat_interleave(3)
    images = torch.nn.functional.one_hot(classes).float()[:, :, None, None]  # channel c says class c
    alone = 0
    for _ in range(20):
        mixed, targets = mix(images, classes)
        torch.testing.assert_close(mixed[:, :, 0, 0], targets)
        assert (targets[torch.arange(60), classes] > 0).all()
        alone += int((targets == 1).sum())
    assert alone / 1200 < 0.1  # 2/59 of random partners are copies; 2/3 of neighbours would be


@pytest.mark.parametrize("values", [{"mixup": 0.0, "cutmix": 0.0, "mix_prob": 1.0}, {"mix_prob": 0.0}])
def test_no_mixing(values) -> None:
    mix = make_mixer(ClassificationConfig(**values), num_classes=5)
    images, targets = torch.rand(4, 3, 8, 8), torch.arange(4)
    assert mix(images, targets)[0] is images
    assert mix(images, targets)[1] is targets
