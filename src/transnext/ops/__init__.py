"""The operations TransNeXt is made of. They import torch alone and know of no model.

`reference` holds their definition in plain PyTorch; every faster implementation is held to it. `aggregated_attention`
and `gate` choose between it and the compiled kernels of `cpu`.
"""

from transnext.ops import flops as flops  # registers what the ops cost
from transnext.ops.aggregated_attention import aggregated_attention
from transnext.ops.backend import BACKENDS, Backend
from transnext.ops.gate import depthwise_conv_gelu_gate
from transnext.ops.position_bias import AxisIndex, axis_index, expand_bias_table, log_spaced
from transnext.ops.reference import aggregated_attention_weights

__all__ = [
    "BACKENDS",
    "AxisIndex",
    "Backend",
    "aggregated_attention",
    "aggregated_attention_weights",
    "axis_index",
    "depthwise_conv_gelu_gate",
    "expand_bias_table",
    "log_spaced",
]
