"""The released parameters of a UPerNet against ours: names, and what they tell of its sizes."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from transnext.models.backbone import our_key, released_key
from transnext.models.official import is_position_buffer
from transnext.tasks.segmentation.upernet.model import Sizes

_NAMES = ((".conv_seg.", ".classifier."), (".bn.", ".batch_norm."))
"""Parts of released names in the heads, and ours."""
_CLASSES = "decode_head.conv_seg.weight"
_BOTTLENECK = "decode_head.bottleneck.conv.weight"
_PYRAMID = "decode_head.fpn_bottleneck.conv.weight"
_AUXILIARY = "auxiliary_head.convs.0.conv.weight"


def from_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters from released ones; what positions are derived from is left out, unknown names stay."""
    return {_our_name(key): t for key, t in state_dict.items() if not is_position_buffer(key)}


def to_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released parameters from ours; undoes `from_released`."""
    return {released_name(key): t for key, t in state_dict.items()}


def released_name(key: str) -> str:
    """The released name of one of our parameters."""
    if key.startswith("backbone."):
        return released_key(key)
    for theirs, ours in _NAMES:
        key = key.replace(ours, theirs)
    return key


def is_released(state_dict: Mapping[str, Any]) -> bool:
    """Tells if these are the parameters of a released UPerNet."""
    return all(key in state_dict for key in (_CLASSES, _BOTTLENECK, _PYRAMID))


def args_of_released(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `upernet` that the shapes of released parameters tell; the others are the released ones.

    Raises:
        ValueError: They are not those of a UPerNet, or its pooled views are others than the released ones.
    """
    if not is_released(state_dict):
        some = ", ".join(list(state_dict)[:3]) or "none"
        raise ValueError(f"these are not the parameters of a released UPerNet: the first are {some}")
    views = _count(r"decode_head\.psp_modules\.\d+\.1\.conv\.weight", state_dict)
    if views != len(Sizes().pool_scales):
        raise ValueError(f"this UPerNet has {views} pooled views, the released ones {len(Sizes().pool_scales)}")
    args: dict[str, Any] = {"num_classes": len(state_dict[_CLASSES]), "channels": len(state_dict[_BOTTLENECK])}
    if _AUXILIARY not in state_dict:
        return args | {"auxiliary_channels": 0}
    convs = _count(r"auxiliary_head\.convs\.\d+\.conv\.weight", state_dict)
    return args | {"auxiliary_channels": len(state_dict[_AUXILIARY]), "auxiliary_convs": convs}


def _our_name(key: str) -> str:
    if key.startswith("backbone."):
        return our_key(key)
    for theirs, ours in _NAMES:
        key = key.replace(theirs, ours)
    return key


def _count(pattern: str, state_dict: Mapping[str, Tensor]) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in state_dict)
