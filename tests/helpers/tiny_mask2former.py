"""A Mask2Former that is small enough for quick tests."""

from typing import Any

from transnext.models.backbone import Backbone
from transnext.tasks.segmentation.mask2former.model import Mask2Former, mask2former

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "mask_dim": 64,
    "num_heads": 4,
    "encoder_layers": 1,
    "encoder_ffn_dim": 48,
    "decoder_layers": 4,
    "decoder_ffn_dim": 40,
    "num_queries": 6,
    "num_points": 50,
}


def tiny_backbone(name: str = "transnext_pico") -> Backbone:
    args = {"depths": (1, 1, 1, 1), "embed_dims": (16, 24, 32, 48), "num_heads": (1, 1, 2, 2)}
    return Backbone(name, **(args if name.startswith("transnext") else {}))


def tiny_net(num_classes: int = 5, **overrides: Any) -> Mask2Former:
    return mask2former(tiny_backbone(), num_classes, size="small", **{**TINY, **overrides})
