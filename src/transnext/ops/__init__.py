"""The operations TransNeXt is made of. They import torch alone and know of no model.

`reference` holds their definition in plain PyTorch; every faster implementation is held to it.
"""

from transnext.ops.position_bias import AxisIndex, axis_index, expand_bias_table, log_spaced
from transnext.ops.reference import (
    aggregated_attention,
    aggregated_attention_weights,
    depthwise_conv_gelu_gate,
)

__all__ = [
    "AxisIndex",
    "aggregated_attention",
    "aggregated_attention_weights",
    "axis_index",
    "depthwise_conv_gelu_gate",
    "expand_bias_table",
    "log_spaced",
]
