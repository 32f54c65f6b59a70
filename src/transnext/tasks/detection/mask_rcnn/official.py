"""The released parameters of a Mask R-CNN against ours: names, and what they tell of its sizes."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from transnext.models.backbone import our_key, released_key
from transnext.models.official import is_position_buffer

_NAMES = (
    ("neck.lateral_convs.{}.conv.", "fpn.inner_blocks.{}.0."),
    ("neck.fpn_convs.{}.conv.", "fpn.layer_blocks.{}.0."),
    ("rpn_head.rpn_conv.", "rpn.head.conv.0.0."),
    ("rpn_head.rpn_cls.", "rpn.head.cls_logits."),
    ("rpn_head.rpn_reg.", "rpn.head.bbox_pred."),
    ("roi_head.bbox_head.shared_fcs.0.", "roi_heads.box_head.fc6."),
    ("roi_head.bbox_head.shared_fcs.1.", "roi_heads.box_head.fc7."),
    ("roi_head.bbox_head.fc_cls.", "roi_heads.box_predictor.cls_score."),
    ("roi_head.bbox_head.fc_reg.", "roi_heads.box_predictor.bbox_pred."),
    ("roi_head.mask_head.convs.{}.conv.", "roi_heads.mask_head.{}.0."),
    ("roi_head.mask_head.upsample.", "roi_heads.mask_predictor.conv5_mask."),
    ("roi_head.mask_head.conv_logits.", "roi_heads.mask_predictor.mask_fcn_logits."),
)
"""Beginnings of released names and ours; "{}" stands for a number. The background is the last class in both."""


def from_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters from released ones; what positions are derived from is left out, unknown names stay."""
    return {_our_name(key): t for key, t in state_dict.items() if not is_position_buffer(key)}


def to_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released parameters from ours; undoes `from_released`."""
    return {_released_name(key): t for key, t in state_dict.items()}


def is_released(state_dict: Mapping[str, Any]) -> bool:
    """Tells if these are the parameters of a released Mask R-CNN or Faster R-CNN."""
    return "roi_head.bbox_head.fc_cls.weight" in state_dict


def args_of_released(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `mask_rcnn` that the shapes of released parameters tell; the others are the released ones.

    Raises:
        ValueError: They are not those of a Mask R-CNN.
    """
    if not is_released(state_dict):
        some = ", ".join(list(state_dict)[:3]) or "none"
        raise ValueError(f"these are not the parameters of a released Mask R-CNN: the first are {some}")
    mask_convs = sum(
        re.fullmatch(r"roi_head\.mask_head\.convs\.\d+\.conv\.weight", key) is not None for key in state_dict
    )
    args: dict[str, Any] = {
        "num_classes": len(state_dict["roi_head.bbox_head.fc_cls.weight"]) - 1,
        "masks": mask_convs > 0,
        "fpn_channels": len(state_dict["neck.lateral_convs.0.conv.weight"]),
        "fc_channels": len(state_dict["roi_head.bbox_head.shared_fcs.0.weight"]),
    }
    if mask_convs:
        args |= {"mask_convs": mask_convs, "mask_channels": len(state_dict["roi_head.mask_head.convs.0.conv.weight"])}
    return args


def _our_name(key: str) -> str:
    return our_key(key) if key.startswith("backbone.") else _renamed(key, 0, 1)


def _released_name(key: str) -> str:
    return released_key(key) if key.startswith("backbone.") else _renamed(key, 1, 0)


def _renamed(key: str, old: int, new: int) -> str:
    for names in _NAMES:
        pattern = re.escape(names[old]).replace(r"\{\}", r"(\d+)")
        if match := re.match(pattern, key):
            return names[new].format(*match.groups()) + key[match.end() :]
    return key
