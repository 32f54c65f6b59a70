"""The ops as PyTorch knows them: schemas, shapes of the results, the kernels for GPUs and those for the CPU if built.

Shape letters are those of `transnext.ops.reference`. The sizes that a bias table is made for come as four numbers, so
that the kernels need no index. Only what `transnext.ops.backend` lets through comes here.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("transnext", "DEF")

_ATTENTION_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor k_pool, Tensor v_pool, Tensor query_embedding, Tensor temperature, "
    "Tensor relative_pos_bias_local, Tensor learnable_tokens, Tensor learnable_bias, Tensor bias_table, "
    "SymInt table_H, SymInt table_W, SymInt table_P_h, SymInt table_P_w"
)
LIBRARY.define(f"aggregated_attention({_ATTENTION_ARGUMENTS}) -> Tensor")
LIBRARY.define(
    f"aggregated_attention_backward(Tensor grad, {_ATTENTION_ARGUMENTS}) -> ({', '.join(['Tensor'] * 11)})",
)
LIBRARY.define("depthwise_conv_gelu_gate(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
LIBRARY.define(
    "depthwise_conv_gelu_gate_backward(Tensor grad, Tensor x, Tensor weight, Tensor? bias) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "norm_linear(Tensor x, Tensor? norm_weight, Tensor? norm_bias, float eps, Tensor panels, Tensor bias, "
    "SymInt out_features, SymInt gelu_from, Tensor? residual) -> Tensor"
)
LIBRARY.define(
    "conv_glu(Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, Tensor panels_in, Tensor bias_in, "
    "Tensor weight, Tensor? bias, Tensor panels_out, Tensor bias_out) -> Tensor"
)
LIBRARY.define(
    "position_bias_table(Tensor row_coordinates, Tensor column_coordinates, Tensor fc1_weight, Tensor fc1_bias, "
    "Tensor fc2_weight, Tensor fc2_bias) -> Tensor"
)
LIBRARY.define(
    "position_bias_table_backward(Tensor grad, Tensor row_coordinates, Tensor column_coordinates, Tensor fc1_weight, "
    "Tensor fc1_bias, Tensor fc2_weight, Tensor fc2_bias) -> (Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
LIBRARY.define(
    "linear_backward(Tensor grad, Tensor x, Tensor weight, bool want_x, bool want_weight, bool want_bias) "
    "-> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "conv_glu_training(Tensor x, Tensor fc1_weight, Tensor? fc1_bias, Tensor weight, Tensor? bias, Tensor fc2_weight, "
    "Tensor? fc2_bias) -> (Tensor, Tensor)"
)
LIBRARY.define(
    "conv_glu_training_backward(Tensor grad, Tensor x, Tensor hidden, Tensor fc1_weight, Tensor weight, Tensor? bias, "
    "Tensor fc2_weight) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define("adaptive_average_pool(Tensor x, SymInt P_h, SymInt P_w) -> Tensor")


@torch.library.register_fake("transnext::aggregated_attention", lib=LIBRARY)
def _(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.register_fake("transnext::aggregated_attention_backward", lib=LIBRARY)
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: object) -> tuple[Tensor, ...]:
    others = [t for t in rest if isinstance(t, Tensor)]
    return tuple(t.new_empty(t.shape) for t in (q, k, v, *others))


@torch.library.register_fake("transnext::depthwise_conv_gelu_gate", lib=LIBRARY)
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:3], weight.shape[0]))


@torch.library.register_fake("transnext::depthwise_conv_gelu_gate_backward", lib=LIBRARY)
def _(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), grad_bias


@torch.library.register_fake("transnext::norm_linear", lib=LIBRARY)
def _(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    panels: Tensor,
    bias: Tensor,
    out_features: int,
    gelu_from: int,
    residual: Tensor | None,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


@torch.library.register_fake("transnext::conv_glu", lib=LIBRARY)
def _(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("transnext::position_bias_table", lib=LIBRARY)
def _(row_coordinates: Tensor, column_coordinates: Tensor, fc1: Tensor, b1: Tensor, fc2: Tensor, b2: Tensor) -> Tensor:
    shape = (fc2.shape[0], row_coordinates.shape[0], column_coordinates.shape[0])
    return row_coordinates.new_empty(shape, dtype=torch.float32)


@torch.library.register_fake("transnext::position_bias_table_backward", lib=LIBRARY)
def _(grad: Tensor, rows: Tensor, columns: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    return tuple(p.new_empty(p.shape) for p in parameters)


@torch.library.register_fake("transnext::linear", lib=LIBRARY)
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.register_fake("transnext::linear_backward", lib=LIBRARY)
def _(
    grad: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool, want_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if want_x else (0,)),
        weight.new_empty(weight.shape if want_weight or want_bias else (0,)),
        weight.new_empty(weight.shape[0] if want_bias else 0),
    )


@torch.library.register_fake("transnext::conv_glu_training", lib=LIBRARY)
def _(x: Tensor, fc1_weight: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((*x.shape[:3], fc1_weight.shape[0]))


@torch.library.register_fake("transnext::conv_glu_training_backward", lib=LIBRARY)
def _(
    grad: Tensor,
    x: Tensor,
    hidden: Tensor,
    fc1_weight: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    fc2_weight: Tensor,
) -> tuple[Tensor, ...]:
    weights = [w.new_empty(w.shape) for w in (fc1_weight, weight, fc2_weight)]
    biases = [w.new_empty(w.shape[0]) for w in (fc1_weight, weight, fc2_weight)]
    return (x.new_empty(x.shape), *(t for pair in zip(weights, biases, strict=True) for t in pair))


@torch.library.register_fake("transnext::adaptive_average_pool", lib=LIBRARY)
def _(x: Tensor, P_h: int, P_w: int) -> Tensor:
    return x.new_empty((x.shape[0], P_h, P_w, x.shape[3]))


def _in_triton(file: str, function: str) -> Callable[..., Any]:
    """A function of `transnext.ops.triton`, which is imported when it is called."""

    def run(first: Tensor, *others: Any) -> Any:
        with torch.cuda.device(first.device):
            return getattr(import_module(f"transnext.ops.triton.{file}"), function)(first, *others)

    return run


for _name, _file in (("aggregated_attention", "attention"), ("depthwise_conv_gelu_gate", "gate")):
    LIBRARY.impl(_name, _in_triton(_file, "forward"), "CUDA")
    LIBRARY.impl(f"{_name}_backward", _in_triton(_file, "backward"), "CUDA")


def _load_kernels() -> ModuleType | None:
    try:
        return import_module("transnext.ops._cpu")
    except ImportError:
        return None


CPU_KERNELS = _load_kernels()
"""The compiled module, which registers the kernels as it is imported; None where it was not built or does not load."""
