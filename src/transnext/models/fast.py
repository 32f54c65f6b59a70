"""The shortcuts of a block on the CPU, and the reason why one is not taken.

Without gradients a block runs in two passes over its map instead of a dozen operations; with gradients its Linears, and
the convolutional GLU as a whole, are products of the kernels. The modules stay what they are, and whoever changes,
wraps or hooks one of them gets the plain path, which calls it.
"""

from collections.abc import Callable, Container
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from transnext.models import gpu
from transnext.models.attention import AggregatedAttention, GlobalCosineAttention, aggregate, attend_globally, call
from transnext.models.layers import Block, ConvGLU, DepthwiseGate
from transnext.models.weight_cache import PLAIN_TENSORS, WeightCache, global_hooks, is_untouched
from transnext.ops import Backend
from transnext.ops.backend import has_16_bit_products, use_fused, why_not_cpu_kernels
from transnext.ops.bfloat16 import bfloat16_products, multiplies_bfloat16
from transnext.ops.pooling import adaptive_average_pool
from transnext.ops.products import (
    Norm,
    PackedLinear,
    conv_glu,
    conv_glu_training,
    linear,
    norm_linear,
    pack_linear,
    panel_width,
)

MIN_PIXELS_TO_COMPARE_WHOLE = 1024
"""Pixels of a batch's map from which packed weights are compared with all of the module's, not with samples of them."""

MIN_PIXELS = 128
"""Pixels of a map from which a convolutional GLU is trained as one op: smaller ones read its weights too often."""

TRACED = "the network is being traced: a graph calls the ops"


class FastBlock(Block):
    """A `Block` that runs on the kernels where it can; arguments are those of `Block`.

    `backend` is "auto", "fused" (a ValueError where the CPU's kernels cannot run it) or "reference". GPUs have a way of
    their own, `transnext.models.gpu`. In graphs that PyTorch traces there are kernels for the ops alone, which then
    answer for themselves.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backend: Backend = "auto"
        self.packed = WeightCache()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, C]` to `[B, H, W, C]`."""
        if gpu.goes((self,), x):
            return gpu.run_blocks((self,), x)
        run, reason = _way(self, x)
        if reason is not None and reason != TRACED and x.is_cpu:
            use_fused(self.backend, reason)  # an error, if kernels were asked for
        if run is not None:
            return run(self, x)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.packed.clear()  # an optimiser may be about to change the weights unseen
        return super().forward(x)

    def train(self, mode: bool = True) -> "FastBlock":
        """Sets the mode, and forgets what was derived from the weights: `weight.data` may have been written to."""
        self.packed.clear()
        return super().train(mode)


_LINEAR, _NORM, _DROPOUT = {nn.Linear: 2}, {nn.LayerNorm: 2}, {nn.Dropout: 0}
_OF_MIXERS = {"cpb_fc1": _LINEAR, "cpb_fc2": _LINEAR, "proj": _LINEAR, "proj_drop": _DROPOUT}
_OF_AGGREGATED = {"q": _LINEAR, "kv": _LINEAR, "sr": {nn.Conv2d: 2}, "norm": _NORM}
_PARTS: dict[type[nn.Module], dict[str, Any]] = {
    FastBlock: {"norm1": _NORM, "norm2": _NORM, "drop_path": {nn.Identity: 0, DropPath: 0}},
    AggregatedAttention: {"": {AggregatedAttention: 5}, **_OF_MIXERS, **_OF_AGGREGATED},
    GlobalCosineAttention: {"": {GlobalCosineAttention: 2}, **_OF_MIXERS, "qkv": _LINEAR},
    ConvGLU: {"": {ConvGLU: 0}, "fc1": _LINEAR, "dwconv": {DepthwiseGate: 2}, "fc2": _LINEAR, "drop": _DROPOUT},
}
"""Parts of the modules of a block, "" for the module itself: classes they may have, and how many parameters then."""


def why_not(block: FastBlock, x: Tensor) -> str | None:
    """Reason for which a block or a part of it cannot run on kernels, as it is called now; None if it can.

    This is the one question: `FastBlock` asks it of every map, and raises the answer if `backend` is "fused".
    On a GPU the answer is None where blocks go the way of `transnext.models.gpu`, else why the CPU's kernels cannot.

    Args:
        block: Of a network.
        x: Its map, `[B, H, W, C]`.
    """
    return None if gpu.goes((block,), x) else _way(block, x)[1]


def reasons(model: nn.Module, images: Tensor) -> dict[str, str | None]:
    """Answers of `why_not` for the blocks of a model, by their names, as the model is called now with images.

    Args:
        model: Any model; it is called once.
        images: `[B, 3, H, W]`.
    """
    found: dict[str, str | None] = {}

    def ask(name: str, block: Any, args: Any) -> None:
        found[name] = why_not(block, args[0])

    blocks = [(name, module) for name, module in model.named_modules() if isinstance(module, FastBlock)]
    handles = [block.register_forward_pre_hook(partial(ask, name)) for name, block in blocks]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


_Run: TypeAlias = Callable[[FastBlock, Tensor], Tensor]


def _way(block: FastBlock, x: Tensor) -> tuple[_Run | None, str | None]:
    """The function that runs a block on the kernels, if there is one, and the reason why not or not all of it."""
    if type(x) is not Tensor or torch.compiler.is_compiling():
        return None, TRACED
    if block.backend == "reference":
        return None, 'backend is "reference"'
    reason = why_not_cpu_kernels((x,))
    if reason is not None:
        return None, reason
    if global_hooks():
        return None, "global hooks watch the modules"
    grad_enabled, training = torch.is_grad_enabled(), block.training
    autocast, in_bfloat16 = torch.is_autocast_enabled("cpu"), multiplies_bfloat16(x)
    # Dtypes that the parameters of a block in training may have: those that a Linear would take.
    trained = {torch.float32, torch.bfloat16} if autocast and in_bfloat16 else {x.dtype}
    as_expected = in_bfloat16 or (x.dtype == torch.float32 and not autocast)
    gradients = grad_enabled and x.requires_grad
    touched: dict[nn.Module | None, str] = {}
    for parent in (block, block.attn, block.mlp):
        parts = _PARTS.get(type(parent))
        if parts is None:
            touched[parent] = f"{type(parent).__name__} is not a class of this package"
            continue
        for name, kinds in parts.items():
            part = parent._modules.get(name) if name else parent
            kind = type(part)
            if part is None or kind not in kinds or not is_untouched(part):
                touched[part] = f"{name or 'forward'} of {type(parent).__name__} was replaced, patched or has hooks"
                continue
            training = training or part.training
            parameters = part._parameters.values()
            if len(parameters) != kinds[kind]:
                touched[part] = f"{name or 'one'} of {type(parent).__name__} keeps its weights elsewhere"
            for p in parameters:
                if p is None:
                    continue
                if type(p) not in PLAIN_TENSORS or not p.is_cpu or p.dtype == torch.float64:
                    touched[part] = "a parameter is float64, a tensor subclass or on another device"
                gradients = gradients or (grad_enabled and p.requires_grad)
                as_expected = as_expected and p.dtype in trained
    if not (training or gradients or touched):
        if not in_bfloat16 and has_16_bit_products(torch.get_autocast_dtype("cpu") if autocast else x.dtype):
            return None, "this processor multiplies 16-bit matrices faster than the kernels multiply 32-bit ones"
        return run_block, None
    reason = next(iter(touched.values()), None)
    if not grad_enabled:
        return None, reason or "the network or a part of it is in training mode, but gradients are disabled"
    if not as_expected:
        if bfloat16_products() is not None:
            return None, "the kernels have gradients in float32 and bfloat16 alone, and the block is of other dtypes"
        return None, "the kernels have gradients in float32 alone, and not under autocast"
    return partial(run_with_gradients, touched=touched), reason


# With gradients


def run_with_gradients(block: FastBlock, x: Tensor, touched: Container[nn.Module | None] = ()) -> Tensor:
    """`[B, H, W, C]` to `[B, H, W, C]`, float32 or bfloat16, by products that have gradients of their own.

    Args:
        block: Its modules are called, but for Linears, the 1x1 convolution and what a convolutional GLU is made of.
        x: `[B, H, W, C]`.
        touched: Modules that are to be called, too.
    """

    def factor(x: Tensor) -> Tensor:
        return x.bfloat16() if multiplies_bfloat16(x) else x  # as autocast does

    def product(layer: Any, x: Tensor) -> Tensor:
        return call(layer, x) if layer in touched else linear(factor(x), layer.weight.flatten(1), layer.bias)

    def conv_glu(mlp: ConvGLU, x: Tensor) -> Tensor:
        fc1, conv, fc2, drop = mlp.fc1, mlp.dwconv, mlp.fc2, mlp.drop
        # Whole images are shared out: at most a fifth of the threads' time may be spent waiting for the last.
        threads = torch.get_num_threads()
        rounds = -(-x.shape[0] // threads)
        many = x.shape[1] * x.shape[2] >= MIN_PIXELS and 5 * x.shape[0] >= 4 * rounds * threads
        if not many or any(m in touched for m in (fc1, conv, fc2, drop)) or (drop.p > 0 and drop.training):
            return mlp.by_layers(x, product)
        return conv_glu_training(factor(x), fc1.weight, fc1.bias, conv.weight, conv.bias, fc2.weight, fc2.bias)

    def stand_in(module: nn.Module, function: Any) -> tuple[Any, ...]:
        return (function,) if type(module) in _PARTS and "forward" not in module.__dict__ else ()

    block.packed.clear()  # an optimiser may be about to change the weights unseen
    x = x + block.drop_path(block.attn(block.norm1(x), *stand_in(block.attn, product)))
    return x + block.drop_path(block.mlp(block.norm2(x), *stand_in(block.mlp, conv_glu)))


# Without gradients


def run_block(block: FastBlock, x: Tensor) -> Tensor:
    """`[B, H, W, C]` to `[B, H, W, C]`, without gradients, in two passes over the map."""
    attn: Any = block.attn
    mlp = block.mlp
    x = _mix_aggregated(block, attn, x) if isinstance(attn, AggregatedAttention) else _mix_globally(block, attn, x)
    norm2: Any = block.norm2
    conv = mlp.dwconv
    norm, fc1, fc2 = _packed(block, ("mlp", norm2.eps), x, (norm2,), (mlp.fc1,), (mlp.fc2,))
    return conv_glu(x, norm, fc1, conv.weight, conv.bias, fc2)


def _mix_aggregated(block: FastBlock, attn: AggregatedAttention, x: Tensor) -> Tensor:
    norm1: Any = block.norm1
    of_pooled = attn.norm
    groups = ((norm1,), (attn.q, attn.kv, attn.sr), (of_pooled,), (attn.kv,), (attn.proj,))
    norm, projections, pool_norm, kv, proj = _packed(block, ("attn", norm1.eps, of_pooled.eps), x, *groups)
    C = x.shape[-1]
    # Queries, keys, values and what is pooled, from one product.
    y = norm_linear(x, norm, projections, gelu_from=3 * C)
    q, k, v = y[..., : 3 * C].unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
    pooled = adaptive_average_pool(y[..., 3 * C :], attn.pool_size((x.shape[1], x.shape[2])))
    k_pool, v_pool = norm_linear(pooled, pool_norm, kv).unflatten(-1, (2, attn.num_heads, -1)).unbind(-3)
    out = aggregate(attn, q, k, v, k_pool, v_pool, attn.bias_of(x))
    return norm_linear(out, None, proj, residual=x)


def _mix_globally(block: FastBlock, attn: GlobalCosineAttention, x: Tensor) -> Tensor:
    norm, qkv, proj = _packed(block, ("attn", block.norm1.eps), x, (block.norm1,), (attn.qkv,), (attn.proj,))
    out = attend_globally(attn, norm_linear(x, norm, qkv), attn.bias_of(x))
    return norm_linear(out, None, proj, residual=x)


def _packed(block: FastBlock, key: tuple[Any, ...], x: Tensor, *groups: tuple[Any, ...]) -> list[Any]:
    """A `Norm` of each group that is a LayerNorm, a `PackedLinear` of each other one, remembered under `key`."""
    modules = dict.fromkeys(chain(*groups))
    weights = [p for module in modules for p in module._parameters.values() if p is not None]
    large = x.shape[:-1].numel() >= MIN_PIXELS_TO_COMPARE_WHOLE  # looking through all weights is little beside products
    in_bfloat16 = multiplies_bfloat16(x)
    layout = (bfloat16_products() if in_bfloat16 else None, panel_width())
    return block.packed.get((*key, layout), weights, lambda: [_pack(in_bfloat16, *group) for group in groups], large)


def _pack(in_bfloat16: bool, first: Any, *others: Any) -> Norm | PackedLinear:
    """A LayerNorm, or several Linears or 1x1 convolutions of the same input as one, as the kernels read them."""
    if isinstance(first, nn.LayerNorm):
        weight = torch.ones(first.normalized_shape) if first.weight is None else first.weight
        bias = torch.zeros(first.normalized_shape) if first.bias is None else first.bias
        return Norm(weight.detach().float().contiguous(), bias.detach().float().contiguous(), first.eps)
    linears = (first, *others)
    weights = [linear.weight.flatten(1) for linear in linears]
    biases = [w.new_zeros(w.shape[0]) if m.bias is None else m.bias for m, w in zip(linears, weights, strict=True)]
    return pack_linear(torch.cat(weights).detach(), torch.cat(biases).detach(), in_bfloat16)
