import copy

import pytest
import timm
import torch
from torch import nn

import transnext  # noqa: F401 - registers the models
from transnext.config import TrainConfig
from transnext.engine.muon import Muon
from transnext.engine.optim import make_optimizer

CONFIG = TrainConfig.of(data="emoji", optimizer="muon", lr=3e-3, weight_decay=0.1)


class Network(nn.Module):
    """Matrices wide, tall, convolutional and two of one shape; a depthwise convolution; a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3, padding=1)
        self.depthwise = nn.Conv2d(7, 7, 3, padding=1, groups=7)
        self.first = nn.Linear(7, 7, bias=False)
        self.second = nn.Linear(7, 7)
        self.tall = nn.Linear(7, 19)
        self.wide = nn.Linear(19, 5)
        self.head = nn.Linear(5, 3)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.conv(x)).mean((2, 3))
        return self.head(self.wide(self.tall(self.second(self.first(x).tanh()).tanh()).tanh()).tanh())


MATRICES = ["conv.weight", "first.weight", "second.weight", "tall.weight", "wide.weight"]


def test_steps_are_those_of_the_formula() -> None:
    """Three updates against float64, matrix by matrix, with the singular vectors of the momentum."""
    torch.manual_seed(0)
    model = Network()
    optimizer = make_optimizer(model, CONFIG)
    expected = {name: p.detach().double() for name, p in model.named_parameters() if name in MATRICES}
    momentum = {name: torch.zeros_like(value) for name, value in expected.items()}
    for _ in range(3):
        _backward(model)
        for name, value in expected.items():
            gradient = model.get_parameter(name).grad.double()
            momentum[name] = 0.95 * momentum[name] + 0.05 * gradient
            update = (0.05 * gradient + 0.95 * momentum[name]).flatten(1)
            left, sizes, right = torch.linalg.svd(update, full_matrices=False)
            direction = left @ torch.diag(_newton_schulz(sizes / sizes.norm())) @ right
            step = CONFIG.optim.lr * 0.2 * max(update.shape) ** 0.5
            expected[name] = value * (1 - CONFIG.optim.lr * CONFIG.optim.weight_decay) - step * direction.view_as(value)
        optimizer.step()
    for name, value in expected.items():
        assert (model.get_parameter(name) - value).abs().max() < 1e-6, name


def test_the_rest_is_adamw() -> None:
    torch.manual_seed(0)
    model = Network()
    rest = [(name, p) for name, p in model.named_parameters() if name not in MATRICES]
    twins = [p.detach().clone().requires_grad_() for _, p in rest]
    optimizer = make_optimizer(model, CONFIG)
    adamw = torch.optim.AdamW(
        [
            {"params": [t for t in twins if t.ndim > 1], "weight_decay": CONFIG.optim.weight_decay},
            {"params": [t for t in twins if t.ndim == 1], "weight_decay": 0.0},
        ],
        lr=CONFIG.optim.lr,
    )
    for _ in range(3):
        _backward(model)
        for twin, (_, parameter) in zip(twins, rest, strict=True):
            twin.grad = parameter.grad.clone()
        optimizer.step()
        adamw.step()
    for twin, (name, parameter) in zip(twins, rest, strict=True):
        torch.testing.assert_close(parameter, twin, rtol=1e-6, atol=1e-7, msg=name)


def test_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    model = Network()
    optimizer = make_optimizer(model, CONFIG)
    _backward(model)
    optimizer.step()
    other = copy.deepcopy(model)
    resumed = make_optimizer(other, CONFIG)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (other, resumed)):
        torch.manual_seed(1)
        _backward(m)
        o.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_an_overflow_leaves_everything_out() -> None:
    """With loss scaling: an infinite gradient of one bias must not move a matrix, nor the other way round."""
    torch.manual_seed(0)
    model = Network()
    optimizer = make_optimizer(model, CONFIG)
    for name in ("second.bias", "tall.weight"):
        scaler = torch.amp.GradScaler("cpu")
        model.zero_grad()
        scaler.scale(model(torch.randn(8, 3, 6, 6)).square().sum()).backward()
        model.get_parameter(name).grad[0] = torch.inf
        before = copy.deepcopy(model.state_dict())
        scaler.step(optimizer)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), name


@pytest.mark.parametrize("layer_decay", [1.0, 0.8])
def test_matrices_of_a_transnext(layer_decay) -> None:
    model = timm.create_model("transnext_pico", num_classes=3)
    adamw = make_optimizer(model, CONFIG.but(optimizer="adamw", layer_decay=layer_decay))
    muon = make_optimizer(model, CONFIG.but(layer_decay=layer_decay))
    assert isinstance(muon, Muon)
    names = {id(p): name for name, p in model.named_parameters()}

    def values(optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
        return {names[id(p)]: g.get(key) for g in optimizer.param_groups for p in g["params"]}

    for key in ("weight_decay", "lr_scale"):
        assert values(muon, key) == values(adamw, key)
    assert {name.split(".", 4)[-1] for name, chosen in values(muon, "matrices").items() if chosen} == {
        *("attn.q.weight", "attn.kv.weight", "attn.qkv.weight", "attn.sr.weight", "attn.proj.weight"),
        *("mlp.fc1.weight", "mlp.fc2.weight", "weight"),  # the last that of patch embeddings
    }


def test_a_group_without_gradients_stays() -> None:
    model = Network()
    model.tall.weight.requires_grad_(False)
    optimizer = make_optimizer(model, CONFIG)
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def _backward(model: nn.Module) -> None:
    model.zero_grad()
    model(torch.randn(8, 3, 6, 6)).square().sum().backward()


def _newton_schulz(sizes: torch.Tensor) -> torch.Tensor:
    """What five iterations make of singular values."""
    for _ in range(5):
        sizes = 3.4445 * sizes - 4.7750 * sizes**3 + 2.0315 * sizes**5
    return sizes
