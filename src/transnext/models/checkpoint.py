"""Loading weights from files."""

from typing import Any

from torch import nn

from transnext.models.official import adapt_official_keys


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Our parameter names for whatever a checkpoint holds; called by timm before loading."""
    state_dict = dict(state_dict.get("model", state_dict))
    adapt_official_keys(state_dict)
    return state_dict
