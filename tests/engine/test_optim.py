import pytest
import timm
import torch

import transnext  # noqa: F401 - registers the models
from transnext.config import TrainConfig
from transnext.engine.optim import freeze_stages, make_optimizer, make_scheduler, train_mode

CONFIG = TrainConfig.of(data="emoji", epochs=10, lr=1e-3, warmup_epochs=2, warmup_lr=1e-6, min_lr=1e-5)


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
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=CONFIG.optim.lr)
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


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("per_epoch", [False, True])
def test_any_update_can_be_the_first(schedule, per_epoch) -> None:
    config = CONFIG.but(schedule=schedule, schedule_per_epoch=per_epoch)
    rates = [_scheduler(config).step_update(update) for update in range(0, 70, 9)]
    scheduler = _scheduler(config)
    assert [scheduler.step_update(update) for update in range(0, 70, 9)] == rates


def test_a_constant_rate_after_the_warm_up() -> None:
    scheduler = _scheduler(CONFIG.but(schedule="constant"))
    assert scheduler.step_update(7) == pytest.approx((1e-6 + 1e-3) / 2)
    assert {scheduler.step_update(update) for update in range(14, 70)} == {1e-3}
    assert _scheduler(CONFIG.but(schedule="constant", warmup_epochs=0)).step_update(0) == 1e-3


def test_steps_fall_after_their_epochs() -> None:
    config = CONFIG.but(schedule="step", milestones=(8, 6), warmup_epochs=0.5)
    rates = [_scheduler(config).step_update(update) for update in range(70)]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[4:42] == [1e-3] * 38
    assert rates[42:56] == pytest.approx([1e-4] * 14)
    assert rates[56:] == pytest.approx([1e-5] * 14)
    with pytest.raises(ValueError, match="step needs some"):
        CONFIG.but(schedule="step")
    with pytest.raises(ValueError, match="others have none"):
        CONFIG.but(milestones=(3,))


class Headed(torch.nn.Module):
    """A backbone and a head, as detectors have them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
        self.norm, self.head = torch.nn.LayerNorm(3), torch.nn.Linear(3, 2)

    def slow_parameters(self) -> set[str]:
        return {f"backbone.{name}" for name, _ in self.backbone.named_parameters()}

    def no_weight_decay(self) -> set[str]:
        return {"head.weight"}


@pytest.mark.parametrize("biases", [False, True])
def test_a_backbone_that_learns_slower(biases) -> None:
    model = Headed()
    config = CONFIG.but(backbone_lr=0.1, decay_biases=biases, schedule="constant")
    optimizer = make_optimizer(model, config)
    make_scheduler(optimizer, config, 7).step_update(60)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(found) == len(names)
    for name, (lr, decay) in found.items():
        assert lr == pytest.approx(1e-4 if name.startswith("backbone") else 1e-3), name
        # The norm inside the backbone is called "backbone.1": what a name does not say is decayed, as it is there.
        exempt = name == "head.weight" or "norm" in name or (not biases and name != "backbone.0.weight")
        assert (decay == 0) == exempt, name
    with pytest.raises(ValueError, match="has no backbone"):
        make_optimizer(torch.nn.Linear(2, 2), config)


def test_a_rate_for_each_epoch() -> None:
    scheduler = _scheduler(CONFIG.but(schedule_per_epoch=True))
    rates = [scheduler.step_update(update) for update in range(70)]
    assert all(len(set(rates[7 * epoch : 7 * epoch + 7])) == 1 for epoch in range(10))
    assert len(set(rates)) == 9  # the first two epochs have the same one


def _scheduler(config, updates_per_epoch=7):
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=config.optim.lr)
    return make_scheduler(optimizer, config, updates_per_epoch)


def _layer_rates(name, config, **kwargs):
    """Learning rate of each trained parameter by name, at the peak."""
    model = timm.create_model(name, num_classes=3, **kwargs)
    freeze_stages(model, config.start.freeze_stages)
    optimizer = make_optimizer(model, config)
    peak = make_scheduler(optimizer, config.but(warmup_epochs=0), 10).step_update(0)
    assert peak == pytest.approx(config.optim.lr)
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: g["lr"] / config.optim.lr for g in optimizer.param_groups for p in g["params"]}


def test_layers_near_the_image_learn_slowly() -> None:
    rates = _layer_rates("transnext_pico", CONFIG.but(layer_decay=0.5))
    layers = [  # from the classifier down; blocks are 1, 1, 3, 1
        ["head.fc.weight", "head.fc.bias"],
        ["stages.3.norm.weight", "stages.3.blocks.0.mlp.fc1.weight", "stages.3.patch_embed.proj.weight"],
        ["stages.2.norm.bias", "stages.2.blocks.2.attn.q.weight"],
        ["stages.2.blocks.1.attn.cpb_fc1.weight"],
        ["stages.2.blocks.0.attn.temperature", "stages.2.patch_embed.norm.weight"],
        ["stages.1.blocks.0.norm1.weight", "stages.1.patch_embed.proj.bias"],
        ["stages.0.blocks.0.attn.learnable_tokens", "stages.0.norm.weight"],
        ["stages.0.patch_embed.proj.weight", "stages.0.patch_embed.norm.bias"],
    ]
    for depth, names in enumerate(layers):
        assert [rates[name] for name in names] == pytest.approx([0.5**depth] * len(names))
    assert sorted(set(rates.values())) == pytest.approx([0.5**depth for depth in range(7, -1, -1)])


def test_layer_decay_keeps_weight_decay() -> None:
    model = timm.create_model("transnext_pico", num_classes=3)

    def decayed(config):
        return {id(p) for g in make_optimizer(model, config).param_groups if g["weight_decay"] > 0 for p in g["params"]}

    assert decayed(CONFIG.but(layer_decay=0.7)) == decayed(CONFIG)


@pytest.mark.parametrize(
    ("name", "frozen", "trained"),
    [
        ("transnext_pico", ["stages.0.", "stages.1."], ["stages.2.patch_embed.proj.weight", "head.fc.weight"]),
        ("convnext_atto", ["stem.", "stages.0.", "stages.1."], ["stages.2.downsample.0.weight", "head.fc.weight"]),
        ("resnet10t", ["conv1.", "bn1.", "layer1.", "layer2."], ["layer3.0.conv1.weight", "fc.weight"]),
        ("pvt_v2_b0", ["patch_embed.", "stages.0.", "stages.1."], ["stages.2.downsample.proj.weight", "head.weight"]),
    ],
)
def test_frozen_stages_are_not_trained(name, frozen, trained) -> None:
    rates = _layer_rates(name, CONFIG.but(freeze_stages=2, layer_decay=0.9))
    expected = {n for n, _ in timm.create_model(name, num_classes=3).named_parameters()}
    assert set(rates) == {n for n in expected if not n.startswith(tuple(frozen))}
    assert set(trained) <= set(rates)


def test_training_leaves_frozen_stages_as_they_are() -> None:
    model = timm.create_model("resnet10t", num_classes=3, drop_path_rate=0.5)
    freeze_stages(model, 1)
    train_mode(model)
    assert not model.conv1.training
    assert not any(m.training for m in model.layer1.modules())
    assert model.training
    assert all(m.training for m in model.layer2.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, CONFIG)
    model(torch.rand(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "layer2.0.bn1.running_mean" in changed
    assert not [name for name in changed if name.startswith(("conv1", "bn1", "layer1"))]


def test_all_stages_frozen_leaves_the_classifier() -> None:
    assert set(_layer_rates("transnext_pico", CONFIG.but(freeze_stages=4))) == {
        "head.fc.weight",
        "head.fc.bias",
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transnext_pico", "freeze_stages is 5, but TransNeXt has 4 stages"),
        ("inception_v3", "freeze_stages is 5, but InceptionV3 does not say what its stages are"),
        ("caformer_s18", "freeze_stages is 5, but MetaFormer does not say what its layers are"),
    ],
)
def test_stages_that_are_not_there(name, message) -> None:
    with pytest.raises(ValueError, match=message):
        freeze_stages(timm.create_model(name, device="meta"), 5)


def test_layers_that_are_not_known() -> None:
    with pytest.raises(ValueError, match=r"layer_decay is 0\.9, but MetaFormer does not say"):
        make_optimizer(timm.create_model("caformer_s18", device="meta"), CONFIG.but(layer_decay=0.9))
