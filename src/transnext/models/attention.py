"""The two token mixers of TransNeXt.

Shape legend: `B` batch, `H W` feature map, `C` channels, `M` heads, `D = C / M`, `w` window side, `K = w * w`,
`P_h P_w` pooled grid. Maps are channels-last. Parameter names are the paper's.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from transnext.models.position_bias import HIDDEN_FEATURES, PositionBias, StageGeometry, position_bias
from transnext.models.weight_cache import WeightCache, is_untouched, untouched_weights
from transnext.ops import Backend, aggregated_attention, global_attention
from transnext.ops.backend import use_fused, why_not_cpu_kernels
from transnext.ops.pooling import evenly_divided, pool_by_products
from transnext.ops.tracing import at_least_one, is_exporting, is_symbolic, shared

INITIAL_TEMPERATURE = math.log(math.exp(1 / 0.24) - 1)
"""Makes `softplus(temperature)` start at 1 / 0.24."""

Product: TypeAlias = Callable[[Any, Tensor], Tensor]
"""Stands for the call of a Linear or a 1x1 convolution with a map `[..., K]`, and gives `[..., N]`."""

BiasSizes: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Rows and columns of queries, of keys, and of keys at the trained size."""


def call(layer: nn.Module, x: Tensor) -> Tensor:
    """The `Product` of PyTorch: calls a Linear, or its replacement, or multiplies by an untouched convolution."""
    return F.linear(x, layer.weight.flatten(1), layer.bias) if type(layer) is nn.Conv2d else layer(x)


class Mixer(nn.Module, ABC):
    """Parts of both mixers: the position-bias MLP, the query embedding and the temperature.

    Args:
        dim: Channels, a multiple of `num_heads`.
        num_heads: Heads, `M`.
        geometry: The sizes the stage was trained at.
        bias_mode: "extrapolate" or "interpolate"; may be changed at any time.
        attn_drop: Dropout probability of the softmax weights.
        proj_drop: Dropout probability of the output.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Attributes:
        watch: Called with the keys beside the window, pooled or of all pixels, `[B, h, w, M, D]`, before they are used;
            None for nobody.
    """

    watch: Callable[[Tensor], None] | None = None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        geometry: StageGeometry,
        *,
        bias_mode: str = "extrapolate",
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dims entry {dim} is not a multiple of its num_heads entry {num_heads}")
        self.num_heads = num_heads
        self.geometry = geometry
        self.bias_mode = bias_mode
        self.attn_drop = attn_drop
        self.backend: Backend = "auto"
        self.tables = WeightCache()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1, **factory))
        self.query_embedding = nn.Parameter(torch.empty(num_heads, 1, dim // num_heads, **factory))
        self.cpb_fc1 = nn.Linear(2, HIDDEN_FEATURES, **factory)
        self.cpb_fc2 = nn.Linear(HIDDEN_FEATURES, num_heads, **factory)
        self.proj = nn.Linear(dim, dim, **factory)
        self.proj_drop = nn.Dropout(proj_drop)

    def init_own_weights(self) -> None:
        """Initial values of the parameters that are not in a submodule."""
        nn.init.constant_(self.temperature, INITIAL_TEMPERATURE)
        trunc_normal_(self.query_embedding, std=0.02)

    @abstractmethod
    def bias_sizes(self, like: Tensor) -> BiasSizes:
        """Rows and columns of a map `[B, H, W, C]`, of its keys, and of the keys at the trained size."""

    def bias_of(self, like: Tensor) -> PositionBias:
        """Position bias of the keys of a map, `[B, H, W, C]`; only its shape, dtype and device matter."""
        size, key_size, trained_key_size = self.bias_sizes(like)
        compiling = torch.compiler.is_compiling()
        plain = type(like) is Tensor or compiling
        weights = untouched_weights(self.cpb_fc1, self.cpb_fc2) if plain else None

        def build() -> PositionBias:
            why_not = "the MLP of the position bias was replaced, patched or has hooks"
            objection = why_not if weights is None else why_not_cpu_kernels(weights)
            return position_bias(
                self.cpb_fc1,
                self.cpb_fc2,
                like,
                size,
                key_size,
                trained_key_size,
                self.geometry,
                self.bias_mode,
                fused=use_fused(self.backend if like.is_cpu else "auto", objection),  # GPUs have no kernel for it
            )

        if is_exporting():
            return shared(("bias", id(self), size, key_size), build)
        if weights is None or compiling or torch.jit.is_tracing():
            return build()
        if torch.is_grad_enabled() and any(p.requires_grad for p in weights):
            self.tables.clear()  # an optimiser may be about to change the weights unseen
            return build()
        if self.training:
            return build()
        # Computed once for each size and set of weights.
        kind = like.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        key = (size, key_size, trained_key_size, self.geometry, self.bias_mode, precision, self.backend)
        return self.tables.get(key, weights, build)

    def train(self, mode: bool = True) -> "Mixer":
        """Sets the mode, and forgets what was derived from the weights: `weight.data` may have been written to."""
        self.tables.clear()
        return super().train(mode)

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"num_heads={self.num_heads}, bias_mode={self.bias_mode}"


class AggregatedAttention(Mixer):
    """Aggregated attention: 3x3 neighbourhood and pooled map under one softmax (TransNeXt, section 3.3).

    Args:
        dim: Channels, a multiple of `num_heads`.
        num_heads: Heads, `M`.
        geometry: The sizes the stage was trained at.
        window_size: Side of the neighbourhood, odd.
        sr_ratio: The pooled grid is `(H // sr_ratio, W // sr_ratio)`, at least 1x1.
        fixed_pool_size: `(P_h, P_w)` whatever the input (linear mode), or None; may be changed at any time.
        qkv_bias: Whether the query and key-value projections have a bias.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
        **options: The other arguments of `Mixer`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        geometry: StageGeometry,
        *,
        window_size: int,
        sr_ratio: int,
        fixed_pool_size: tuple[int, int] | None = None,
        qkv_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, geometry, device=device, dtype=dtype, **options)
        if window_size % 2 != 1:
            raise ValueError(f"window_size of an aggregated-attention stage must be odd, got {window_size}")
        self.window_size = window_size
        self.sr_ratio = sr_ratio
        self.fixed_pool_size = fixed_pool_size
        D, K = dim // num_heads, window_size**2
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **factory)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias, **factory)
        self.sr = nn.Conv2d(dim, dim, kernel_size=1, **factory)
        self.norm = nn.LayerNorm(dim, **factory)
        self.relative_pos_bias_local = nn.Parameter(torch.empty(num_heads, K, **factory))
        self.learnable_tokens = nn.Parameter(torch.empty(num_heads, D, K, **factory))
        self.learnable_bias = nn.Parameter(torch.empty(num_heads, 1, K, **factory))

    def init_own_weights(self) -> None:
        """Initial values of the parameters that are not in a submodule."""
        super().init_own_weights()
        trunc_normal_(self.relative_pos_bias_local, std=0.0004)
        trunc_normal_(self.learnable_tokens, std=0.02)
        nn.init.zeros_(self.learnable_bias)

    def pool_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The pooled grid `(P_h, P_w)` of a map of `size` = `(H, W)`."""
        if self.fixed_pool_size is not None:
            return self.fixed_pool_size
        bins = at_least_one(size[0] // self.sr_ratio), at_least_one(size[1] // self.sr_ratio)
        for i in (0, 1):
            shared(("width", size[i], bins[i]), lambda: self.sr_ratio)  # of `exporting`, for `evenly_divided`
        return bins

    def pool(self, x: Tensor) -> Tensor:
        """The pooled grid of a map, `[B, H, W, C]` to `[B, P_h, P_w, C]`."""
        size = self.pool_size((x.shape[1], x.shape[2]))
        if is_symbolic(*x.shape[1:3]) or is_exporting():
            height, width = (evenly_divided(x.shape[1 + i], size[i]) for i in (0, 1))
            if height is None or width is None:
                return pool_by_products(x, size)
            return F.avg_pool2d(x.permute(0, 3, 1, 2), (height, width)).permute(0, 2, 3, 1)
        return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)

    def keys_of(self, x: Tensor, product: Product | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys and values of the pixels and of the pooled grid.

        Args:
            x: `[B, H, W, C]`.
            product: Stands for the call of the Linears and of the convolution.

        Returns:
            `k`, `v`: `[B, H, W, M, D]`; `k_pool`, `v_pool`: `[B, P_h, P_w, M, D]`.
        """
        k, v = self.local_keys_of(x, product)
        return (k, v, *self.pooled_keys_of(x, product))

    def local_keys_of(self, x: Tensor, product: Product | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values of the pixels alone, the first two that `keys_of` gives."""
        k, v = _split_heads((product or call)(self.kv, x), 2, self.num_heads)
        return k, v

    def pooled_keys_of(self, x: Tensor, product: Product | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values of the pooled grid alone, the last two that `keys_of` gives."""
        if type(self.sr) is nn.Conv2d and is_untouched(self.sr):
            z = (product or call)(self.sr, x)
        else:
            z = self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        pooled = self.norm(self.pool(F.gelu(z)))
        k_pool, v_pool = _split_heads((product or call)(self.kv, pooled), 2, self.num_heads)
        return k_pool, v_pool

    def bias_sizes(self, like: Tensor) -> BiasSizes:
        """Those of the map, of the pooled grid, and of the pooled grid at the trained size."""
        size = (like.shape[1], like.shape[2])
        return size, self.pool_size(size), self.pool_size(self.geometry.trained_size)

    def forward(self, x: Tensor, product: Product | None = None) -> Tensor:
        """`[B, H, W, C]` to `[B, H, W, C]`; `product` stands for the call of the Linears and of the convolution."""
        return self.proj_drop((product or call)(self.proj, _aggregated(self, x, product)))

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return (
            f"{super().extra_repr()}, window_size={self.window_size}, sr_ratio={self.sr_ratio}, "
            f"fixed_pool_size={self.fixed_pool_size}"
        )


class GlobalCosineAttention(Mixer):
    """Cosine attention of every pixel to every pixel, used where the map is small (TransNeXt, section 3.3).

    Args:
        dim: Channels, a multiple of `num_heads`.
        num_heads: Heads, `M`.
        geometry: The sizes the stage was trained at.
        qkv_bias: Whether the projection has a bias.
        **options: The other arguments of `Mixer`.
    """

    def __init__(
        self, dim: int, num_heads: int, geometry: StageGeometry, *, qkv_bias: bool = True, **options: Any
    ) -> None:
        super().__init__(dim, num_heads, geometry, **options)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, device=options.get("device"), dtype=options.get("dtype"))

    def bias_sizes(self, like: Tensor) -> BiasSizes:
        """Those of the map twice, whose pixels are the keys, and of the trained map."""
        size = (like.shape[1], like.shape[2])
        return size, size, self.geometry.trained_size

    def forward(self, x: Tensor, product: Product | None = None) -> Tensor:
        """`[B, H, W, C]` to `[B, H, W, C]`; `product` stands for the call of the Linears."""
        return self.proj_drop((product or call)(self.proj, _attended(self, x, product)))


# Reading sizes and looping over them is kept in these leaf functions, so that torch.fx can trace a model around them.


@torch.fx.wrap
def _aggregated(mixer: AggregatedAttention, x: Tensor, product: Product | None) -> Tensor:
    q = (product or call)(mixer.q, x).unflatten(-1, (mixer.num_heads, -1))
    return aggregate(mixer, q, *mixer.keys_of(x, product), mixer.bias_of(x))


@torch.fx.wrap
def _attended(mixer: GlobalCosineAttention, x: Tensor, product: Product | None) -> Tensor:
    return attend_globally(mixer, (product or call)(mixer.qkv, x), mixer.bias_of(x))


def aggregate(
    mixer: AggregatedAttention, q: Tensor, k: Tensor, v: Tensor, k_pool: Tensor, v_pool: Tensor, bias: PositionBias
) -> Tensor:
    """Aggregated attention with the parameters of a mixer, before its output projection.

    Args:
        mixer: Whose parameters.
        q: `[B, H, W, M, D]`, as `k` and `v`.
        k: Keys.
        v: Values.
        k_pool: `[B, P_h, P_w, M, D]`, as `v_pool`.
        v_pool: Values of the pooled map.
        bias: Position bias of the pooled keys.

    Returns:
        `[B, H, W, C]`.
    """
    if mixer.watch is not None:
        mixer.watch(k_pool)
    out = aggregated_attention(
        q,
        k,
        v,
        k_pool,
        v_pool,
        mixer.query_embedding,
        mixer.temperature,
        mixer.relative_pos_bias_local,
        mixer.learnable_tokens,
        mixer.learnable_bias,
        *bias,
        dropout_p=mixer.attn_drop if mixer.training else 0.0,
        backend=mixer.backend,
    )
    return out.flatten(-2)


def attend_globally(mixer: GlobalCosineAttention, qkv: Tensor, position: PositionBias) -> Tensor:
    """Global cosine attention with the parameters of a mixer, before its output projection.

    Args:
        mixer: Whose parameters.
        qkv: `[B, H, W, 3 C]`: queries, keys, values, each head-major.
        position: Position bias of the pixels against one another.

    Returns:
        `[B, H, W, C]`.
    """
    q, k, v = _split_heads(qkv, 3, mixer.num_heads)
    if mixer.watch is not None:
        mixer.watch(k)
    out = global_attention(
        q,
        k,
        v,
        mixer.query_embedding,
        mixer.temperature,
        *position,
        dropout_p=mixer.attn_drop if mixer.training else 0.0,
        backend=mixer.backend if qkv.is_cpu else "auto",  # GPUs have no kernel for it
    )
    return out.flatten(-2)


def _split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """`[..., parts * C]` to `parts` views `[..., M, D]`."""
    return x.unflatten(-1, (parts, num_heads, -1)).unbind(-3)
