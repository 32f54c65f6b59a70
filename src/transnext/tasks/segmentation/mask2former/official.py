"""The released parameters of a Mask2Former against ours: names, and what they tell of its size.

The released code has the query, key and value projections of self-attention in one matrix, the layers here in three;
those of cross-attention are one matrix in both. "No object" is the last class in both.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from transnext.models.backbone import our_key, released_key
from transnext.models.official import is_position_buffer
from transnext.tasks.segmentation.mask2former.head import MAPS, POINTS

_RELEASED = "decode_head."
_PARTS = ("q_proj", "k_proj", "v_proj")
_PACKED = re.compile(r"^decode_head\.transformer_decoder\.layers\.(\d+)\.self_attn\.attn\.in_proj_(weight|bias)$")
_SPLIT = re.compile(r"^head\.transformer_module\.decoder\.layers\.(\d+)\.self_attn\.([qkv]_proj)\.(weight|bias)$")
_OLDER = (
    (r"^(decode_head\.pixel_decoder\.encoder\.layers\.\d+\.)attentions\.0\.", r"\1self_attn."),
    (r"^(decode_head\.transformer_decoder\.layers\.\d+\.)attentions\.0\.", r"\1cross_attn."),
    (r"^(decode_head\.transformer_decoder\.layers\.\d+\.)attentions\.1\.", r"\1self_attn."),
    (r"^(decode_head\.\w+\.(?:encoder\.)?layers\.\d+\.)ffns\.0\.", r"\1ffn."),
)
"""What older versions of the released code call them."""
_NAMES = (
    ("pixel_decoder.input_convs.{}.conv.", "pixel_decoder.input_projections.{}.0."),
    ("pixel_decoder.input_convs.{}.gn.", "pixel_decoder.input_projections.{}.1."),
    ("pixel_decoder.lateral_convs.0.conv.", "pixel_decoder.adapter_1.0."),
    ("pixel_decoder.lateral_convs.0.gn.", "pixel_decoder.adapter_1.1."),
    ("pixel_decoder.output_convs.0.conv.", "pixel_decoder.layer_1.0."),
    ("pixel_decoder.output_convs.0.gn.", "pixel_decoder.layer_1.1."),
    ("pixel_decoder.mask_feature.", "pixel_decoder.mask_projection."),
    ("pixel_decoder.level_encoding.weight", "pixel_decoder.level_embed"),
    ("pixel_decoder.encoder.layers.{}.ffn.layers.0.0.", "pixel_decoder.encoder.layers.{}.fc1."),
    ("pixel_decoder.encoder.layers.{}.ffn.layers.1.", "pixel_decoder.encoder.layers.{}.fc2."),
    ("pixel_decoder.encoder.layers.{}.norms.0.", "pixel_decoder.encoder.layers.{}.self_attn_layer_norm."),
    ("pixel_decoder.encoder.layers.{}.norms.1.", "pixel_decoder.encoder.layers.{}.final_layer_norm."),
    ("pixel_decoder.", "pixel_decoder."),
    ("transformer_decoder.post_norm.", "transformer_module.decoder.layernorm."),
    ("transformer_decoder.layers.{}.ffn.layers.0.0.", "transformer_module.decoder.layers.{}.fc1."),
    ("transformer_decoder.layers.{}.ffn.layers.1.", "transformer_module.decoder.layers.{}.fc2."),
    ("transformer_decoder.layers.{}.norms.0.", "transformer_module.decoder.layers.{}.cross_attn_layer_norm."),
    ("transformer_decoder.layers.{}.norms.1.", "transformer_module.decoder.layers.{}.self_attn_layer_norm."),
    ("transformer_decoder.layers.{}.norms.2.", "transformer_module.decoder.layers.{}.final_layer_norm."),
    ("transformer_decoder.layers.{}.cross_attn.attn.", "transformer_module.decoder.layers.{}.cross_attn."),
    ("transformer_decoder.layers.{}.self_attn.attn.", "transformer_module.decoder.layers.{}.self_attn."),
    ("query_feat.", "transformer_module.queries_features."),
    ("query_embed.", "transformer_module.queries_embedder."),
    ("level_embed.", "transformer_module.level_embed."),
    ("cls_embed.", "class_predictor."),
    ("mask_embed.0.", "transformer_module.decoder.mask_predictor.mask_embedder.0.0."),
    ("mask_embed.2.", "transformer_module.decoder.mask_predictor.mask_embedder.1.0."),
    ("mask_embed.4.", "transformer_module.decoder.mask_predictor.mask_embedder.2.0."),
)
"""Beginnings of released names and ours, the first that fits counts; "{}" stands for a number."""
_CLASSES = "decode_head.cls_embed.weight"
_QUERIES = "decode_head.query_feat.weight"
_PIXELS = "decode_head.pixel_decoder.mask_feature.weight"


def from_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters from released ones; what positions are derived from is left out, unknown names stay."""
    weights: dict[str, Tensor] = {}
    for key, tensor in _newer(state_dict).items():
        if key.startswith("backbone."):
            if not is_position_buffer(key):
                weights[our_key(key)] = tensor
        elif packed := _PACKED.match(key):
            for part, rows in zip(_PARTS, tensor.chunk(len(_PARTS)), strict=True):
                weights[f"head.transformer_module.decoder.layers.{packed[1]}.self_attn.{part}.{packed[2]}"] = rows
        else:
            weights[_renamed(key, (_RELEASED, "head."), 0)] = tensor
    return weights


def to_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released parameters from ours; undoes `from_released`."""
    weights: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        if key.startswith("backbone."):
            weights[released_key(key)] = tensor
        elif split := _SPLIT.match(key):
            if split[2] == _PARTS[0]:
                parts = [state_dict[key.replace(_PARTS[0], part)] for part in _PARTS]
                name = f"decode_head.transformer_decoder.layers.{split[1]}.self_attn.attn.in_proj_{split[3]}"
                weights[name] = torch.cat(parts)
        else:
            weights[_renamed(key, ("head.", _RELEASED), 1)] = tensor
    return weights


def is_released(state_dict: Mapping[str, Any]) -> bool:
    """Tells if these are the parameters of a released Mask2Former."""
    return all(key in state_dict for key in (_CLASSES, _QUERIES, _PIXELS))


def args_of_released(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `mask2former` that the shapes of released parameters tell; the others are the released ones.

    Raises:
        ValueError: They are not those of a Mask2Former.
    """
    if not is_released(state_dict):
        some = ", ".join(list(state_dict)[:3]) or "none"
        raise ValueError(f"these are not the parameters of a released Mask2Former: the first are {some}")
    weights = _newer(state_dict)

    def shape(key: str) -> torch.Size:
        if key not in weights:
            raise ValueError(f"the parameters are not those of a released Mask2Former: there is no {key}")
        return weights[key].shape

    def layers(decoder: str) -> int:
        pattern = re.compile(rf"decode_head\.{re.escape(decoder)}\.layers\.\d+\.")
        return len({match[0] for key in weights if (match := pattern.match(key))})

    encoder, decoder = "pixel_decoder.encoder", "transformer_decoder"
    per_head = shape(f"decode_head.{encoder}.layers.0.self_attn.attention_weights.bias")[0]
    return {
        "num_classes": shape(_CLASSES)[0] - 1,
        "embed_dim": shape(_QUERIES)[1],
        "mask_dim": shape(_PIXELS)[0],
        "num_heads": per_head // (MAPS * POINTS),
        "encoder_layers": layers(encoder),
        "encoder_ffn_dim": shape(f"decode_head.{encoder}.layers.0.ffn.layers.0.0.weight")[0],
        "decoder_layers": layers(decoder),
        "decoder_ffn_dim": shape(f"decode_head.{decoder}.layers.0.ffn.layers.0.0.weight")[0],
        "num_queries": shape(_QUERIES)[0],
    }


def _newer(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters by the names that the released code has now."""
    newer = {}
    for key, tensor in state_dict.items():
        name = key
        for older, newest in _OLDER:
            name = re.sub(older, newest, name)
        newer[name] = tensor
    return newer


def _renamed(key: str, beginnings: tuple[str, str], column: int) -> str:
    """The name of a parameter of the head that is one tensor in both: from one column of `_NAMES` to the other."""
    before, after = beginnings
    if not key.startswith(before):
        return key
    rest = key.removeprefix(before)
    for names in _NAMES:
        pattern = re.escape(names[column]).replace(r"\{\}", r"(\d+)")
        if match := re.match(pattern, rest):
            return after + names[1 - column].format(*match.groups()) + rest[match.end() :]
    return key
