"""The baseline in the style of the released code gives our outputs from our parameters."""

from collections.abc import Callable
from types import ModuleType

import pytest
import timm
import torch
from torch import nn

from transnext import TransNeXt

SMALL = {
    "num_classes": 5,
    "embed_dims": (12, 16, 24, 32),
    "num_heads": (1, 2, 2, 4),
    "mlp_ratios": (3, 3, 2, 2),
    "depths": (1, 1, 2, 1),
    "pretrain_size": 64,
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (72, 104)])
def test_same_outputs(
    released_style: ModuleType, randomise: Callable[[nn.Module], nn.Module], size: tuple[int, int]
) -> None:
    ours = randomise(TransNeXt(img_size=64, **SMALL)).eval()
    theirs = released_style.ReleasedStyleTransNeXt(**SMALL).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = ours(images)
        assert expected.std() > 0.1
        assert torch.allclose(theirs(images), expected, atol=1e-4)


def test_same_gradients(released_style: ModuleType, randomise: Callable[[nn.Module], nn.Module]) -> None:
    ours = randomise(TransNeXt(img_size=64, **SMALL))
    theirs = released_style.ReleasedStyleTransNeXt(**SMALL)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for model in (ours, theirs):
        model(images).square().mean().backward()
    expected = dict(ours.named_parameters())
    for name, p in theirs.named_parameters():
        assert p.grad is not None
        assert torch.allclose(p.grad, expected[name].grad, rtol=1e-3, atol=1e-4), name


def test_the_tiny_one_has_the_parameters_of_ours(released_style: ModuleType) -> None:
    def shapes(model: nn.Module) -> dict[str, torch.Size]:
        return {name: p.shape for name, p in model.state_dict().items()}

    with torch.device("meta"):
        theirs = released_style.released_style_tiny()
    assert shapes(theirs) == shapes(timm.create_model("transnext_tiny", device="meta"))
