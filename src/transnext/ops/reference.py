"""The ops in plain PyTorch: the definitions that every faster implementation is held to.

Shape legend: `B` batch, `H W` feature map, `M` heads, `D` channels of a head, `w` window side, `K = w * w`,
`P_h P_w` pooled grid, `P = P_h * P_w`, `F` hidden channels. Maps are channels-last.

float16 and bfloat16 inputs are computed in float32 and rounded once, at the end; float64 stays float64. Autocast does
not reach inside.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.ops.position_bias import AxisIndex, expand_bias_table
from transnext.ops.tracing import as_dtype, at_least_float32, is_symbolic, no_autocast

NORM_EPS = 1e-12
"""Smallest length by which queries and keys are divided when they are normalised."""

MAX_BIAS_ENTRIES = 1 << 24
"""Query-key pairs times heads whose bias global attention holds at once: 64 MB. A 2048x2048 image has 400 million."""


class AttentionWeights(NamedTuple):
    """Attention of the queries of aggregated attention; `local` and `pool` together sum to 1 over the keys.

    Attributes:
        local: Softmax weights of the window, `[B, H, W, M, K]`, row-major from the top left; 0 outside the map.
        pool: Softmax weights of the pooled grid, `[B, H, W, M, P_h, P_w]`.
    """

    local: Tensor
    pool: Tensor


def aggregated_attention_weights(
    q: Tensor,
    k: Tensor,
    k_pool: Tensor,
    query_embedding: Tensor,
    temperature: Tensor,
    relative_pos_bias_local: Tensor,
    bias_table: Tensor,
    rows: AxisIndex,
    cols: AxisIndex,
) -> AttentionWeights:
    """Softmax weights of aggregated attention (TransNeXt, section 3.3), before the query-learnable-value term.

    Arguments are those of `aggregated_attention`. float16 and bfloat16 give float32 weights.
    """
    dtype = at_least_float32(q.dtype)
    q, k, k_pool = (t.to(dtype) for t in (q, k, k_pool))
    with no_autocast(q.device.type):
        return _softmax_weights(
            F.normalize(q, dim=-1, eps=NORM_EPS),
            k,
            k_pool,
            query_embedding.to(dtype),
            temperature.to(dtype),
            relative_pos_bias_local.to(dtype),
            bias_table.to(dtype),
            rows,
            cols,
        )


def aggregated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    query_embedding: Tensor,
    temperature: Tensor,
    relative_pos_bias_local: Tensor,
    learnable_tokens: Tensor,
    learnable_bias: Tensor,
    bias_table: Tensor,
    rows: AxisIndex,
    cols: AxisIndex,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attention of each pixel to its neighbourhood and to a pooled view of the map, under one softmax.

    Formula, arguments and result are those of `transnext.ops.aggregated_attention`.
    """
    out_dtype, dtype = q.dtype, at_least_float32(q.dtype)
    q, k, v, k_pool, v_pool = (t.to(dtype) for t in (q, k, v, k_pool, v_pool))
    with no_autocast(q.device.type):
        qn = F.normalize(q, dim=-1, eps=NORM_EPS)
        local, pool = _softmax_weights(
            qn,
            k,
            k_pool,
            query_embedding.to(dtype),
            temperature.to(dtype),
            relative_pos_bias_local.to(dtype),
            bias_table.to(dtype),
            rows,
            cols,
        )
        if dropout_p > 0:
            local, pool = F.dropout(local, dropout_p), F.dropout(pool, dropout_p)
        local = (
            local + torch.einsum("bhwmd,mdk->bhwmk", qn, learnable_tokens.to(dtype)) + learnable_bias.to(dtype)[:, 0]
        )
        out = torch.einsum("bhwmyx,byxmd->bhwmd", pool, v_pool)
        for offset, neighbour in enumerate(_neighbours(v, _window_size(relative_pos_bias_local))):
            out = out + local[..., offset, None] * neighbour
    return out.to(out_dtype)


def global_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_embedding: Tensor,
    temperature: Tensor,
    bias_table: Tensor,
    rows: AxisIndex,
    cols: AxisIndex,
    dropout_p: float = 0.0,
) -> Tensor:
    """Cosine attention of every pixel to every pixel.

    Formula, arguments and result are those of `transnext.ops.global_attention`. It is PyTorch's attention, which under
    autocast, and on 16-bit maps, rounds in between; unit vectors and their scale are at least float32.
    """
    H, W, M = q.shape[1:4]
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))  # [B, M, N, D]
    wide = at_least_float32(q.dtype)  # NORM_EPS is 0 in float16
    log_length = torch.full((), H * W, dtype=wide, device=q.device).log() if is_symbolic(H, W) else math.log(H * W)
    scale = F.softplus(as_dtype(temperature, wide)) * log_length
    qs = (F.normalize(as_dtype(q, wide), dim=-1, eps=NORM_EPS) + as_dtype(query_embedding, wide)) * scale
    kn = F.normalize(as_dtype(k, wide), dim=-1, eps=NORM_EPS)
    qs, kn = as_dtype(qs, v.dtype), as_dtype(kn, v.dtype)
    heads_at_once = M
    if not torch.compiler.is_compiling():
        heads_at_once = max(1, min(heads_at_once, MAX_BIAS_ENTRIES // (H * W) ** 2))
    parts = []
    for first in range(0, M, heads_at_once):
        heads = slice(first, first + heads_at_once)
        bias = expand_bias_table(bias_table[heads], rows, cols).flatten(3, 4).flatten(1, 2)
        part = F.scaled_dot_product_attention(
            qs[:, heads],
            kn[:, heads],
            v[:, heads],
            attn_mask=as_dtype(bias, v.dtype),  # [M, N, N]
            dropout_p=dropout_p,
            scale=1.0,
        )
        parts.append(part)
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return out.transpose(1, 2).unflatten(1, (H, W))


def depthwise_conv_gelu_gate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The heart of the convolutional GLU (TransNeXt, section 3.5): `GELU(depthwise_conv(a) + bias) * g`.

    Args:
        x: The halves `a` and `g` one after the other along the channels, `[B, H, W, 2 F]`.
        weight: Depthwise kernel, `[F, 1, k, k]`, `k` odd; the map is padded with zeros.
        bias: `[F]` or None.

    Returns:
        `[B, H, W, F]` in the dtype of `x`. GELU is the exact one (erf).
    """
    out_dtype, dtype = x.dtype, at_least_float32(x.dtype)
    a, g = as_dtype(x, dtype).chunk(2, dim=-1)
    with no_autocast(x.device.type):
        a = F.conv2d(
            a.permute(0, 3, 1, 2),
            as_dtype(weight, dtype),
            None if bias is None else as_dtype(bias, dtype),
            padding=weight.shape[-1] // 2,
            groups=weight.shape[0],
        )
        out = F.gelu(a).permute(0, 2, 3, 1) * g
    return as_dtype(out, out_dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` in the dtype of `x`, to which the parameters are rounded, as autocast does."""
    with no_autocast(x.device.type):
        return F.linear(x, as_dtype(weight, x.dtype), None if bias is None else as_dtype(bias, x.dtype))


def conv_glu(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
) -> Tensor:
    """A convolutional GLU; formula and arguments are those of `transnext.ops.products.conv_glu_training`."""
    hidden = linear(x, fc1_weight, fc1_bias)
    return linear(depthwise_conv_gelu_gate(hidden, weight, bias), fc2_weight, fc2_bias)


def norm_linear(
    x: Tensor,
    norm: tuple[Tensor, Tensor, float] | None,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    gelu_from: int | None = None,
) -> Tensor:
    """LayerNorm, Linear, GELU on the channels from `gelu_from` on, and `residual`; see `transnext.ops.products`."""
    if norm is not None:
        x = F.layer_norm(x, x.shape[-1:], *norm)
    out = F.linear(x, weight, bias)
    if gelu_from is not None:
        out = torch.cat((out[..., :gelu_from], F.gelu(out[..., gelu_from:])), -1)
    return out if residual is None else out + residual


def adaptive_average_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling of a channels-last map, `[B, H, W, C]` to `[B, P_h, P_w, C]`."""
    return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm over the last axis in at least float32, rounded to `dtype`."""
    wide = at_least_float32(x.dtype)
    parameters = (None if p is None else as_dtype(p, wide) for p in (weight, bias))
    with no_autocast(x.device.type):
        return as_dtype(F.layer_norm(as_dtype(x, wide), x.shape[-1:], *parameters, eps), dtype)


def add_layer_norm(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A residual sum and its LayerNorm; arguments and results are those of `transnext.ops.add_norm`."""
    total = x + branch
    return total, layer_norm(total, weight, bias, eps, dtype)


def add_layer_norm_gradient(
    grad_total: Tensor, grad_normed: Tensor, total: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the sum, of weight and of bias (empty if there is none), from those of sum and norm."""
    dtype = at_least_float32(total.dtype)
    x, of_normed = as_dtype(total, dtype), as_dtype(grad_normed, dtype)
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    inverse = (variance + eps).rsqrt()
    unit = (x - mean) * inverse
    g = of_normed * as_dtype(weight, dtype)
    of_x = (g - g.mean(-1, keepdim=True) - unit * (g * unit).mean(-1, keepdim=True)) * inverse
    of_weight = (of_normed * unit).flatten(0, -2).sum(0).to(weight.dtype)
    of_bias = weight.new_empty(0) if bias is None else of_normed.flatten(0, -2).sum(0).to(bias.dtype)
    return (of_x + grad_total).to(total.dtype), of_weight, of_bias


def gelu_average_pool(x: Tensor, P_h: int, P_w: int) -> Tensor:
    """Adaptive average pooling of what GELU makes of a map, `[B, H, W, C]` to `[B, P_h, P_w, C]`."""
    activated = F.gelu(as_dtype(x, at_least_float32(x.dtype)))
    return as_dtype(adaptive_average_pool(activated, (P_h, P_w)), x.dtype)


def position_bias_table(
    rows: Tensor, columns: Tensor, fc1: Tensor, bias1: Tensor | None, fc2: Tensor, bias2: Tensor | None
) -> Tensor:
    """The MLP of the position bias over a grid; arguments and result are those of `transnext.ops.bias_table`."""
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    return F.linear(F.relu(F.linear(grid, fc1, bias1)), fc2, bias2).permute(2, 0, 1)


def _softmax_weights(
    qn: Tensor,
    k: Tensor,
    k_pool: Tensor,
    query_embedding: Tensor,
    temperature: Tensor,
    relative_pos_bias_local: Tensor,
    bias_table: Tensor,
    rows: AxisIndex,
    cols: AxisIndex,
) -> AttentionWeights:
    H, W = qn.shape[1:3]
    P_h, P_w = k_pool.shape[1:3]
    window = _window_size(relative_pos_bias_local)
    inside = _neighbours_inside(H, W, window, qn.device)  # [H, W, K]
    log_length = (inside.sum(-1, dtype=qn.dtype) + P_h * P_w).log()  # [H, W]
    scale = F.softplus(temperature)[:, 0] * log_length[..., None, None]  # [H, W, M, 1]
    qs = (qn + query_embedding[:, 0]) * scale

    kn = F.normalize(k, dim=-1, eps=NORM_EPS)
    local = torch.stack([(qs * neighbour).sum(-1) for neighbour in _neighbours(kn, window)], dim=-1)
    local = (local + relative_pos_bias_local).masked_fill(~inside[:, :, None], -math.inf)

    pool = torch.einsum("bhwmd,byxmd->bhwmyx", qs, F.normalize(k_pool, dim=-1, eps=NORM_EPS))
    pool = pool + expand_bias_table(bias_table, rows, cols).permute(1, 2, 0, 3, 4)

    weights = torch.cat((local, pool.flatten(-2)), dim=-1).softmax(dim=-1)
    local, pool = weights.split((window * window, P_h * P_w), dim=-1)
    return AttentionWeights(local, pool.unflatten(-1, (P_h, P_w)))


def _window_size(relative_pos_bias_local: Tensor) -> int:
    return math.isqrt(relative_pos_bias_local.shape[-1])


def _neighbours(x: Tensor, window: int) -> list[Tensor]:
    """The `K` maps `[B, H, W, M, D]` that hold, at each pixel, one of its neighbours; views into one padded map."""
    H, W = x.shape[1:3]
    r = window // 2
    padded = F.pad(x, (0, 0, 0, 0, r, r, r, r))
    return [padded[:, dy : dy + H, dx : dx + W] for dy in range(window) for dx in range(window)]


def _neighbours_inside(H: int, W: int, window: int, device: torch.device) -> Tensor:
    """True for neighbours of each pixel that lie on the map, `[H, W, K]` bool."""
    shift = torch.arange(window, device=device) - window // 2
    y = torch.arange(H, device=device)[:, None] + shift  # [H, w]
    x = torch.arange(W, device=device)[:, None] + shift
    y_inside, x_inside = (y >= 0) & (y < H), (x >= 0) & (x < W)
    return (y_inside[:, None, :, None] & x_inside[None, :, None, :]).flatten(-2)
