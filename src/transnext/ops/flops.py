"""What the ops cost, for `torch.utils.flop_counter`: two for a multiply-add, nothing for exponentials and the like."""

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from transnext.ops.library import LIBRARY

OPS = getattr(torch.ops, LIBRARY.ns)
Shape = list[int]


@register_flop_formula(OPS.aggregated_attention)
def _attention(q: Shape, k: Shape, v: Shape, k_pool: Shape, *others: Any, out_shape: Any = None, **_: Any) -> int:
    B, H, W, M, D = q
    K = others[3][1]
    # Logits, weighted sums of values, and what learnable tokens add to the weights of the window.
    return 2 * B * H * W * M * D * (2 * (K + k_pool[1] * k_pool[2]) + K)


@register_flop_formula(OPS.aggregated_attention_backward)
def _attention_backward(grad: Shape, q: Shape, k: Shape, v: Shape, k_pool: Shape, *others: Any, **_: Any) -> int:
    B, H, W, M, D = q
    K = others[3][1]
    # Logits again, and the gradients of weights, queries, keys, values and tokens.
    return 2 * B * H * W * M * D * (5 * (K + k_pool[1] * k_pool[2]) + 3 * K)


@register_flop_formula(OPS.depthwise_conv_gelu_gate)
def _gate(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * x[0] * x[1] * x[2] * weight[0] * weight[2] * weight[3]


@register_flop_formula(OPS.depthwise_conv_gelu_gate_backward)
def _gate_backward(grad: Shape, x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 3 * _gate(x, weight)


@register_flop_formula(OPS.norm_linear)
def _norm_linear(x: Shape, *others: Any, out_shape: Any = None, **_: Any) -> int:
    return 2 * prod(x) * others[5]


@register_flop_formula(OPS.conv_glu)
def _conv_glu(x: Shape, *others: Any, **_: Any) -> int:
    F = others[5][0]
    return 2 * x[0] * x[1] * x[2] * F * (3 * x[3] + 9)


@register_flop_formula(OPS.position_bias_table)
def _bias_table(rows: Shape, columns: Shape, fc1: Shape, b1: Shape, fc2: Shape, *_: Any, **__: Any) -> int:
    return 2 * rows[0] * columns[0] * fc1[0] * (1 + fc2[0])


@register_flop_formula(OPS.position_bias_table_backward)
def _bias_table_backward(grad: Shape, rows: Shape, columns: Shape, *others: Any, **_: Any) -> int:
    # Hidden units again, the gradients of the second layer and of the hidden units.
    return 2 * _bias_table(rows, columns, *others)


@register_flop_formula(OPS.linear)
def _linear(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(x) * weight[0]


@register_flop_formula(OPS.linear_backward)
def _linear_backward(grad: Shape, x: Shape, weight: Shape, want_x: bool, want_weight: bool, *_: Any, **__: Any) -> int:
    return (want_x + want_weight) * _linear(x, weight)


@register_flop_formula(OPS.conv_glu_training)
def _conv_glu_training(x: Shape, fc1_weight: Shape, *_: Any, **__: Any) -> int:
    F = fc1_weight[0] // 2
    return 2 * x[0] * x[1] * x[2] * F * (3 * x[3] + 9)


@register_flop_formula(OPS.conv_glu_training_backward)
def _conv_glu_training_backward(grad: Shape, x: Shape, hidden: Shape, fc1_weight: Shape, *_: Any, **__: Any) -> int:
    # Two products for each of the forward pass; the convolution again, and two of its gradients.
    F = fc1_weight[0] // 2
    return 2 * x[0] * x[1] * x[2] * F * (6 * x[3] + 27)
