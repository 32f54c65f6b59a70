"""Tools of PyTorch that replace, wrap or transform modules and weights give what they give of any other model."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from transnext import TransNeXt

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*(torch.ao.quantization|TypedStorage|weight_norm|performance drop).*"),
]

Make = Callable[..., TransNeXt]
CONTEXTS = [torch.enable_grad, torch.no_grad, torch.inference_mode]
MODES: list[dict[str, Any]] = [{}, {"bias_mode": "interpolate"}, {"fixed_pool_size": 2}]


def image(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 48, 64, generator=torch.Generator().manual_seed(0))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("mode", MODES)
def test_ensembles(mode: dict[str, Any], context: Callable[[], Any], device: str, tiny_model: Make) -> None:
    """`stack_module_state` and `vmap`, with a base model that has weights of its own or none."""
    models, x = [tiny_model(**mode) for _ in range(2)], image()
    with torch.no_grad():
        for p in models[1].parameters():
            p.mul_(1.2)
    base = copy.deepcopy(models[0])
    with torch.no_grad():
        base(x)
    stacked = torch.func.stack_module_state(models)
    base = base.to(device)

    def call(weights: Any, x: Tensor) -> Tensor:
        return torch.func.functional_call(base, weights, (x,))

    with context():
        for _ in range(2):
            found = torch.vmap(call, in_dims=(0, None))(stacked, x)
            torch.testing.assert_close(found, torch.stack([model(x) for model in models]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("kinds", [{nn.Linear}, None])
@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_dynamic_quantisation(dtype: torch.dtype, kinds: Any, context: Callable[[], Any], tiny_model: Make) -> None:
    model, x = tiny_model(), image()
    quantised = torch.ao.quantization.quantize_dynamic(model, kinds, dtype=dtype)
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    with context():
        found = quantised(x)
        assert relative_error(found, model(x)) < (0.1 if dtype == torch.qint8 else 0.01)
        assert torch.equal(found, copy.deepcopy(quantised)(x))


def test_training_with_fake_quantisation(tiny_model: Make) -> None:
    model = tiny_model().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    prepared = torch.ao.quantization.prepare_qat(model)
    prepared(image()).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prepared.parameters())


class Wrapped(nn.Module):
    """A module inside another, without its attributes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize("kinds", [(nn.Linear,), (nn.Conv2d,), (nn.LayerNorm,), (nn.Linear, nn.Conv2d, nn.Dropout)])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_wrapped_modules(kinds: tuple[type[nn.Module], ...], backend: Any, tiny_model: Make) -> None:
    model, x = tiny_model(), image()
    model.backend = "reference"
    expected = model(x)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kinds):
                setattr(parent, name, Wrapped(child))
    model.backend = backend
    for context in CONTEXTS:
        with context():
            torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    model.train()(x).square().sum().backward()
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        torch.nn.utils.weight_norm,
        parametrizations.spectral_norm,
        lambda module: prune.l1_unstructured(module, "weight", 0.3),
        lambda module: prune.ln_structured(module, "weight", 0.3, n=2, dim=0),
    ],
)
def test_weights_that_are_computed(change: Callable[[nn.Module], object], tiny_model: Make) -> None:
    model, x = tiny_model(), image()
    with torch.no_grad():
        model(x)
    for module in list(model.modules()):
        if isinstance(module, nn.Linear):
            change(module)
    plain = tiny_model()
    with torch.no_grad():
        computed = {name: module for name, module in model.named_modules() if hasattr(module, "weight")}
        for name, module in plain.named_modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(computed[name].weight)
        for name, p in plain.named_parameters():
            if name in dict(model.named_parameters()):
                p.copy_(dict(model.named_parameters())[name])
        expected = plain(x)
    for context in CONTEXTS:
        with context():
            torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_derivatives_with_respect_to_images_and_weights(tiny_model: Make) -> None:
    model, x = tiny_model(), image(1)
    weights = dict(model.named_parameters())
    jacobian = torch.func.jacrev(model)(x)  # [1, classes, 1, 3, H, W]
    direction = torch.randn_like(x)
    along = torch.func.jvp(model, (x,), (direction,))[1]
    expected = torch.einsum("ncbihw,bihw->nc", jacobian, direction)
    torch.testing.assert_close(along, expected, rtol=1e-3, atol=1e-3)

    def loss(weights: Any, image: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (image[None],)).square().sum()

    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, torch.cat([x, direction]))
    loss(weights, direction[0]).backward()
    for name, p in weights.items():
        torch.testing.assert_close(each[name][1], p.grad, rtol=1e-3, atol=1e-3)
