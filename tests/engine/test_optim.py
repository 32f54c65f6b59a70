import dataclasses

import pytest
import timm
import torch

import transnext  # noqa: F401 - registers the models
from transnext.engine import TrainConfig
from transnext.engine.optim import make_mixer, make_optimizer, make_scheduler

CONFIG = TrainConfig(data="emoji", epochs=10, lr=1e-3, warmup_epochs=2, warmup_lr=1e-6, min_lr=1e-5)


def test_decay_follows_the_model() -> None:
    model = timm.create_model("transnext_pico", num_classes=3)
    groups = make_optimizer(model, CONFIG).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {names[id(p)] for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    assert "stages.0.blocks.0.attn.learnable_tokens" in decayed
    assert "stages.0.blocks.0.attn.q.weight" in decayed
    assert not [n for n in decayed if "cpb" in n or "temperature" in n or n.endswith(".bias")]
    assert sum(len(g["params"]) for g in groups) == len(names)


def test_schedule_warms_up_and_falls() -> None:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=CONFIG.lr)
    scheduler = make_scheduler(optimizer, CONFIG, updates_per_epoch=50)
    lrs = []
    for update in range(500):
        scheduler.step_update(update)
        lrs.append(optimizer.param_groups[0]["lr"])
    assert lrs[0] == pytest.approx(1e-6)
    assert lrs[50] == pytest.approx((1e-6 + 1e-3) / 2, rel=0.01)
    assert max(lrs) == lrs[100] == pytest.approx(1e-3)
    assert lrs[300] == pytest.approx((1e-3 + 1e-5) / 2, rel=0.01)
    assert lrs[-1] == pytest.approx(1e-5, rel=0.05)


def test_mixing_keeps_targets_probabilities() -> None:
    torch.manual_seed(0)
    mix = make_mixer(dataclasses.replace(CONFIG, mixup=0.8, cutmix=1.0, mix_prob=1.0), num_classes=5)
    mixed = 0
    for _ in range(10):
        images, targets = mix(torch.rand(7, 3, 8, 8), torch.arange(7) % 5)
        assert images.shape == (7, 3, 8, 8)
        assert targets.shape == (7, 5)
        torch.testing.assert_close(targets.sum(-1), torch.ones(7))
        mixed += bool((targets.max(-1).values < 1).any())
    assert mixed >= 8  # a box of no area mixes nothing


@pytest.mark.parametrize("values", [{"mixup": 0.0, "cutmix": 0.0}, {"mix_prob": 0.0}])
def test_no_mixing(values) -> None:
    mix = make_mixer(dataclasses.replace(CONFIG, **values), num_classes=5)
    images, targets = torch.rand(4, 3, 8, 8), torch.arange(4)
    assert mix(images, targets)[0] is images
    assert mix(images, targets)[1] is targets
