"""The way of blocks on GPUs, where launches cost as much as work: fewer of them, and one of what several blocks share.

A block is computed from the parameters of its modules, which stay what they are: whoever changes, wraps or hooks one of
them gets the plain path, which calls it. Nothing derived from weights is remembered, for on a GPU nobody could tell
without waiting whether they have changed since.

Shape legend: `B` batch, `H W` feature map, `C` channels, `M` heads, `D = C / M`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from transnext.models.attention import AggregatedAttention, GlobalCosineAttention, Mixer, aggregate, attend_globally
from transnext.models.layers import Block, ConvGLU, DepthwiseGate
from transnext.models.position_bias import PositionBias, position_biases
from transnext.models.weight_cache import PLAIN_TENSORS, global_hooks, is_untouched
from transnext.ops import depthwise_conv_gelu_gate
from transnext.ops.add_norm import add_layer_norm
from transnext.ops.backend import why_not_fused
from transnext.ops.gelu_pool import gelu_average_pool

DEVICES = {"cuda"}
"""Types of device on which blocks go this way; AMD GPUs are "cuda" too."""

_TENSORS = (*PLAIN_TENSORS, FakeTensor)
_LINEAR, _NORM, _DROPOUT = {nn.Linear: 2}, {nn.LayerNorm: 2}, {nn.Dropout: 0}
_OF_BLOCKS: dict[str, dict[type[nn.Module], int]] = {
    "norm1": _NORM,
    "norm2": _NORM,
    "drop_path": {nn.Identity: 0, DropPath: 0},
}
_OF_MIXERS = {"cpb_fc1": _LINEAR, "cpb_fc2": _LINEAR, "proj": _LINEAR, "proj_drop": _DROPOUT}
_OF_AGGREGATED = {"q": _LINEAR, "kv": _LINEAR, "sr": {nn.Conv2d: 2}, "norm": _NORM}
_OF_OTHERS: dict[type[nn.Module], tuple[int, dict[str, dict[type[nn.Module], int]]]] = {
    AggregatedAttention: (5, {**_OF_MIXERS, **_OF_AGGREGATED}),
    GlobalCosineAttention: (2, {**_OF_MIXERS, "qkv": _LINEAR}),
    ConvGLU: (0, {"fc1": _LINEAR, "dwconv": {DepthwiseGate: 2}, "fc2": _LINEAR, "drop": _DROPOUT}),
}
"""Parts of modules: classes that they may have, and how many parameters then; and of the module's own."""

Projections: TypeAlias = tuple[Tensor, Tensor | None]
"""Weight `[4 C, C]` and bias of queries, keys, values and what is pooled."""


def goes(blocks: Iterable[nn.Module], x: Tensor, kind: type[Block] | None = None) -> bool:
    """Tells if blocks can go this way: on a GPU, not traced, on kernels, and nobody has touched a part of them.

    Args:
        blocks: Some of a stage, `Block`s.
        x: The map, `[B, H, W, C]`.
        kind: If given, the blocks are not to be called: they must be of this class, and nobody may watch them.
    """
    if torch.compiler.is_compiling() or type(x) not in (Tensor, FakeTensor) or x.device.type not in DEVICES:
        return False
    if why_not_fused((x,)) is not None or global_hooks():
        return False
    for block in blocks:
        if kind is not None and not (type(block) is kind and is_untouched(block) and block._compiled_call_impl is None):
            return False
        if not isinstance(block, Block) or not _is_plain(block, x.device):
            return False
    return True


def _is_plain(block: Block, device: torch.device) -> bool:
    """Tells if all parts are what they were made as, with weights on the device, of one dtype where they are joined."""
    parts = [(block._modules.get(name), kinds) for name, kinds in _OF_BLOCKS.items()]
    for part in (block.attn, block.mlp):
        own, of_part = _OF_OTHERS.get(type(part), (-1, {}))
        parts.append((part, {type(part): own}))
        parts += [(part._modules.get(name), kinds) for name, kinds in of_part.items()]
    for module, kinds in parts:
        if module is None or not is_untouched(module):
            return False
        parameters = module._parameters.values()
        if len(parameters) != kinds.get(type(module), -1):
            return False
        for p in parameters:
            if p is not None and (type(p) not in _TENSORS or p.device != device or p.dtype == torch.float64):
                return False
    attn = block.attn
    if block.norm1.weight is None or block.norm2.weight is None or attn.backend == "reference":
        return False
    if attn.cpb_fc1.bias is None or attn.cpb_fc2.bias is None or not _of_one_dtype(attn.cpb_fc1, attn.cpb_fc2):
        return False
    if not isinstance(attn, AggregatedAttention):
        return True
    return attn.norm.weight is not None and _of_one_dtype(attn.q, attn.kv, attn.sr)


def _of_one_dtype(*layers: nn.Module) -> bool:
    return len({p.dtype for layer in layers for p in layer._parameters.values() if p is not None}) == 1


def run_blocks(blocks: Iterable[Any], x: Tensor) -> Tensor:
    """`[B, H, W, C]` to `[B, H, W, C]` by blocks that `goes` lets go this way.

    Args:
        blocks: One or more, in order.
        x: `[B, H, W, C]`.
    """
    blocks = list(blocks)
    mixers: list[Any] = [block.attn for block in blocks]
    if not blocks:
        return x
    branch: Tensor | None = None  # what is still to be added to the map
    for block, position, projections in zip(blocks, _biases(mixers, x), _projections(mixers, x), strict=True):
        x, normed = _add_norm(x, branch, block.norm1)
        branch = _drop(block.drop_path, _mix(block.attn, normed, position, projections))
        x, normed = _add_norm(x, branch, block.norm2)
        branch = _drop(block.drop_path, _conv_glu(block.mlp, normed))
    return x + branch


def _add_norm(x: Tensor, branch: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """The sum of the map and a branch, and its norm, in the dtype in which it will be multiplied."""
    if branch is None:
        return x, norm(x)
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else torch.promote_types(x.dtype, branch.dtype)
    return add_layer_norm(x, branch, norm.weight, norm.bias, norm.eps, dtype)


def _mix(attn: Any, x: Tensor, position: PositionBias, projections: Projections | None) -> Tensor:
    """The token mixer, of a map that was normed."""
    if isinstance(attn, GlobalCosineAttention):
        out = attend_globally(attn, attn.qkv(x), position)
    else:
        # Queries, keys, values and what is pooled, from one product.
        weight, bias = _joined([attn]) if projections is None else projections
        q, k, v, z = F.linear(x, weight, bias).unflatten(-1, (4, attn.num_heads, -1)).unbind(-3)
        pooled = attn.norm(gelu_average_pool(z.flatten(-2), attn.pool_size((x.shape[1], x.shape[2]))))
        k_pool, v_pool = attn.kv(pooled).unflatten(-1, (2, attn.num_heads, -1)).unbind(-3)
        out = aggregate(attn, q, k, v, k_pool, v_pool, position)
    return _drop(attn.proj_drop, attn.proj(out))


def _conv_glu(mlp: ConvGLU, x: Tensor) -> Tensor:
    """The channel mixer, of a map that was normed."""
    conv = mlp.dwconv
    gated = depthwise_conv_gelu_gate(mlp.fc1(x), conv.weight, conv.bias, conv.backend)
    return _drop(mlp.drop, mlp.fc2(_drop(mlp.drop, gated)))


def _drop(module: Any, x: Tensor) -> Tensor:
    """Dropout or stochastic depth; nothing is launched where nothing would be dropped."""
    active = module.training and (type(module) is DropPath or getattr(module, "p", 0.0) > 0)
    dropped: Tensor = module(x) if active else x
    return dropped


def _biases(mixers: Sequence[Mixer], x: Tensor) -> list[PositionBias]:
    """Position bias of each mixer, of all of them at once where they are alike."""

    def together(*some: Mixer) -> list[PositionBias]:
        first, mlps = some[0], [(mixer.cpb_fc1, mixer.cpb_fc2) for mixer in some]
        return position_biases(mlps, x, *first.bias_sizes(x), first.geometry, first.bias_mode)

    kinds = {
        (m.num_heads, m.geometry, m.bias_mode, m.bias_sizes(x), m.cpb_fc1.weight.shape, m.cpb_fc1.weight.dtype)
        for m in mixers
    }
    if len(kinds) == 1 and not _gradients_are_shared():
        return together(*mixers)
    return [bias for mixer in mixers for bias in together(mixer)]


def _gradients_are_shared() -> bool:
    """Tells if other processes wait for gradients: those of what several blocks share come after the last block's."""
    if not torch.is_grad_enabled() or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    return torch.distributed.get_world_size() > 1


def _projections(mixers: Sequence[Any], x: Tensor) -> Sequence[Projections | None]:
    """Joined weights of each mixer; None where they are joined when they are wanted.

    Without gradients those of all mixers are joined at once. With gradients they are not: the gradients of all of them
    would come together, after the last block's, and processes that share them would have to wait.
    """
    if type(mixers[0]) is not AggregatedAttention:
        return [None] * len(mixers)
    if torch.is_grad_enabled():
        return [None] * len(mixers)
    weight, bias = _joined(mixers)
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    n = len(mixers)
    biases: Sequence[Tensor | None] = [None] * n if bias is None else bias.view(n, -1).unbind(0)
    return list(zip(weight.view(n, -1, weight.shape[1]).unbind(0), biases, strict=True))


def _joined(mixers: Sequence[AggregatedAttention]) -> Projections:
    """Weights `[n 4 C, C]` and biases `[n 4 C]` of the mixers' four projections, one mixer after the other."""
    layers: list[Any] = [layer for mixer in mixers for layer in (mixer.q, mixer.kv, mixer.sr)]
    weight = torch.cat([layer.weight.flatten(1) for layer in layers])
    if all(layer.bias is None for layer in layers):
        return weight, None
    zeros = [weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias for layer in layers]
    return weight, torch.cat(zeros)
