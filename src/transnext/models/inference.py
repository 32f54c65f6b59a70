"""How a block runs when no gradients are wanted: two passes over its map instead of a dozen operations.

The modules stay what they are, and whoever changes, wraps or hooks one of them gets the plain path, which calls it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from transnext.models.attention import AggregatedAttention, GlobalCosineAttention, Mixer, aggregate, attend_globally
from transnext.ops.backend import why_not_fused
from transnext.ops.fused import (
    Norm,
    PackedLinear,
    adaptive_average_pool,
    conv_glu,
    norm_linear,
    pack_linear,
    panel_width,
)

if TYPE_CHECKING:
    from transnext.models.layers import Block


def why_not_one_pass(block: "Block", x: Tensor) -> str | None:
    """Why a block cannot take `x`, `[B, H, W, C]`, in one pass; None if it can."""
    if type(x) is not Tensor or torch.compiler.is_compiling():
        return "the network is being traced"
    if block.training:
        return "the network is in training mode"
    if "reference" in (block.attn.backend, block.mlp.dwconv.backend):
        return 'backend is "reference"'
    why_not = why_not_fused((x,))
    if why_not is not None:
        return why_not
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in block.parameters())):
        return "gradients are wanted"
    if torch.is_autocast_enabled("cpu") and has_16_bit_products():
        return "this processor multiplies 16-bit matrices faster than the kernels multiply 32-bit ones"
    for module, kind in _expected_modules(block):
        if type(module) is not kind or module._forward_hooks or module._forward_pre_hooks:
            return f"a {kind.__name__} of the block was replaced or has hooks"
    if nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks:
        return "global hooks watch the modules"
    if any(p.device != x.device or p.dtype == torch.float64 for p in block.parameters()):
        return "parameters are float64 or on another device"
    return None


def has_16_bit_products() -> bool:
    """Whether the processor has instructions for bfloat16 matrix products (AVX-512 BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def _expected_modules(block: "Block") -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    from transnext.models.layers import ConvGLU, DepthwiseGate

    attn, mlp = block.attn, block.mlp
    yield block.norm1, nn.LayerNorm
    yield block.norm2, nn.LayerNorm
    yield attn.proj, nn.Linear
    if isinstance(attn, AggregatedAttention):
        yield attn, AggregatedAttention
        yield attn.q, nn.Linear
        yield attn.kv, nn.Linear
        yield attn.sr, nn.Conv2d
        yield attn.norm, nn.LayerNorm
    elif isinstance(attn, GlobalCosineAttention):
        yield attn, GlobalCosineAttention
        yield attn.qkv, nn.Linear
    else:
        yield attn, Mixer  # one of the user's own
    yield mlp, ConvGLU
    yield mlp.fc1, nn.Linear
    yield mlp.dwconv, DepthwiseGate
    yield mlp.fc2, nn.Linear


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
        ("mlp", panel_width()),
        _weights_of(block.norm2, mlp.fc1, mlp.fc2),
        lambda: (_norm(block.norm2), _pack(mlp.fc1), _pack(mlp.fc2)),
    )
    return conv_glu(x, norm, fc1, mlp.dwconv.weight, mlp.dwconv.bias, fc2)


def _mix_aggregated(block: "Block", attn: AggregatedAttention, x: Tensor) -> Tensor:
    norm, projections, pool_norm, kv, proj = block.packed.get(
        ("attn", panel_width()),
        _weights_of(block.norm1, attn.q, attn.kv, attn.sr, attn.norm, attn.proj),
        lambda: (
            _norm(block.norm1),
            _pack(attn.q, attn.kv, attn.sr),
            _norm(attn.norm),
            _pack(attn.kv),
            _pack(attn.proj),
        ),
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
        ("attn", panel_width()),
        _weights_of(block.norm1, attn.qkv, attn.proj),
        lambda: (_norm(block.norm1), _pack(attn.qkv), _pack(attn.proj)),
    )
    out = attend_globally(attn, norm_linear(x, norm, qkv), attn.bias_of(x))
    return norm_linear(out, None, proj, residual=x)


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
    return [p for module in modules for p in module.parameters(recurse=False)]
