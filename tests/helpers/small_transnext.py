"""A TransNeXt of little width whose attention is far from uniform."""

from typing import Any

import torch
from torch import nn

from transnext.models import TransNeXt


def small_model(**kwargs: Any) -> TransNeXt:
    """Four stages of little width; large random weights, so that attention is far from uniform."""
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "img_size": 64,
        "num_classes": 3,
        "embed_dims": (8, 8, 16, 16),
        "num_heads": (1, 1, 2, 2),
        "mlp_ratios": (2, 2, 2, 2),
        "depths": (1, 1, 2, 1),
    }
    model = TransNeXt(**{**defaults, **kwargs})
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model
