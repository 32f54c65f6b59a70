"""Explanations by gradients against their formulas, and with targets of every task."""

import importlib.util

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.small_transnext import small_model
from transnext.explain import (
    CAM_METHODS,
    class_activation,
    class_target,
    integrated_gradients,
    object_target,
    segment_target,
)
from transnext.explain.maps import on_image
from transnext.models.backbone import Backbone
from transnext.tasks.detection.net import Found
from transnext.tasks.detection.nets import DETECTORS, build_net

pytest.importorskip("torchcam")
pytest.importorskip("captum")


def activation_and_gradient(model: nn.Module, images: Tensor, stage: int, labels: list[int]) -> tuple[Tensor, Tensor]:
    """Map of a stage and the gradient of the logits to it, `[B, C, h, w]`, with the network run on from there."""
    x = images.permute(0, 2, 3, 1)
    for part in model.stages[: stage + 1]:
        x = part(x)
    leaf = x.detach().requires_grad_()
    x = leaf
    for part in model.stages[stage + 1 :]:
        x = part(x)
    logits = model.forward_head(x)
    (gradient,) = torch.autograd.grad(logits[range(len(labels)), labels].sum(), leaf)
    return leaf.detach().movedim(-1, 1), gradient.movedim(-1, 1)


@pytest.mark.parametrize(("stage", "stride"), [(3, 32), (2, 16), (0, 4)])
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_equals_the_formula_where_the_patches_are(method, stage, stride):
    model, images = small_model().double().eval(), torch.randn(2, 3, 96, 131, dtype=torch.float64)
    activation, gradient = activation_and_gradient(model, images, stage, [1, 2])
    weight = gradient.mean((2, 3), keepdim=True) if method == "gradcam" else gradient.relu()
    maps = (weight * activation).sum(1).relu()
    maps = maps - maps.amin((1, 2), keepdim=True)
    maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-8)
    targets = [class_target(1), class_target(2)]
    ours = class_activation(model, images, targets, method=method, stage=stage)
    torch.testing.assert_close(ours, on_image(maps, stride, (96, 131)))


@pytest.mark.parametrize("method", CAM_METHODS)
def test_every_method_explains_the_likeliest_class(method):
    model, images = small_model(drop_path_rate=0.5).train(), torch.randn(2, 3, 64, 64)
    ours = class_activation(model, images, method=method, stage=2)
    assert ours.shape == (2, 64, 64)
    assert (ours >= 0).all()
    assert (ours <= 1).all()
    labels = model.eval()(images).argmax(1).tolist()
    torch.testing.assert_close(
        class_activation(model, images, [class_target(i) for i in labels], method=method, stage=2), ours
    )
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("size", "stage"), [((64, 64), 1), ((224, 224), 3), ((96, 500), 1), ((97, 500), 2), ((20, 20), 0)]
)
def test_the_layer_is_the_last_that_shows_where(size, stage):
    model, images = small_model(), torch.randn(1, 3, *size)
    chosen = class_activation(model, images, class_target(1), method="layercam")
    torch.testing.assert_close(chosen, class_activation(model, images, class_target(1), method="layercam", stage=stage))


def test_frozen_weights_and_inference_mode():
    model = small_model().requires_grad_(False)
    images = torch.randn(1, 3, 64, 64)
    expected = class_activation(model, images, class_target(0))
    with torch.inference_mode():
        torch.testing.assert_close(class_activation(model, images, class_target(0)), expected)
        assert integrated_gradients(model, images, class_target(0), steps=4).shape == (1, 64, 64)


def test_integrated_gradients_of_a_linear_model_are_its_weights():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 5, 4, bias=False)).double()
    images, baseline = torch.randn(2, 3, 6, 5).double(), torch.randn(1, 3, 6, 5).double()
    ours = integrated_gradients(model, images, class_target(2), baseline=baseline, steps=3)
    weight = model[1].weight[2].detach().view(3, 6, 5)
    torch.testing.assert_close(ours, (weight * (images - baseline)).sum(1))


def test_integrated_gradients_sum_to_the_difference():
    model, images = small_model().double().eval(), 0.3 * torch.randn(2, 3, 64, 64, dtype=torch.float64)
    targets = [class_target(0), class_target(2)]
    ours = integrated_gradients(model, images, targets, steps=256)
    with torch.no_grad():
        difference = model(images) - model(torch.zeros_like(images))
    expected = difference[[0, 1], [0, 2]]
    torch.testing.assert_close(ours.sum((1, 2)), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())


def found(scores: Tensor) -> Found:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 40, 40]])
    return Found(boxes=boxes, scores=scores, labels=torch.tensor([0, 1, 1]))


def test_the_target_of_an_object_is_the_score_of_the_nearest_of_its_class():
    scores = torch.tensor([0.9, 0.8, 0.7], requires_grad=True)
    assert object_target((0, 0, 10, 10), 0)(found(scores)) == scores[0]
    assert object_target((0, 0, 10, 10), 1)(found(scores)) == scores[1]
    target = object_target((22, 20, 42, 40), 1)(found(scores))
    assert torch.autograd.grad(target, scores)[0].tolist() == [0, 0, 1]
    assert object_target((0, 0, 10, 10), 5)(found(scores)) == 0


def test_the_target_of_a_segment_is_its_mean_score():
    scores = torch.zeros(3, 4, 4)
    scores[1, :2] = torch.arange(8.0).view(2, 4) + 1
    assert segment_target(1)(scores) == 4.5
    region = torch.zeros(16, 16, dtype=torch.bool)
    region[:4, :8] = True  # the first two places
    assert segment_target(1, region)(scores) == 1.5
    assert segment_target(2)(scores) == 0


@pytest.mark.parametrize("detector", DETECTORS)
def test_objects_of_every_detector(detector):
    kind = DETECTORS[detector]
    for package in kind.packages:
        pytest.importorskip(package)
    net = build_net(detector, Backbone("transnext_pico", kind.strides[None]), 2, masks=kind.masks, size="small").eval()
    images, sizes = torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]])

    def run(x: Tensor) -> list[Found]:
        return net(x, sizes.expand(len(x), 2))

    with torch.no_grad():
        (said,) = run(images)
    assert len(said)
    target = object_target(said.boxes[0].tolist(), int(said.labels[0]))
    ours = class_activation(net, images, target, method="layercam", stage=2, run=run)
    assert ours.shape == (1, 64, 64)
    assert ours.max() > 0.5
    signed = integrated_gradients(net, images, target, steps=3, run=run)
    assert signed.abs().max() > 0


def test_errors(monkeypatch):
    model, images = small_model(), torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match="method is 'cam'"):
        class_activation(model, images, method="cam")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stage is 4"):
        class_activation(model, images, stage=4)
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        class_activation(model, images, [class_target(0)])
    with pytest.raises(ValueError, match="no logits of classes"):
        class_activation(model, images, run=lambda x: [model(x)])
    with pytest.raises(ValueError, match="no TransNeXt"):
        class_activation(nn.Linear(2, 2), images)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'a class activation map needs torchcam: pip install "transnext\[explain\]"'):
        class_activation(model, images)
    with pytest.raises(ValueError, match=r'integrated gradients needs? captum: pip install "transnext\[explain\]"'):
        integrated_gradients(model, images)
