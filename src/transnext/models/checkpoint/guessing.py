"""Guess of the variant that weights belong to, by their shapes."""

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import timm
from torch import Tensor

from transnext.models.official import adapt_official_keys


def guess_variant(state_dict: Mapping[str, Tensor]) -> str | None:
    """The registered variant whose parameters have these shapes, whatever the number of classes.

    Args:
        state_dict: Parameters with our names.

    Returns:
        Its name, or None if there is none.
    """
    found = outline(state_dict)
    if not found["depths"]:
        return None
    return next((name for name in timm.list_models("transnext_*") if _outline_of_variant(name) == found), None)


def architecture_of(weights: Mapping[str, Tensor]) -> str | None:
    """The registered variant that is the backbone in a state dict of any model, whatever its names; None if none."""
    renamed = dict(weights)
    adapt_official_keys(renamed)
    return guess_variant(renamed)


def looks_like(state_dict: Mapping[str, Tensor]) -> str:
    """Guess what weights are, as a sentence for errors."""
    found = outline(state_dict)
    if not found["depths"]:
        return f"The file does not hold a TransNeXt: its first parameters are {some(state_dict)}"
    name = guess_variant(state_dict) or "no registered variant"
    return f"The file looks like {name}: {', '.join(f'{key} {value}' for key, value in found.items())}"


def outline(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    """Constructor arguments that shapes tell, one entry for each stage."""
    depths: dict[int, int] = {}
    for key in state_dict:
        if match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key):
            stage, block = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)

    def size(name: str, axis: int = 0) -> tuple[int | None, ...]:
        found = [state_dict.get(f"stages.{stage}.{name}") for stage in sorted(depths)]
        return tuple(None if tensor is None or tensor.ndim <= axis else tensor.shape[axis] for tensor in found)

    return {
        "depths": tuple(depths[stage] for stage in sorted(depths)),
        "embed_dims": size("patch_embed.norm.weight"),
        "num_heads": size("blocks.0.attn.temperature"),
        "window_size": tuple(k and math.isqrt(k) for k in size("blocks.0.attn.relative_pos_bias_local", axis=1)),
    }


def some(items: Iterable[str], number: int = 3) -> str:
    """The first few, for errors."""
    items = list(items)
    return "; ".join(items[:number]) + ("; ..." if len(items) > number else "")


@cache
def _outline_of_variant(name: str) -> dict[str, tuple[Any, ...]]:
    return outline(timm.create_model(name, device="meta").state_dict())
