"""Losses over pixels against NumPy in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from transnext.tasks.segmentation.losses import (
    LOSSES,
    PixelLoss,
    class_weights,
    cross_entropy,
    dice_loss,
    focal_loss,
    pixel_accuracy,
)
from transnext.tasks.segmentation.net import IGNORED

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.5])


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits `[3, 4, 7, 9]` and maps: one with all classes, one with two of them, one ignored, and ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 4, 7, 9, generator=generator)
    maps = torch.randint(0, 4, (3, 7, 9), generator=generator)
    maps[1] %= 2
    maps[2] = IGNORED
    maps[:, :2, :5] = IGNORED
    return logits, maps


def logs(logits: Tensor) -> npt.NDArray[np.float64]:
    """Logarithms of probabilities."""
    x = logits.double().numpy()
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def of_pixels(logits: Tensor, maps: Tensor) -> list[tuple[int, float]]:
    """Class and logarithm of its probability of each labelled pixel."""
    log, classes = logs(logits), maps.numpy()
    return [(int(c), float(log[b, c, y, x])) for (b, y, x), c in np.ndenumerate(classes) if c != IGNORED]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_cross_entropy_is_divided_by_all_pixels(weights: Tensor | None) -> None:
    logits, maps = example()
    factors = [1.0] * 4 if weights is None else weights.tolist()
    expected = -sum(factors[c] * log for c, log in of_pixels(logits, maps)) / maps.numel()
    assert float(cross_entropy(logits, maps, weights)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_focal(weights: Tensor | None, gamma: float) -> None:
    logits, maps = example()
    factors = [1.0] * 4 if weights is None else weights.tolist()
    pixels = of_pixels(logits, maps)
    expected = -sum(factors[c] * (1 - np.exp(log)) ** gamma * log for c, log in pixels) / maps.numel()
    assert float(focal_loss(logits, maps, gamma, weights)) == pytest.approx(expected, rel=1e-6)


def test_dice() -> None:
    logits, maps = example()
    p = np.exp(logs(logits))
    found = []
    for b, of_image in enumerate(maps.numpy()):
        for c in set(of_image[of_image != IGNORED].tolist()):
            there, labelled = of_image == c, of_image != IGNORED
            found.append(1 - 2 * p[b, c][there].sum() / (p[b, c][labelled].sum() + there.sum()))
    assert len(found) == 6
    assert float(dice_loss(logits, maps)) == pytest.approx(np.mean(found), rel=1e-6)
    perfect = 100 * torch.nn.functional.one_hot(maps.where(maps != IGNORED, 0), 4).movedim(-1, 1).float()
    assert float(dice_loss(perfect, maps)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, maps: cross_entropy(x, maps, WEIGHTS.double()),
        lambda x, maps: focal_loss(x, maps, 2.0, WEIGHTS.double()),
        dice_loss,
    ],
    ids=LOSSES,
)
def test_gradients(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, maps = (t[:, ..., :3, 3:6] for t in example())
    assert torch.autograd.gradcheck(lambda x: loss(x, maps), logits.double().requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 1e3], ids=["usual", "certain"])
def test_nothing_labelled_and_certain_logits(name: str, scale: float) -> None:
    logits, maps = example()
    x = (scale * logits).requires_grad_()
    loss = PixelLoss(name, focal_gamma=1.0)(x, maps.to(torch.uint8))[name]
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()

    x = logits.clone().requires_grad_()
    loss = PixelLoss(name)(x, torch.full_like(maps, IGNORED, dtype=torch.uint8))[name]
    loss.backward()
    assert loss == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_ignored_pixels_do_not_count() -> None:
    logits, maps = example()
    other = logits + 9 * torch.randn_like(logits) * (maps == IGNORED)[:, None]
    loss = PixelLoss("cross_entropy+focal+dice")
    before, after = (loss(x, maps.to(torch.uint8)) for x in (logits, other))
    assert list(before) == ["cross_entropy", "focal", "dice"]
    assert all(torch.allclose(before[name], after[name]) for name in before)


def test_logits_are_resized_to_the_maps() -> None:
    logits, _ = example()
    big = torch.nn.functional.interpolate(logits, size=(21, 30), mode="bilinear", align_corners=False)
    labels = torch.randint(0, 4, (3, 21, 30), dtype=torch.uint8)
    assert torch.equal(PixelLoss()(logits, labels)["cross_entropy"], cross_entropy(big, labels.long()))
    assert float(pixel_accuracy(logits, labels)) == pytest.approx(float((big.argmax(1) == labels).float().mean()))


def test_accuracy_counts_labelled_pixels() -> None:
    logits, maps = example()
    classes, right = maps.numpy(), logits.numpy().argmax(1) == maps.numpy()
    expected = right[classes != IGNORED].mean()
    assert 0 < expected < 1
    assert float(pixel_accuracy(logits, maps.to(torch.uint8))) == pytest.approx(expected, rel=1e-6)
    assert pixel_accuracy(logits, torch.full_like(maps, IGNORED, dtype=torch.uint8)) == 0


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_weights_from_counts(power: float) -> None:
    counts = np.array([900, 90, 0, 10])
    weights = class_weights(torch.from_numpy(counts), power).double().numpy()
    assert weights.dtype == np.float64
    assert (weights * counts).sum() == pytest.approx(1000)
    assert weights[1] / weights[0] == pytest.approx(10**power)
    assert weights[2] == weights[3]
    if power == 1:
        assert weights[0] * 900 == pytest.approx(weights[3] * 10)
    assert class_weights(counts.tolist(), power).tolist() == weights.tolist()


@pytest.mark.parametrize(
    ("counts", "power", "message"),
    [
        ([0, 0], 0.5, "some of them"),
        ([3, -1], 0.5, "pixels of each class"),
        ([], 0.5, "pixels of each class"),
        ([1], 2, "power is 2"),
    ],
)
def test_counts_that_tell_no_weights(counts: list[int], power: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_weights(counts, power)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"loss": "lovasz"}, "choose one of cross_entropy, focal, dice"),
        ({"loss": "dice+dice"}, "loss is 'dice\\+dice'"),
        ({"loss": "dice", "class_weights": [1, 2]}, "leave them out, or choose cross_entropy\\+dice"),
        ({"class_weights": [1, -2]}, "a number of 0 or more for each class"),
        ({"class_weights": [1, float("nan")]}, "a number of 0 or more for each class"),
        ({"loss": "focal", "focal_gamma": 0.5}, "focal_gamma is 0.5"),
    ],
)
def test_what_is_no_loss(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelLoss(**args)


def test_arguments_make_the_loss_again() -> None:
    logits, maps = example()
    loss = PixelLoss("focal+dice", class_weights=WEIGHTS, focal_gamma=3.0)
    again = PixelLoss(**loss.args())
    assert again.args() == loss.args() == {"loss": "focal+dice", "class_weights": [0.5, 2, 0, 1.5], "focal_gamma": 3.0}
    assert loss(logits, maps.to(torch.uint8)) == again(logits, maps.to(torch.uint8))
    assert not loss.state_dict()
