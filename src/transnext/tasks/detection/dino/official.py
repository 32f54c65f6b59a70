"""The released names of DINO's parameters against ours, its arguments told by weights, its learning rates by name.

The released code has the query, key and value projections of self-attention in one matrix, the layers here in three.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from transnext.models.backbone import our_key, released_key
from transnext.models.checkpoint.guessing import some
from transnext.models.official import is_position_buffer
from transnext.tasks.detection.dino.model import Dino

_PARTS = ("q_proj", "k_proj", "v_proj")
_PACKED = re.compile(r"^(decoder\.layers\.\d+\.self_attn\.)attn\.in_proj_(weight|bias)$")
_SPLIT = re.compile(r"^(decoder\.layers\.\d+\.self_attn\.)(q_proj|k_proj|v_proj)\.(weight|bias)$")
_LAYER = re.compile(r"^(encoder|decoder)\.layers\.\d+\.")
_IN_LAYERS = {
    "encoder": (("norms.0.", "self_attn_layer_norm."), ("norms.1.", "final_layer_norm.")),
    "decoder": (
        ("self_attn.attn.out_proj.", "self_attn.o_proj."),
        ("cross_attn.", "encoder_attn."),
        ("norms.0.", "self_attn_layer_norm."),
        ("norms.1.", "encoder_attn_layer_norm."),
        ("norms.2.", "final_layer_norm."),
    ),
}
_IN_ALL_LAYERS = (("ffn.layers.0.0.", "mlp.fc1."), ("ffn.layers.1.", "mlp.fc2."))
_BRANCHES = (
    ("bbox_head.cls_branches.", "cls_branches."),
    ("bbox_head.reg_branches.", "reg_branches."),
    ("dn_query_generator.label_embedding.", "label_embedding."),
)
_HEADS = 8


def from_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released weights under our names; index tables of the backbone, which we have no use for, are left out."""
    weights: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        if key.startswith("backbone."):
            if not is_position_buffer(key):
                weights[our_key(key)] = tensor
        elif packed := _PACKED.match(key):
            for part, rows in zip(_PARTS, tensor.chunk(len(_PARTS)), strict=True):
                weights[f"{packed[1]}{part}.{packed[2]}"] = rows
        else:
            weights[_renamed(key, ours=True)] = tensor
    return weights


def to_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `Dino` on a TransNeXt under the released names."""
    weights: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        if split := _SPLIT.match(key):
            if split[2] == _PARTS[0]:
                parts = [state_dict[f"{split[1]}{part}.{split[3]}"] for part in _PARTS]
                weights[f"{split[1]}attn.in_proj_{split[3]}"] = torch.cat(parts)
        else:
            weights[released_name(key)] = tensor
    return weights


def released_name(key: str) -> str:
    """The released name of one of our parameters; of three projections that are one there it is that of the whole."""
    if key.startswith("backbone."):
        return released_key(key)
    if split := _SPLIT.match(key):
        return f"{split[1]}attn.in_proj_{split[3]}"
    return _renamed(key, ours=False)


def load_released(net: Dino, state_dict: Mapping[str, Tensor]) -> None:
    """Loads released weights, all of them.

    Args:
        net: On a TransNeXt; of the arguments that `args_of_released` gives.
        state_dict: By released names.

    Raises:
        ValueError: They do not fit.
    """
    weights, expected = from_released(state_dict), net.state_dict()
    wrong = {
        "missing": [key for key in expected if key not in weights],
        "unexpected": [key for key in weights if key not in expected],
        "of another shape": [k for k, t in expected.items() if k in weights and weights[k].shape != t.shape],
    }
    if any(wrong.values()):
        said = ", ".join(f"{len(keys)} parameters {what} ({some(keys)})" for what, keys in wrong.items() if keys)
        raise ValueError(f"the weights do not fit this DINO on {net.backbone.name}: {said}")
    net.load_state_dict(weights)


def args_of_released(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `dino` that released weights tell, all but the backbone.

    Raises:
        ValueError: They are not those of a DINO.
    """

    def shape(key: str) -> torch.Size:
        if key not in state_dict:
            raise ValueError(f"the weights are not those of a released DINO: there is no {key}")
        return state_dict[key].shape

    def count(pattern: str) -> int:
        return len({match[0] for key in state_dict if (match := re.match(pattern, key))})

    num_queries, width = shape("query_embedding.weight")
    scales = count(r"neck\.convs\.\d+\.") + count(r"neck\.extra_convs\.\d+\.")
    per_head = _HEADS * scales
    points, rest = divmod(shape("encoder.layers.0.self_attn.attention_weights.bias")[0], per_head)
    if rest or scales not in (4, 5):
        raise ValueError(f"the weights are not those of a released DINO of {_HEADS} heads and 4 or 5 scales")
    return {
        "num_classes": shape("dn_query_generator.label_embedding.weight")[0],
        "scales": scales,
        "embed_dim": width,
        "num_heads": _HEADS,
        "num_points": points,
        "encoder_layers": count(r"encoder\.layers\.\d+\."),
        "decoder_layers": count(r"decoder\.layers\.\d+\."),
        "ffn_dim": shape("encoder.layers.0.ffn.layers.0.0.weight")[0],
        "num_queries": num_queries,
    }


def _renamed(key: str, *, ours: bool) -> str:
    """The name of a parameter beside backbone and packed projections, ours from the released one or the reverse."""
    layer = _LAYER.match(key)
    begin, rest = (layer[0], key[layer.end() :]) if layer else ("", key)
    for pair in (*_IN_LAYERS[layer[1]], *_IN_ALL_LAYERS) if layer else _BRANCHES:
        old, new = pair if ours else reversed(pair)
        if rest.startswith(old):
            return begin + new + rest.removeprefix(old)
    return key
