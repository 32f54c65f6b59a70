"""What a call does, and how many multiply-adds that is."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from transnext import TransNeXt
from transnext.bench.workload import Workload

pytestmark = pytest.mark.usefixtures("one_thread")


def inner(model: nn.Module) -> TransNeXt:
    return next(m for m in model.modules() if isinstance(m, TransNeXt))


@pytest.mark.parametrize(
    ("model", "gmacs"), [("transnext_tiny", 5.68), ("swin_tiny_patch4_window7_224", 4.49), ("convnext_tiny", 4.46)]
)
def test_multiply_adds(model: str, gmacs: float) -> None:
    assert Workload(model=model, size=(224, 224)).count_macs() / 1e9 == pytest.approx(gmacs, abs=0.01)


@pytest.mark.parametrize("model", ["transnext_pico", "convnext_atto", "resnet10t"])
def test_training_takes_three_times_the_multiply_adds(model: str) -> None:
    """Each product has two gradients, but for those of the images; depthwise convolutions too."""
    forward, training = (Workload(model=model, size=(64, 64), train=train).count_macs() for train in (False, True))
    assert 2.9 * forward < training <= 3 * forward


def test_multiply_adds_do_not_depend_on_how_they_are_run() -> None:
    plain = Workload(model="transnext_pico", size=(64, 96))
    other = Workload(
        model="transnext_pico", size=(64, 96), batch_size=5, backend="fused", dtype="bfloat16", channels_last=True
    )
    assert plain.count_macs() == other.count_macs()


def test_the_linear_mode_costs_less_on_large_images() -> None:
    pico = Workload(model="transnext_pico", size=(1024, 1024))
    usual, linear = (replace(pico, mode=mode).count_macs() for mode in ("extrapolate", "linear"))
    assert linear < 0.8 * usual


@pytest.mark.parametrize("features", [False, True])
def test_modes_are_set(features: bool) -> None:
    linear = inner(Workload(model="transnext_pico", size=(64, 64), mode="linear", features=features).build())
    assert linear.mode == "linear"
    assert linear.fixed_pool_size == (2, 2), "as it was trained, and as `transnext study sizes` means it"
    resized = inner(Workload(model="transnext_pico", size=(64, 64), mode="interpolate", features=features).build())
    assert resized.bias_mode == "interpolate"
    assert resized.fixed_pool_size is None


@pytest.mark.parametrize("features", [False, True])
def test_backends_are_set(features: bool) -> None:
    for backend in (None, "auto", "reference", "fused"):
        workload = Workload(model="transnext_pico", size=(64, 64), backend=backend, features=features)
        assert inner(workload.build()).backend == (backend or "auto")
    assert not hasattr(Workload(model="resnet10t", size=(64, 64)).build(), "backend")


def test_inference_is_in_eval_mode_without_gradients() -> None:
    workload = Workload(model="resnet10t", size=(64, 64))
    model = workload.build()
    workload.step(model)()
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("model_name", ["transnext_pico", "convnext_atto"])
def test_training_gives_gradients_that_do_not_add_up(model_name: str, features: bool) -> None:
    workload = Workload(model=model_name, size=(64, 64), batch_size=2, train=True, features=features)
    model = workload.build()
    assert model.training
    step = workload.step(model)
    norms = []
    for _ in range(2):
        step()
        norms.append(sum(float(p.grad.norm()) for p in model.parameters() if p.grad is not None))
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_autocast() -> None:
    workload = Workload(model="resnet10t", size=(64, 64), dtype="bfloat16")
    model = workload.build()
    seen: list[torch.dtype] = []
    model.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    workload.step(model)()
    assert seen == [torch.bfloat16]


def test_channels_last() -> None:
    workload = Workload(model="resnet10t", size=(64, 64), channels_last=True)
    model = workload.build()
    seen: list[bool] = []
    model.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    workload.step(model)()
    assert seen == [True]


def test_models_of_one_size_are_made_for_the_size_asked_for() -> None:
    workload = Workload(model="vit_tiny_patch16_224", size=(64, 96))
    workload.step(workload.build())()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiling(dynamic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: calls.append(options))
    Workload(model="resnet10t", size=(64, 64)).build()
    assert calls == []
    Workload(model="resnet10t", size=(64, 64), compile="dynamic" if dynamic else "default").build()
    assert calls == [{"dynamic": dynamic}]
