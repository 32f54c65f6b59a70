"""How a block runs when no gradients are wanted: two passes over its map instead of a dozen operations.

The modules stay what they are, and whoever changes, wraps or hooks one of them gets the plain path, which calls it.
"""

from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from transnext.models.attention import AggregatedAttention, GlobalCosineAttention, aggregate, attend_globally
from transnext.models.untouched import PLAIN_TENSORS, global_hooks, is_untouched
from transnext.ops.backend import why_not_cpu_kernels
from transnext.ops.pooling import adaptive_average_pool
from transnext.ops.products import (
    Norm,
    PackedLinear,
    conv_glu,
    norm_linear,
    pack_linear,
    panel_width,
)

if TYPE_CHECKING:
    from transnext.models.layers import Block

MIN_PIXELS_TO_COMPARE_WHOLE = 1024
"""Pixels of a batch's map from which packed weights are compared with all of the module's, not with samples of them."""


def why_not_one_pass(block: "Block", x: Tensor) -> str | None:
    """Why a block cannot take `x`, `[B, H, W, C]`, in one pass; None if it can."""
    if type(x) is not Tensor or torch.compiler.is_compiling():
        return "the network is being traced"
    if block.training:
        return "the network is in training mode"
    attn, mlp = block.attn, block.mlp
    if attn.backend == "reference" or mlp.backend == "reference":
        return 'backend is "reference"'
    why_not = why_not_cpu_kernels((x,))
    if why_not is not None:
        return why_not
    gradients = torch.is_grad_enabled()
    if gradients and x.requires_grad:
        return "gradients are wanted"
    if has_16_bit_products(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype):
        return "this processor multiplies 16-bit matrices faster than the kernels multiply 32-bit ones"
    if global_hooks():
        return "global hooks watch the modules"
    for parent in (block, attn, mlp):
        parts = _parts_of_classes().get(type(parent))
        if parts is None:
            return f"{type(parent).__name__} is not a class of this package"
        for name, kinds, num_parameters in parts:
            part = parent._modules.get(name) if name else parent
            kind = type(part)
            if part is None or kind not in kinds or not is_untouched(part, kind):
                return f"{name or 'forward'} of a {type(parent).__name__} was replaced, patched or has hooks"
            if part.training:
                return "a part of the network is in training mode"
            parameters = part._parameters.values()
            if len(parameters) != num_parameters:
                return f"{name or type(parent).__name__} keeps its weights elsewhere"
            for p in parameters:
                if p is None:
                    continue
                if type(p) not in PLAIN_TENSORS or not p.is_cpu or p.dtype == torch.float64:
                    return "a parameter is float64, a tensor subclass or on another device"
                if gradients and p.requires_grad:
                    return "gradients are wanted"
    return None


def has_16_bit_products(dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether the processor has instructions for matrix products of a 16-bit dtype (AVX-512 BF16 or AMX).

    Args:
        dtype: Of the factors; False for all but bfloat16 and float16.
    """
    checks: tuple[str, ...] = ()
    if dtype == torch.bfloat16:
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    elif dtype == torch.float16:
        checks = ("_is_amx_fp16_supported",)
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def run_block(block: "Block", x: Tensor) -> Tensor:
    """`[B, H, W, C]` to `[B, H, W, C]`, for which `why_not_one_pass` has no objection."""
    attn = block.attn
    if isinstance(attn, AggregatedAttention):
        x = _mix_aggregated(block, attn, x)
    else:
        assert isinstance(attn, GlobalCosineAttention)
        x = _mix_globally(block, attn, x)
    mlp = block.mlp
    norm, fc1, fc2 = block.packed.get(
        ("mlp", panel_width(), block.norm2.eps),
        _weights_of(block.norm2, mlp.fc1, mlp.fc2),
        lambda: (_norm(block.norm2), _pack(mlp.fc1), _pack(mlp.fc2)),
        _is_large(x),
    )
    return conv_glu(x, norm, fc1, mlp.dwconv.weight, mlp.dwconv.bias, fc2)


def _mix_aggregated(block: "Block", attn: AggregatedAttention, x: Tensor) -> Tensor:
    norm, projections, pool_norm, kv, proj = block.packed.get(
        ("attn", panel_width(), block.norm1.eps, attn.norm.eps),
        _weights_of(block.norm1, attn.q, attn.kv, attn.sr, attn.norm, attn.proj),
        lambda: (
            _norm(block.norm1),
            _pack(attn.q, attn.kv, attn.sr),
            _norm(attn.norm),
            _pack(attn.kv),
            _pack(attn.proj),
        ),
        _is_large(x),
    )
    C = x.shape[-1]
    # Queries, keys, values and what is pooled, from one product.
    y = norm_linear(x, norm, projections, gelu_from=3 * C)
    q, k, v = y[..., : 3 * C].unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
    pooled = adaptive_average_pool(y[..., 3 * C :], attn.pool_size((x.shape[1], x.shape[2])))
    k_pool, v_pool = norm_linear(pooled, pool_norm, kv).unflatten(-1, (2, attn.num_heads, -1)).unbind(-3)
    out = aggregate(attn, q, k, v, k_pool, v_pool, attn.bias_of(x))
    return norm_linear(out, None, proj, residual=x)


def _mix_globally(block: "Block", attn: GlobalCosineAttention, x: Tensor) -> Tensor:
    norm, qkv, proj = block.packed.get(
        ("attn", panel_width(), block.norm1.eps),
        _weights_of(block.norm1, attn.qkv, attn.proj),
        lambda: (_norm(block.norm1), _pack(attn.qkv), _pack(attn.proj)),
        _is_large(x),
    )
    out = attend_globally(attn, norm_linear(x, norm, qkv), attn.bias_of(x))
    return norm_linear(out, None, proj, residual=x)


def _is_large(x: Tensor) -> bool:
    """Whether to look through all weights is little beside the products of a map."""
    return x.shape[:-1].numel() >= MIN_PIXELS_TO_COMPARE_WHOLE


def _norm(norm: nn.Module) -> Norm:
    assert isinstance(norm, nn.LayerNorm)
    weight = torch.ones(norm.normalized_shape) if norm.weight is None else norm.weight
    bias = torch.zeros(norm.normalized_shape) if norm.bias is None else norm.bias
    return Norm(weight.detach().float().contiguous(), bias.detach().float().contiguous(), norm.eps)


def _pack(*linears: nn.Linear | nn.Conv2d) -> PackedLinear:
    """Several Linears of the same input, or 1x1 convolutions, as one."""
    weights = [linear.weight.flatten(1) for linear in linears]
    biases = [w.new_zeros(w.shape[0]) if m.bias is None else m.bias for m, w in zip(linears, weights, strict=True)]
    return pack_linear(torch.cat(weights).detach(), torch.cat(biases).detach())


def _weights_of(*modules: nn.Module) -> list[Tensor]:
    """The weights and biases, those directly in the modules."""
    return [p for module in modules for p in module._parameters.values() if p is not None]


_Part: TypeAlias = tuple[str, tuple[type[nn.Module], ...], int]
"""Name of a part, "" for the module itself, the classes it may have, and how many parameters it has of its own."""


@cache
def _parts_of_classes() -> dict[type[nn.Module], list[_Part]]:
    """What the modules that one pass stands for consist of."""
    from transnext.models.layers import Block, ConvGLU, DepthwiseGate

    def norm(name: str) -> _Part:
        return name, (nn.LayerNorm,), 2

    def linear(name: str) -> _Part:
        return name, (nn.Linear,), 2

    of_mixers: list[_Part] = [linear("cpb_fc1"), linear("cpb_fc2"), linear("proj"), ("proj_drop", (nn.Dropout,), 0)]
    return {
        Block: [norm("norm1"), norm("norm2"), ("drop_path", (nn.Identity, DropPath), 0)],
        AggregatedAttention: [
            ("", (AggregatedAttention,), 5),
            *of_mixers,
            linear("q"),
            linear("kv"),
            ("sr", (nn.Conv2d,), 2),
            norm("norm"),
        ],
        GlobalCosineAttention: [("", (GlobalCosineAttention,), 2), *of_mixers, linear("qkv")],
        ConvGLU: [
            ("", (ConvGLU,), 0),
            linear("fc1"),
            ("dwconv", (DepthwiseGate,), 2),
            linear("fc2"),
            ("drop", (nn.Dropout,), 0),
        ],
    }
