"""What timm's users expect of a backbone, for every registered variant.

Variants are built with few blocks, so that channels, heads, windows and pools are their own and the tests are quick.
"""

import copy
import io
import math
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.fx
from timm.data import resolve_data_config, resolve_model_data_config
from timm.models import FeatureInfo
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import freeze, unfreeze
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import transnext
from transnext import TransNeXt

pytestmark = pytest.mark.usefixtures("one_thread")

# The one with smaller patches has other strides; test_variants.py has it.
VARIANTS = [name for name in timm.list_models("transnext_*") if "patch2" not in name]
REDUCTIONS = [4, 8, 16, 32]
SIZE = (64, 96)
FEW_BLOCKS = (1, 1, 2, 1)

Randomise = Callable[[nn.Module], nn.Module]


def create(name: str, **kwargs: Any) -> Any:
    return timm.create_model(name, **{"depths": FEW_BLOCKS, "num_classes": 6, **kwargs}).eval()


@lru_cache(maxsize=1)
def shared(name: str) -> TransNeXt:
    """A model for tests that leave it as it is. Tests are grouped by variant, so keeping the last one is enough."""
    return create(name)


@pytest.fixture(params=VARIANTS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str) -> TransNeXt:
    return shared(name)


def image(batch: int = 1, chans: int = 3, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(batch, chans, *size, generator=torch.Generator().manual_seed(5))


def map_size(reduction: int, size: tuple[int, int] = SIZE) -> tuple[int, int]:
    return math.ceil(size[0] / reduction), math.ceil(size[1] / reduction)


def channels(model: TransNeXt) -> list[int]:
    return [info["num_chs"] for info in model.feature_info]


def test_registry() -> None:
    assert {f"transnext_{v}" for v in ("micro", "tiny", "small", "base", "micro_aaaa", "pico", "nano")} <= set(VARIANTS)
    assert set(timm.list_pretrained("transnext_*")) == {
        "transnext_micro.in1k",
        "transnext_tiny.in1k",
        "transnext_small.in1k",
        "transnext_small.in1k_384",
        "transnext_base.in1k",
        "transnext_base.in1k_384",
        "transnext_micro_aaaa.in1k",
        "transnext_pico.emoji",
    }
    assert transnext.TransNeXt is TransNeXt


@pytest.mark.parametrize("name", timm.list_models("transnext_*", include_tags=True))
def test_default_config(name: str) -> None:
    """Input and pool size, names of the first convolution and classifier, as built in full."""
    model = timm.create_model(name, device="meta").eval()
    cfg = model.default_cfg
    assert model.pretrained_cfg is cfg
    classes = 22 if name == "transnext_pico.emoji" else 1000
    assert model.num_classes == cfg["num_classes"] == classes
    for key in ("first_conv", "classifier"):
        assert f"{cfg[key]}.weight" in model.state_dict()
    maps = model.forward_features(torch.empty(1, *cfg["input_size"], device="meta"))
    assert maps.shape == (1, *cfg["pool_size"], model.num_features)
    assert model.forward_head(maps, pre_logits=True).shape == (1, model.head_hidden_size)
    assert model.forward_head(maps).shape == (1, classes)
    assert model.pretrained_cfg["architecture"] == name.split(".")[0]


@pytest.mark.parametrize(
    ("name", "size", "crop", "mode"),
    [
        ("transnext_tiny", 224, 0.875, "center"),
        ("transnext_small.in1k_384", 384, 1.0, "squash"),
        ("transnext_base.in1k_384", 384, 1.0, "squash"),
        ("transnext_micro_aaaa", 256, 0.875, "center"),
    ],
)
def test_data_config(name: str, size: int, crop: float, mode: str) -> None:
    data = resolve_model_data_config(timm.create_model(name, device="meta"))
    assert data["input_size"] == (3, size, size)
    assert data["mean"] == (0.485, 0.456, 0.406)
    assert data["std"] == (0.229, 0.224, 0.225)
    assert data["interpolation"] == "bicubic"
    assert data["crop_pct"] == crop
    assert data["crop_mode"] == mode


def test_data_config_follows_the_arguments(name: str) -> None:
    model = timm.create_model(name, device="meta", img_size=(96, 160), in_chans=4)
    assert resolve_data_config(model=model)["input_size"] == (4, 96, 160)
    assert model.default_cfg["pool_size"] == (3, 5)
    assert model.in_chans == 4
    model.set_input_size(256)
    assert resolve_model_data_config(model)["input_size"] == (4, 256, 256)
    assert model.default_cfg["pool_size"] == (8, 8)
    assert timm.create_model(name, device="meta").default_cfg["input_size"][1:] != (96, 160), "defaults are not shared"


def test_set_input_size_changes_no_output(name: str) -> None:
    model, x = create(name, img_size=64), image()
    with torch.no_grad():
        for mode in ("extrapolate", "interpolate"):
            model.bias_mode = mode
            before = model(x)
            model.set_input_size((128, 96))
            assert torch.equal(model(x), before)
    with pytest.raises(ValueError, match="img_size is 0"):
        model.set_input_size(0)


# Construction


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", ""])
def test_global_pool(pool: str) -> None:
    model, x = create("transnext_pico", global_pool=pool), image(2)
    C = model.num_features
    with torch.no_grad():
        maps = model.forward_features(x)
        pooled = model.forward_head(maps, pre_logits=True)
        logits = model(x)
    average, largest = maps.mean((1, 2)), maps.amax((1, 2))
    expected = {
        "avg": average,
        "max": largest,
        "avgmax": (average + largest) / 2,
        "catavgmax": torch.cat((average, largest), 1),
        "": maps,
    }[pool]
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, model.get_classifier()(expected), rtol=1e-5, atol=1e-6)
    assert logits.shape == ((2, 2, 3, 6) if pool == "" else (2, 6))
    assert model.head_hidden_size == (2 * C if pool == "catavgmax" else C)
    assert model.num_features == C


def test_create_with_everything(name: str) -> None:
    model = create(
        name, num_classes=11, in_chans=5, drop_rate=0.3, drop_path_rate=0.2, proj_drop_rate=0.1, attn_drop_rate=0.1
    )
    assert model.get_classifier().out_features == model.num_classes == 11
    assert model.stages[0].patch_embed.proj.in_channels == 5
    x = image(2, 5)
    with torch.no_grad():
        assert torch.equal(model(x), model(x)), "nothing is dropped in eval"
        model.train()
        assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("rate", ["drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate"])
def test_each_rate_acts_in_training_alone(rate: str, randomise: Randomise) -> None:
    model, x = randomise(create("transnext_pico", **{rate: 0.5})), image(2)
    plain = randomise(create("transnext_pico"))
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
        assert torch.equal(plain.train()(x), plain(x))
        model.train()
        assert not torch.equal(model(x), model(x))


def test_no_classifier(name: str) -> None:
    model, x = create(name, num_classes=0), image()
    with torch.no_grad():
        assert model(x).shape == (1, model.num_features)
        assert torch.equal(model(x), model.forward_head(model.forward_features(x), pre_logits=True))
    assert not [key for key in model.state_dict() if key.startswith("head")]
    model = create(name, num_classes=0, global_pool="")
    with torch.no_grad():
        assert model(x).shape == (1, *map_size(32), model.num_features)


def test_reset_classifier(name: str) -> None:
    model, x = create(name).train(), image()
    C = model.num_features
    body = {key: t.clone() for key, t in model.state_dict().items() if key.startswith("stages")}

    def out() -> Tensor:
        with torch.no_grad():
            return model(x)

    model.reset_classifier(9)
    assert out().shape == (1, 9)
    assert model.num_classes == 9
    assert 0.01 < float(model.head.fc.weight.detach().std()) < 0.03
    assert model.head.fc.training
    model.reset_classifier(4, "catavgmax")
    assert out().shape == (1, 4)
    assert model.head.fc.in_features == model.head_hidden_size == 2 * C
    assert model.global_pool == "catavgmax"
    model.reset_classifier(0)
    assert out().shape == (1, 2 * C)
    assert isinstance(model.get_classifier(), nn.Identity)
    model.reset_classifier(0, "")
    assert out().shape == (1, *map_size(32), C)
    model.reset_classifier(3, "avg")
    assert out().shape == (1, 3)
    assert model.head_hidden_size == C
    assert all(torch.equal(model.state_dict()[key], t) for key, t in body.items())


def test_reset_classifier_keeps_dtype_and_device() -> None:
    model = create("transnext_pico", device="meta", dtype=torch.bfloat16)
    model.reset_classifier(3)
    assert model.head.fc.weight.dtype == torch.bfloat16
    assert model.head.fc.weight.device.type == "meta"


# Features


def test_forward_in_parts(model: TransNeXt) -> None:
    x = image(2)
    with torch.no_grad():
        maps = model.forward_features(x)
        assert maps.shape == (2, *map_size(32), model.num_features)
        logits = model(x)
        assert torch.equal(model.forward_head(maps), logits)
        pooled = model.forward_head(maps, pre_logits=True)
        assert pooled.shape == (2, model.head_hidden_size)
        assert torch.equal(model.get_classifier()(pooled), logits)


def test_intermediates_are_the_outputs_of_the_stage_norms(model: TransNeXt) -> None:
    x = image(2)
    seen: list[Tensor] = []
    handles = [stage.norm.register_forward_hook(lambda m, i, out: seen.append(out)) for stage in model.stages]
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
    for handle in handles:
        handle.remove()
    assert len(maps) == len(seen) == 4
    info = FeatureInfo(model.feature_info, (0, 1, 2, 3))
    assert info.reduction() == REDUCTIONS
    for m, normed, c, r in zip(maps, seen, info.channels(), info.reduction(), strict=True):
        assert m.shape == (2, c, *map_size(r))
        assert m.is_contiguous()
        assert torch.equal(m, normed.permute(0, 3, 1, 2))
    with torch.no_grad():
        assert torch.equal(final, model.forward_features(x))


@pytest.mark.parametrize(
    ("indices", "stages"),
    [(None, [0, 1, 2, 3]), (2, [2, 3]), ([0, 2], [0, 2]), ([-1], [3]), ([-3, -1], [1, 3]), ((0, 1), [0, 1])],
)
def test_intermediates_chosen(model: TransNeXt, indices: Any, stages: list[int]) -> None:
    x = image()
    with torch.no_grad():
        every = model.forward_intermediates(x, intermediates_only=True)
        found = model.forward_intermediates(x, indices=indices, intermediates_only=True)
        assert len(found) == len(stages)
        assert all(torch.equal(m, every[i]) for m, i in zip(found, stages, strict=True))
        nhwc = model.forward_intermediates(x, indices=indices, intermediates_only=True, output_fmt="NHWC")
        assert all(torch.equal(a.permute(0, 2, 3, 1), b) for a, b in zip(found, nhwc, strict=True))
        normed = model.forward_intermediates(x, indices=indices, intermediates_only=True, norm=True)
        assert all(torch.equal(a, b) for a, b in zip(found, normed, strict=True))


def test_intermediates_stop_early(model: TransNeXt) -> None:
    x = image()
    ran: list[int] = []
    handles = [s.register_forward_hook(lambda m, a, o, i=i: ran.append(i)) for i, s in enumerate(model.stages)]
    with torch.no_grad():
        full, maps = model.forward_intermediates(x, indices=[0, 1])
        assert ran == [0, 1, 2, 3]
        assert full.shape[-1] == channels(model)[-1]
        ran.clear()
        last, early = model.forward_intermediates(x, indices=[0, 1], stop_early=True)
        assert ran == [0, 1]
    for handle in handles:
        handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(maps, early, strict=True))
    assert torch.equal(last.permute(0, 3, 1, 2), early[-1])


def test_intermediates_errors(model: TransNeXt) -> None:
    with pytest.raises(ValueError, match="'NLC'"):
        model.forward_intermediates(image(), output_fmt="NLC")
    for bad in (5, [4], [-5]):
        with pytest.raises((ValueError, AssertionError), match=r"index|indices|range|last"):
            model.forward_intermediates(image(), indices=bad)


@pytest.mark.parametrize("feature_cls", [None, "getter", "fx", "hook"])
def test_features_only(name: str, feature_cls: str | None) -> None:
    how = {} if feature_cls is None else {"feature_cls": feature_cls}
    torch.manual_seed(3)
    extractor = create(name, features_only=True, **how)
    torch.manual_seed(3)
    plain = create(name)
    x = image(2)
    with torch.no_grad():
        found = extractor(x)
        expected = plain.forward_intermediates(x, intermediates_only=True)
    channels_last = feature_cls in ("fx", "hook")
    assert str(getattr(extractor, "output_fmt", "NCHW")).endswith("NHWC" if channels_last else "NCHW")
    assert extractor.feature_info.channels() == channels(plain)
    assert extractor.feature_info.reduction() == REDUCTIONS
    assert len(found) == 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.permute(0, 3, 1, 2) if channels_last else a, b)
    assert extractor.default_cfg["input_size"] == plain.default_cfg["input_size"]


@pytest.mark.parametrize(
    ("out_indices", "stages"), [((0, 2), [0, 2]), ((-1,), [3]), ((-3, -2), [1, 2]), ((1,), [1]), (2, [2, 3])]
)
@pytest.mark.parametrize("feature_cls", ["getter", "fx"])
def test_features_only_chosen(feature_cls: str, out_indices: Any, stages: list[int]) -> None:
    extractor = create("transnext_pico", features_only=True, feature_cls=feature_cls, out_indices=out_indices)
    with torch.no_grad():
        found = extractor(image())
    all_channels = channels(shared("transnext_pico"))
    assert extractor.feature_info.channels() == [all_channels[i] for i in stages]
    assert extractor.feature_info.reduction() == [REDUCTIONS[i] for i in stages]
    axis = 3 if feature_cls == "fx" else 1
    for m, i in zip(found, stages, strict=True):
        assert m.shape[axis] == all_channels[i]
        assert sorted(m.shape[1:]) == sorted((all_channels[i], *map_size(REDUCTIONS[i])))
    if feature_cls == "getter":
        assert len(extractor.model.stages) == stages[-1] + 1, "stages that give nothing are left out"
        assert not [key for key in extractor.state_dict() if ".head." in key]


def test_prune(name: str) -> None:
    x = image()
    for indices, kept in (([0, 1], 2), (1, 4), ([-2], 3), ([0, 3], 4)):
        model = create(name)
        with torch.no_grad():
            expected = model.forward_intermediates(x, indices=indices, intermediates_only=True)
            stages = model.prune_intermediate_layers(indices)
            found = model.forward_intermediates(x, indices=stages, intermediates_only=True)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert len(model.stages) == kept
            assert model.num_features == channels(model)[kept - 1]
            assert torch.equal(model(x), model.forward_features(x)), "no pooling and no classifier any more"
            model.reset_classifier(7, "avg")
            assert model(x).shape == (1, 7)
    model = create(name)
    model.prune_intermediate_layers([3], prune_head=False)
    with torch.no_grad():
        assert model(x).shape == (1, 6)


# Training


def test_gradients_reach_every_parameter(name: str, randomise: Randomise) -> None:
    model = randomise(create(name)).train()
    (model(image(2)) * torch.arange(1.0, 7.0)).sum().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        # A constant per head cancels in the softmax of global attention.
        if not (key.endswith("cpb_fc2.bias") and name != "transnext_micro_aaaa" and key.startswith("stages.3")):
            assert p.grad.abs().max() > 0, key


def test_checkpointing_changes_no_gradient(name: str) -> None:
    torch.manual_seed(1)
    model, x = create(name).train(), image()

    def gradients() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        out = model(x)
        out.square().sum().backward()
        return out.detach(), {key: p.grad.clone() for key, p in model.named_parameters()}

    out, plain = gradients()
    with torch.no_grad():
        intermediate = model.forward_intermediates(x)[0]
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = model.stages[2].blocks[0].attn.register_forward_pre_hook(count)
    model.set_grad_checkpointing()
    out_again, again = gradients()
    assert calls == 2, "the forward of a block runs again in the backward pass"
    assert torch.equal(out, out_again)
    for key, g in plain.items():
        torch.testing.assert_close(again[key], g, rtol=1e-5, atol=1e-7, msg=lambda m, key=key: f"{key}: {m}")
    torch.testing.assert_close(model.forward_intermediates(x)[0].detach(), intermediate)
    model.set_grad_checkpointing(False)
    calls = 0
    gradients()
    assert calls == 1
    handle.remove()


def test_checkpointing_repeats_dropout() -> None:
    """The recomputed forward must drop what the first one dropped."""
    model, x = create("transnext_pico", drop_path_rate=0.5, attn_drop_rate=0.2).train(), image(4)
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(7)
        model(x).square().sum().backward()
        results.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_layer_decay_groups(name: str) -> None:
    model = timm.create_model(name, device="meta", num_classes=6)
    depths = [len(stage.blocks) for stage in model.stages]
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5, verbose=False
    )
    names = {id(p): key for key, p in model.named_parameters()}
    scale = {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}
    assert scale.keys() == set(names.values()), "each parameter is in one group"
    undecayed = {names[id(p)] for g in groups for p in g["params"] if g["weight_decay"] == 0}
    assert model.no_weight_decay() <= undecayed

    layer = {key: -math.log2(s) for key, s in scale.items()}  # 0 for the last layer, then counting towards the stem
    order = [max(v for key, v in layer.items() if key.startswith("stages.0.patch_embed"))]
    for s, depth in enumerate(depths):
        for b in range(depth):
            of_block = {v for key, v in layer.items() if key.startswith(f"stages.{s}.blocks.{b}.")}
            assert len(of_block) == 1, "a block is one layer"
            order.append(of_block.pop())
        assert {v for key, v in layer.items() if key.startswith(f"stages.{s}.norm")} == {order[-1]}
        if s:
            first = {v for key, v in layer.items() if key.startswith(f"stages.{s}.blocks.0.")}
            assert {v for key, v in layer.items() if key.startswith(f"stages.{s}.patch_embed")} == first
    order.append(layer["head.fc.weight"])
    assert layer["head.fc.bias"] == order[-1] == 0
    assert order == sorted(order, reverse=True)
    assert len(set(order)) == len(order) == sum(depths) + 2, "the stem, every block, the head"


def test_coarse_groups(name: str) -> None:
    model = timm.create_model(name, device="meta", num_classes=6)
    groups = timm.models.group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert groups["stages.0.patch_embed.proj.weight"] == 0
    for s in range(4):
        assert {v for k, v in groups.items() if k.startswith(f"stages.{s}.blocks")} == {s + 1}
    assert groups["head.fc.weight"] > 4


def test_optimizer_factory(name: str) -> None:
    model = create(name)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    before = model.stages[0].patch_embed.proj.weight.detach().clone()
    model(image()).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.stages[0].patch_embed.proj.weight)


def test_freezing() -> None:
    model = create("transnext_pico")
    freeze(model, ["stages.0", "stages.1"])
    trained = {key.split(".")[1] for key, p in model.named_parameters() if p.requires_grad}
    assert trained == {"2", "3", "fc"}
    model(image()).sum().backward()
    assert model.stages[1].norm.weight.grad is None
    assert model.stages[2].norm.weight.grad is not None
    unfreeze(model, ["stages.0", "stages.1"])
    assert all(p.requires_grad for p in model.parameters())


# Weights


@pytest.mark.parametrize("source", ["file", "state_dict"])
def test_pretrained_adapts_channels_and_classes(name: str, source: str, tmp_path: Path) -> None:
    weights = create(name, num_classes=1000).state_dict()
    overlay: dict[str, Any] = {"state_dict": weights, "num_classes": 1000}
    if source == "file":
        torch.save(weights, tmp_path / "weights.pth")
        overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 1000}
    same = create(name, num_classes=1000, pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(weights[key], t) for key, t in same.state_dict().items())

    changed = create(name, num_classes=4, in_chans=1, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    conv = "stages.0.patch_embed.proj.weight"
    torch.testing.assert_close(changed[conv], weights[conv].sum(1, keepdim=True))
    assert changed["head.fc.weight"].shape[0] == 4
    for key, t in weights.items():
        assert key == conv or key.startswith("head") or torch.equal(changed[key], t), key

    features = create(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    assert {f"model.{key}" for key in weights if not key.startswith("head")} == features.keys()
    assert all(torch.equal(weights[key.removeprefix("model.")], t) for key, t in features.items())


def test_state_dict_round_trip(name: str) -> None:
    torch.manual_seed(1)
    a = create(name)
    buffer = io.BytesIO()
    torch.save(a.state_dict(), buffer)
    buffer.seek(0)
    b = create(name)
    with torch.no_grad():
        assert not torch.equal(a(image()), b(image()))
        b.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(a(image()), b(image()))
    assert not list(a.buffers()), "nothing in the weights depends on the image size"
    with pytest.raises(RuntimeError, match="Missing key"):
        b.load_state_dict({key: t for key, t in a.state_dict().items() if "temperature" not in key})


def test_state_dict_given_is_left_alone() -> None:
    a, b = create("transnext_pico"), create("transnext_pico")
    weights = a.state_dict()
    keys = list(weights)
    b.load_state_dict(weights)
    assert list(weights) == keys


def test_copies(name: str) -> None:
    model, x = create(name), image()
    model.bias_mode = "interpolate"
    with torch.no_grad():
        expected = model(x)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), expected)
            assert other.bias_mode == "interpolate"
            other.stages[0].norm.weight.zero_()
            other.bias_mode = "extrapolate"
        assert torch.equal(model(x), expected), "a copy shares nothing with the model"


# Devices, dtypes, shapes


def test_meta_device_and_materialising(name: str) -> None:
    model = create(name, device="meta")
    assert all(p.device.type == "meta" for p in model.parameters())
    assert model(torch.empty(2, 3, *SIZE, device="meta")).shape == (2, 6)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(math.nan)
    model.init_weights()
    with torch.no_grad():
        assert model(image()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_argument(name: str, dtype: torch.dtype, randomise: Randomise) -> None:
    model = create(name, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    wide = create(name, dtype=torch.float64)
    randomise(model)
    wide.load_state_dict(model.state_dict())
    x = image(2).to(dtype)
    with torch.no_grad():
        found = model(x)
        exact = wide(x.double())
    assert found.dtype == dtype
    error = (found.double() - exact).norm() / exact.norm()
    assert error < {torch.bfloat16: 0.06, torch.float16: 0.01, torch.float64: 1e-12}[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name: str, dtype: torch.dtype, randomise: Randomise) -> None:
    model, x = randomise(create(name)), image(2)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", dtype):
            found = model(x)
    assert (found.float() - exact).norm() / exact.norm() < 0.06
    model.train()
    with torch.autocast("cpu", dtype):
        loss = model(x).float().square().sum()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_batch_is_a_list_of_images(name: str, randomise: Randomise) -> None:
    model, x = randomise(create(name)), image(3)
    with torch.no_grad():
        together = model(x)
        for b in range(3):
            torch.testing.assert_close(model(x[b : b + 1]), together[b : b + 1], rtol=1e-4, atol=1e-5)
        assert model(x[:0]).shape == (0, 6)


def test_memory_format_of_the_input(model: TransNeXt) -> None:
    x = image(2)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)
        wider = torch.cat((x, x), 3)[..., : SIZE[1]]
        torch.testing.assert_close(model(wider), expected, rtol=1e-4, atol=1e-5)
        converted = copy.deepcopy(model).to(memory_format=torch.channels_last)
        torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (79, 65)])
def test_sizes(model: TransNeXt, size: tuple[int, int]) -> None:
    with torch.no_grad():
        maps = model.forward_intermediates(image(size=size), intermediates_only=True)
        assert [tuple(m.shape[2:]) for m in maps] == [map_size(r, size) for r in REDUCTIONS]
        assert model(image(size=size)).isfinite().all()


# Graphs


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_script_is_refused_with_a_reason(model: TransNeXt) -> None:
    with pytest.raises(TypeError, match=r"torch\.compile or torch\.export"):
        torch.jit.script(model)


def test_symbolic_trace_serves_every_size(name: str, randomise: Randomise) -> None:
    model = randomise(create(name))
    graph = torch.fx.symbolic_trace(model)
    for size in (SIZE, (33, 47), (32, 32)):
        x = image(2, size=size)
        # A graph calls every module; the network computes several at once, and rounds otherwise.
        torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-4)
    graph.train()
    graph(image()).sum().backward()
    assert all(p.grad is not None for p in graph.parameters())


def test_torchvision_feature_extractor(name: str) -> None:
    model, x = create(name), image()
    nodes, _ = get_graph_node_names(model)
    assert {"stages.0.norm", "stages.3.norm", "head.fc"} <= set(nodes)
    extractor = create_feature_extractor(model, {"stages.1.norm": "b", "stages.2.blocks.0.attn.proj": "mixed"})
    found = extractor(x)
    expected = model.forward_intermediates(x, intermediates_only=True, output_fmt="NHWC")[1]
    torch.testing.assert_close(found["b"], expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(extractor(x)["b"], found["b"], rtol=1e-4, atol=1e-4)
        fast = model.forward_intermediates(x, intermediates_only=True, output_fmt="NHWC")[1]
    torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-4)
    assert found["mixed"].shape == (1, *map_size(16), channels(model)[2])


@pytest.mark.parametrize("name", ["transnext_pico", "transnext_micro_aaaa"])
def test_export(name: str, randomise: Randomise) -> None:
    model, x = randomise(create(name)), image()
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:Converting a tensor")
def test_trace(randomise: Randomise) -> None:
    """`torch.jit.trace`, which older tools still use, records a fixed size."""
    model, x = randomise(create("transnext_pico")), image()
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
        torch.testing.assert_close(traced(x + 1), model(x + 1), rtol=1e-5, atol=1e-5)


def test_functional_call_and_ensembles(randomise: Randomise) -> None:
    """`torch.func` sees a plain function of the parameters."""
    model, x = randomise(create("transnext_pico")), image()
    weights = {key: t.detach() for key, t in model.named_parameters()}
    doubled = {**weights, "head.fc.weight": 2 * weights["head.fc.weight"], "head.fc.bias": 2 * weights["head.fc.bias"]}
    with torch.no_grad():
        torch.testing.assert_close(torch.func.functional_call(model, doubled, (x,)), 2 * model(x))


def test_weights_are_shown(model: TransNeXt) -> None:
    text = repr(model)
    assert "bias_mode=extrapolate" in text
    assert "window_size=3" in text
