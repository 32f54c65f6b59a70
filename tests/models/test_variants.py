"""The registered variants: sizes, weight-decay groups, stochastic depth, initial values."""

import json
import math
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transnext import TransNeXt
from transnext.models import variants
from transnext.models.attention import AggregatedAttention, GlobalCosineAttention
from transnext.models.transnext import Stage

PAPER = {
    # parameters, then decayed: parameters, tensors; not decayed: parameters, tensors
    "micro": (12_809_304, 12_604_308, 186, 204_996, 431),
    "tiny": (28_258_960, 27_968_094, 186, 290_866, 431),
    "small": (49_741_564, 49_238_829, 318, 502_735, 736),
    "base": (89_721_496, 89_052_492, 327, 669_004, 756),
    "micro_aaaa": (13_114_008, 12_906_420, 194, 207_588, 441),
}
SHAPES = {
    "micro": ((48, 96, 192, 384), (2, 4, 8, 16), (2, 2, 15, 2), (8, 4, 2, 1), 3),
    "tiny": ((72, 144, 288, 576), (3, 6, 12, 24), (2, 2, 15, 2), (8, 4, 2, 1), 3),
    "small": ((72, 144, 288, 576), (3, 6, 12, 24), (5, 5, 22, 5), (8, 4, 2, 1), 3),
    "base": ((96, 192, 384, 768), (4, 8, 16, 32), (5, 5, 23, 5), (8, 4, 2, 1), 3),
    "micro_aaaa": ((48, 96, 192, 384), (2, 4, 8, 16), (2, 2, 15, 2), (16, 8, 4, 2), 4),
}
"""Channels, heads, blocks, pool ratios, and how many stages use aggregated attention."""


def on_meta(variant: str, **kwargs: object) -> TransNeXt:
    return timm.create_model(f"transnext_{variant}", device="meta", **kwargs)


def numel(tensors: list[nn.Parameter]) -> int:
    return sum(p.numel() for p in tensors)


@pytest.mark.parametrize("variant", PAPER)
def test_parameter_counts(variant: str) -> None:
    assert numel(list(on_meta(variant).parameters())) == PAPER[variant][0]


@pytest.mark.parametrize(
    ("variant", "low", "high"), [("pico", 0.8e6, 1.3e6), ("pico_patch2_28", 0.8e6, 1.5e6), ("nano", 3.2e6, 4.8e6)]
)
def test_parameter_counts_of_our_own(variant: str, low: float, high: float) -> None:
    assert low < numel(list(on_meta(variant, num_classes=0).parameters())) < high


@pytest.mark.parametrize("variant", PAPER)
def test_shapes(variant: str) -> None:
    dims, heads, depths, ratios, aggregated = SHAPES[variant]
    model = on_meta(variant)
    for i, stage in enumerate(model.stages):
        assert isinstance(stage, Stage)
        assert len(stage.blocks) == depths[i]
        for block in stage.blocks:
            assert block.norm1.normalized_shape == (dims[i],)
            assert block.attn.num_heads == heads[i]
            assert block.attn.query_embedding.shape == (heads[i], 1, 24)
            assert block.mlp.fc2.in_features == int(2 / 3 * (8, 8, 4, 4)[i] * dims[i])
            if i < aggregated:
                assert isinstance(block.attn, AggregatedAttention)
                assert block.attn.sr_ratio == ratios[i]
                assert block.attn.window_size == 3
            else:
                assert isinstance(block.attn, GlobalCosineAttention)


def test_small_patches() -> None:
    model = timm.create_model("transnext_pico_patch2_28", features_only=True).eval()
    assert model.feature_info.reduction() == [2, 4, 8, 16]
    for size in ((28, 28), (32, 45)):
        with torch.no_grad():
            maps = model(torch.randn(1, 3, *size))
        assert [m.shape[2:] for m in maps] == [tuple(math.ceil(n / r) for n in size) for r in (2, 4, 8, 16)]
    assert model.pretrained_cfg["pool_size"] == (2, 2)


@pytest.mark.parametrize("variant", ["pico", "nano"])
def test_our_own_follow_the_design_rules(variant: str) -> None:
    """Heads of 24 channels, channels that double, global attention in the last stage alone."""
    model = on_meta(variant)
    dims = [info["num_chs"] for info in model.feature_info]
    assert [d // dims[0] for d in dims] == [1, 2, 4, 8]
    for i, stage in enumerate(model.stages):
        for block in stage.blocks:
            assert block.attn.query_embedding.shape[-1] == 24
            assert isinstance(block.attn, GlobalCosineAttention) == (i == 3)


@pytest.mark.parametrize("variant", PAPER)
def test_weight_decay_groups(variant: str) -> None:
    model = on_meta(variant)
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    counts = {g["weight_decay"]: (numel(g["params"]), len(g["params"])) for g in groups}
    assert counts == {0.05: PAPER[variant][1:3], 0.0: PAPER[variant][3:5]}


def test_no_weight_decay_names() -> None:
    model = on_meta("micro")
    names = model.no_weight_decay()
    assert names <= {name for name, _ in model.named_parameters()}
    undecayed = {name.split("attn.")[-1] for name in names}
    assert undecayed == {
        "cpb_fc1.weight",
        "cpb_fc1.bias",
        "cpb_fc2.weight",
        "cpb_fc2.bias",
        "query_embedding",
        "relative_pos_bias_local",
        "temperature",
    }


def test_table_matches_the_recorded_recipes(shared_golden: Path) -> None:
    recorded = json.loads((shared_golden / "recipes.json").read_text())["classification"]["architectures"]
    assert {name.lower() for name in recorded} == PAPER.keys()
    for name, r in recorded.items():
        keys = ("params", "decay_num_params", "decay_num_tensors", "no_decay_num_params", "no_decay_num_tensors")
        assert tuple(r[key] for key in keys) == PAPER[name.lower()]


@pytest.mark.parametrize("variant", ["micro", "base", "pico"])
def test_stochastic_depth_grows_linearly(variant: str) -> None:
    model = on_meta(variant, drop_path_rate=0.3)
    rates = [
        block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) else 0.0
        for stage in model.stages
        for block in stage.blocks
    ]
    total = len(rates)
    assert rates == pytest.approx([0.3 * i / (total - 1) for i in range(total)], abs=1e-6)
    assert all(isinstance(block.drop_path, nn.Identity) for stage in on_meta(variant).stages for block in stage.blocks)


def test_stochastic_depth_drops_whole_branches() -> None:
    """In training a dropped branch leaves the input as it is; in eval nothing is dropped."""
    torch.manual_seed(0)
    model = timm.create_model("transnext_pico", drop_path_rate=0.5)
    block = model.stages[-1].blocks[-1]
    x = torch.randn(400, 1, 1, model.num_features)
    with torch.no_grad():
        unchanged = (block.train()(x) == x).flatten(1).all(1).float().mean()
        assert 0.15 < unchanged < 0.35, "both branches are dropped for a quarter of the images"
        assert not (block.eval()(x) == x).flatten(1).all(1).any()


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = TransNeXt(embed_dims=(24, 48, 96, 192), num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1))
    for name, m in model.named_modules():
        if isinstance(m, nn.Conv2d):
            fan_out = m.weight.shape[0] * m.weight[0, 0].numel() // m.groups
            assert float(m.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.1), name
            assert (m.bias == 0).all()
        elif isinstance(m, nn.Linear):
            assert float(m.weight.detach().std()) == pytest.approx(0.02, rel=0.1), name
            assert (m.bias == 0).all()
        elif isinstance(m, nn.LayerNorm):
            assert (m.weight == 1).all()
            assert (m.bias == 0).all()
            wide = name.endswith(("attn.norm", "patch_embed.norm"))
            assert m.eps == (1e-5 if wide else 1e-6), name
    stds = {"query_embedding": 0.02, "learnable_tokens": 0.02, "relative_pos_bias_local": 0.0004}
    seen = set()
    for name, p in model.named_parameters():
        kind = name.rsplit(".", 1)[-1]
        if kind == "temperature":
            assert torch.allclose(nn.functional.softplus(p), torch.tensor(1 / 0.24))
        elif kind == "learnable_bias":
            assert (p == 0).all()
        elif kind in stds:
            seen.add(kind)
            assert float(p.detach().std()) == pytest.approx(stds[kind], rel=0.4), name
    assert seen == stds.keys()


def test_pretrain_scale_and_trained_size() -> None:
    model = TransNeXt(img_size=(512, 320), pretrain_size=224, depths=(1, 1, 1, 1), device="meta")
    for i, stage in enumerate(model.stages):
        geometry = stage.blocks[0].attn.geometry
        stride = 4 * 2**i
        assert geometry.trained_size == (512 // stride, 320 // stride)
        assert geometry.pretrain_scale == (224 / stride - 1, 224 / stride - 1)


@pytest.mark.parametrize(
    ("name", "options", "pretrain"),
    [
        ("transnext_tiny", {}, 224),
        ("transnext_micro_aaaa", {}, 256),
        ("transnext_small.in1k_384", {}, 224),
        ("transnext_base.in1k_384", {}, 224),
        ("transnext_small.in1k_384", {"img_size": 384}, 224),
        ("transnext_small.in1k_384", {"img_size": (384, 384)}, 224),
        ("transnext_tiny", {"img_size": 224}, 224),
        ("transnext_tiny", {"pretrain_size": 192}, 192),
        ("transnext_tiny", {"img_size": 160}, 160),
    ],
)
def test_pretraining_resolution_of_a_variant(name: str, options: dict[str, object], pretrain: int) -> None:
    """Position coordinates stay in units of the pre-training resolution, also for weights fine-tuned at 384."""
    model = timm.create_model(name, device="meta", **options)
    assert model.stages[0].blocks[0].attn.geometry.pretrain_scale == (pretrain / 4 - 1, pretrain / 4 - 1)


@pytest.mark.parametrize("name", sorted(variants.GMACS))
def test_listed_multiply_adds(name: str) -> None:
    cfg = timm.get_pretrained_cfg(name)
    model = timm.create_model(name, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, *cfg.input_size, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(variants.GMACS[name], abs=0.005)


def test_every_weight_has_its_multiply_adds_listed() -> None:
    names = {f"{name}.{tag}" if tag else name for name, cfgs in variants.default_cfgs.items() for tag in cfgs.cfgs}
    assert names == variants.GMACS.keys()
