"""Aggregated attention written for SDPA and FlexAttention, beside the op itself: what benchmarks compare it with.

SDPA and FlexAttention take the map's own keys and the pooled ones as one list of `N + P` keys: SDPA with a dense bias
that is -inf outside the window, FlexAttention with a mask that is sparse by blocks and a bias that is looked up. What
the learnable tokens add is a second step for both. Masks, and SDPA's bias, are made beforehand, where a network would
make them once for all its blocks.

Shape legend: `B` batch, `H W` map, `N = H * W`, `M` heads, `D` channels of a head, `P` pooled keys, `K` neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from transnext.ops import AxisIndex, aggregated_attention, axis_index, expand_bias_table
from transnext.ops.reference import NORM_EPS

WINDOW, K, D = 3, 9, 24


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Arguments of `aggregated_attention`, by its names."""

    tensors: dict[str, Tensor]
    rows: AxisIndex
    cols: AxisIndex

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


def make_inputs(B: int, H: int, W: int, M: int, ratio: int, dtype: torch.dtype, device: str) -> Inputs:
    """Random maps in `dtype`, parameters in float32, at about the values that training starts from."""
    rows, cols = (axis_index(n, max(1, n // ratio), device=device) for n in (H, W))
    grid = (max(1, H // ratio), max(1, W // ratio))

    def randn(*shape: int, scale: float = 1.0, kind: torch.dtype = torch.float32) -> Tensor:
        return (scale * torch.randn(shape, device=device)).to(kind).requires_grad_()

    return Inputs(
        tensors={
            **{name: randn(B, H, W, M, D, kind=dtype) for name in ("q", "k", "v")},
            **{name: randn(B, *grid, M, D, kind=dtype) for name in ("k_pool", "v_pool")},
            "query_embedding": randn(M, 1, D, scale=0.02),
            "temperature": torch.full((M, 1, 1), 4.15, device=device, requires_grad=True),
            "relative_pos_bias_local": randn(M, K),
            "learnable_tokens": randn(M, D, K, scale=0.02),
            "learnable_bias": randn(M, 1, K, scale=0.02),
            "bias_table": randn(M, len(rows.offsets), len(cols.offsets)),
        },
        rows=rows,
        cols=cols,
    )


def op(inputs: Inputs, backend: str) -> Tensor:
    """The op itself, `[B, H, W, M, D]`."""
    return aggregated_attention(**inputs.tensors, rows=inputs.rows, cols=inputs.cols, backend=backend)


def with_sdpa(inputs: Inputs) -> Callable[[], Tensor]:
    """The same by `scaled_dot_product_attention` with a bias of all `[M, N, N + P]` pairs, which gets a gradient."""
    H, W = inputs["q"].shape[1:3]
    N, P = H * W, inputs["k_pool"].shape[1] * inputs["k_pool"].shape[2]
    pixels = torch.arange(N, device=inputs["q"].device)
    with torch.no_grad():
        offset = window_offset(pixels[:, None], pixels, W)
        local = inputs["relative_pos_bias_local"][:, offset.clamp(min=0)].masked_fill(offset < 0, -torch.inf)
        pooled = expand_bias_table(inputs["bias_table"], inputs.rows, inputs.cols).reshape(-1, N, P)
        bias = torch.cat((local, pooled), -1).to(inputs["q"].dtype)
    bias.requires_grad_()

    def attend() -> Tensor:
        q, k, v = scaled(inputs)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return out.transpose(1, 2).unflatten(1, (H, W)) + learned(inputs)

    return attend


def with_flex(inputs: Inputs, attend: Callable[..., Any] = flex_attention) -> Callable[[], Tensor]:
    """The same by FlexAttention: sparse blocks for the window, and a bias that is looked up for each pair.

    Args:
        inputs: What the op takes.
        attend: `flex_attention`, or what `torch.compile` made of it.
    """
    H, W = inputs["q"].shape[1:3]
    P_h, P_w = inputs["k_pool"].shape[1:3]
    N = H * W
    local, table = inputs["relative_pos_bias_local"], inputs["bias_table"]
    row_taps, col_taps = inputs.rows.taps[..., 0], inputs.cols.taps[..., 0]

    def mask(b: Tensor, m: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= N) | (window_offset(query, key, W) >= 0)

    def bias(score: Tensor, b: Tensor, m: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = local[m, window_offset(query, key.clamp(max=N - 1), W).clamp(min=0)]
        p = (key - N).clamp(min=0)
        far = table[m, row_taps[query // W, p // P_w], col_taps[query % W, p % P_w]]
        return score + torch.where(key < N, near, far)

    blocks = create_block_mask(mask, None, None, N, N + P_h * P_w, device=str(inputs["q"].device))

    def run() -> Tensor:
        q, k, v = scaled(inputs)
        out = attend(q, k, v, score_mod=bias, block_mask=blocks, scale=1.0)
        return out.transpose(1, 2).unflatten(1, (H, W)) + learned(inputs)

    return run


def window_offset(query: Tensor, key: Tensor, W: int) -> Tensor:
    """Which neighbour of a query a pixel is, row-major from the top left; -1 if none."""
    down, right = key // W - query // W + WINDOW // 2, key % W - query % W + WINDOW // 2
    near = (down >= 0) & (down < WINDOW) & (right >= 0) & (right < WINDOW)
    return torch.where(near, down * WINDOW + right, -1)


def scaled(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries `[B, M, N, D]`, and all keys and values `[B, M, N + P, D]`, in the dtype of the maps."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    H, W = q.shape[1:3]
    P = inputs["k_pool"].shape[1] * inputs["k_pool"].shape[2]
    ones = torch.ones(1, 1, H, W, device=q.device)
    in_sight = F.avg_pool2d(ones, WINDOW, 1, WINDOW // 2, divisor_override=1)[0, 0]  # [H, W]
    length = (in_sight + P).log()[..., None, None]
    unit = F.normalize(q.float(), dim=-1, eps=NORM_EPS)
    qs = (unit + inputs["query_embedding"][:, 0]) * F.softplus(inputs["temperature"])[:, 0] * length
    keys = torch.cat((k.flatten(1, 2), inputs["k_pool"].flatten(1, 2)), 1)
    values = torch.cat((v.flatten(1, 2), inputs["v_pool"].flatten(1, 2)), 1)
    keys = F.normalize(keys.float(), dim=-1, eps=NORM_EPS).to(q.dtype)
    return qs.to(q.dtype).flatten(1, 2).transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)


def learned(inputs: Inputs) -> Tensor:
    """What the learnable tokens add, `[B, H, W, M, D]`."""
    q, v = inputs["q"], inputs["v"]
    unit = F.normalize(q.float(), dim=-1, eps=NORM_EPS)
    weights = torch.einsum("bhwmd,mdk->bhwmk", unit, inputs["learnable_tokens"]) + inputs["learnable_bias"][:, 0]
    H, W = q.shape[1:3]
    padded = F.pad(v, (0, 0, 0, 0, 1, 1, 1, 1))
    shifted = [padded[:, y : y + H, x : x + W] for y in range(WINDOW) for x in range(WINDOW)]
    return sum(weights[..., i, None] * part for i, part in enumerate(shifted)).to(q.dtype)  # type: ignore[union-attr]
