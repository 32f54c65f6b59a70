"""Released names and ours: a one-to-one map over every parameter there is."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open

import transnext  # noqa: F401 (registers the models)
from tests.helpers.golden_files import files_of
from transnext.models.official import (
    adapt_official_keys,
    backbone_prefix,
    is_official,
    is_position_buffer,
    official_to_ours,
    ours_to_official,
)

PAIRS = {
    "patch_embed1.proj.weight": "stages.0.patch_embed.proj.weight",
    "patch_embed4.norm.bias": "stages.3.patch_embed.norm.bias",
    "block1.0.norm1.weight": "stages.0.blocks.0.norm1.weight",
    "block3.14.attn.sr.bias": "stages.2.blocks.14.attn.sr.bias",
    "block3.14.attn.norm.bias": "stages.2.blocks.14.attn.norm.bias",
    "block2.1.attn.relative_pos_bias_local": "stages.1.blocks.1.attn.relative_pos_bias_local",
    "block4.0.attn.qkv.weight": "stages.3.blocks.0.attn.qkv.weight",
    "block4.0.mlp.dwconv.dwconv.weight": "stages.3.blocks.0.mlp.dwconv.weight",
    "block4.0.mlp.fc2.bias": "stages.3.blocks.0.mlp.fc2.bias",
    "norm2.weight": "stages.1.norm.weight",
    "head.weight": "head.fc.weight",
    "head.bias": "head.fc.bias",
}


@pytest.mark.parametrize(("official", "ours"), PAIRS.items())
def test_each_kind_of_name(official: str, ours: str) -> None:
    assert official_to_ours(official) == ours
    assert ours_to_official(ours) == official
    assert official_to_ours(ours) == ours
    assert ours_to_official(official) == official


@pytest.mark.parametrize("variant", ["pico", "nano", "micro", "tiny", "small", "base", "micro_aaaa"])
def test_every_parameter_of_every_variant_goes_there_and_back(variant: str) -> None:
    ours = list(timm.create_model(f"transnext_{variant}", device="meta").state_dict())
    official = [ours_to_official(key) for key in ours]
    assert len(set(official)) == len(ours)
    assert not any(key.startswith("stages.") for key in official)
    assert is_official(official)
    assert not is_official(ours)
    assert [official_to_ours(key) for key in official] == ours
    assert not any(is_position_buffer(key) for key in ours)


def test_every_name_of_the_golden_files_goes_there_and_back(shared_golden: Path) -> None:
    files = files_of(shared_golden, dense=False)
    assert files
    for file in files:
        with safe_open(file, "pt") as f:
            names = [key[2:] for key in f.keys() if key.startswith("w.")]  # noqa: SIM118 (not a mapping)
        ours = [official_to_ours(name) for name in names]
        assert all(name.startswith(("stages.", "head.fc.")) for name in ours)
        assert [ours_to_official(name) for name in ours] == names
        assert backbone_prefix(names) == backbone_prefix(ours) == ""


def test_the_backbone_of_every_golden_dense_model_is_found(shared_golden: Path) -> None:
    files = files_of(shared_golden, dense=True)
    assert files
    for file in files:
        with safe_open(file, "pt") as f:
            names = [key[2:] for key in f.keys() if key.startswith("w.")]  # noqa: SIM118 (not a mapping)
        assert backbone_prefix(names) == "backbone."
        state_dict = dict.fromkeys(names)
        adapt_official_keys(state_dict)
        assert len(state_dict) == sum(name.startswith("backbone.") for name in names)
        assert all(name.startswith("stages.") for name in state_dict)


@pytest.mark.parametrize(
    "key",
    [
        "relative_pos_index1",
        "relative_coords_table4",
        "block1.0.attn.padding_mask",
        "block3.2.attn.seq_length_scale",
        "block3.2.attn.local_seq_length",
    ],
)
def test_buffers_that_follow_from_sizes(key: str) -> None:
    assert is_position_buffer(key)


def test_adapting_keeps_order_and_values_and_touches_nothing_outside_its_prefix() -> None:
    state_dict = {
        "other.norm1.weight": 0,
        "net.norm1.weight": 1,
        "net.block1.0.attn.query_embedding": 2,
        "net.block1.0.attn.padding_mask": 3,
        "net.head.bias": 4,
    }
    adapt_official_keys(state_dict, "net.")
    assert list(state_dict.items()) == [
        ("other.norm1.weight", 0),
        ("net.stages.0.norm.weight", 1),
        ("net.stages.0.blocks.0.attn.query_embedding", 2),
        ("net.head.fc.bias", 4),
    ]


def test_head_of_a_dense_model_does_not_replace_a_backbone_parameter_of_the_same_name() -> None:
    backbone = torch.zeros(1)
    state_dict = {
        "backbone.block1.0.attn.query_embedding": backbone,
        "backbone.norm1.weight": backbone,
        "norm1.weight": torch.ones(1),
        "query_embedding.weight": torch.ones(1),
    }
    adapt_official_keys(state_dict)
    assert list(state_dict) == ["stages.0.blocks.0.attn.query_embedding", "stages.0.norm.weight"]
    assert all(tensor is backbone for tensor in state_dict.values())
