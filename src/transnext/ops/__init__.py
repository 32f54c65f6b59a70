"""The operations TransNeXt is made of. They import torch alone and know of no model.

`reference` holds their definition in plain PyTorch; every faster implementation is held to it. Each op has a file that
says all of it: checks, schema, gradient, cost. `cpu` has the compiled kernels, `triton` those for GPUs; `backend` says
which run.
"""

from transnext.ops import add_norm as add_norm  # the ops that models alone use are registered, too
from transnext.ops import bias_table as bias_table
from transnext.ops import gelu_pool as gelu_pool
from transnext.ops import products as products
from transnext.ops.attention import aggregated_attention
from transnext.ops.attention_global import global_attention
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
    "global_attention",
    "log_spaced",
]
