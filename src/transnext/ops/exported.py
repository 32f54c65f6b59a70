"""The ops in few operators that every runtime has, for graphs that leave PyTorch.

A window is read by one gather and the rest are matrix products: about 40 nodes of ONNX where the definition, tap by
tap, becomes 130, and faster there. Shape letters are those of `transnext.ops.reference`; `N = H * W`, `P = P_h * P_w`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.ops import reference
from transnext.ops.position_bias import AxisIndex, expand_bias_table
from transnext.ops.tracing import as_dtype, at_least_float32, no_autocast, shared


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
) -> Tensor:
    """Aggregated attention as `transnext.ops.reference.aggregated_attention` defines it."""
    out_dtype, dtype = q.dtype, at_least_float32(q.dtype)
    H, W = q.shape[1:3]
    K = relative_pos_bias_local.shape[-1]
    with no_autocast(q.device.type):
        qn, local, pool, neighbours, inside = _softmax_weights(
            q, k, k_pool, query_embedding, temperature, relative_pos_bias_local, bias_table, rows, cols
        )
        v, v_pool = _heads_first(v, dtype), _heads_first(v_pool, dtype)
        local = (local + (qn @ as_dtype(learnable_tokens, dtype) + as_dtype(learnable_bias, dtype))) * as_dtype(
            inside, dtype
        )
        out = (local.unsqueeze(-2) @ v.index_select(2, neighbours).unflatten(2, (-1, K))).squeeze(-2)
        out = out + pool @ v_pool
    return as_dtype(out.transpose(1, 2).unflatten(1, (H, W)), out_dtype)


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
) -> tuple[Tensor, Tensor]:
    """Softmax weights as `transnext.ops.reference.aggregated_attention_weights` defines them, heads first.

    Returns:
        Those of the window, `[B, M, N, K]`, 0 outside the map, and of the pooled grid, `[B, M, N, P]`.
    """
    with no_autocast(q.device.type):
        _, local, pool, _, _ = _softmax_weights(
            q, k, k_pool, query_embedding, temperature, relative_pos_bias_local, bias_table, rows, cols
        )
    return local, pool


def _softmax_weights(
    q: Tensor,
    k: Tensor,
    k_pool: Tensor,
    query_embedding: Tensor,
    temperature: Tensor,
    relative_pos_bias_local: Tensor,
    bias_table: Tensor,
    rows: AxisIndex,
    cols: AxisIndex,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Unit queries `[B, M, N, D]`, weights of the window and of the pooled grid, and what `_window` says of places."""
    dtype = at_least_float32(q.dtype)
    H, W = q.shape[1:3]
    K, P = relative_pos_bias_local.shape[-1], k_pool.shape[1] * k_pool.shape[2]
    q, k, k_pool = (_heads_first(t, dtype) for t in (q, k, k_pool))  # [B, M, N or P, D]
    parameters = (query_embedding, temperature, relative_pos_bias_local, bias_table)
    embedding, temperature, local_bias, table = (as_dtype(t, dtype) for t in parameters)
    key = (H, W, P, K, dtype, q.device)
    neighbours, inside, log_length = shared(("window", *key), lambda: _window(H, W, P, math.isqrt(K), dtype, q.device))
    qn, kn, kn_pool = (F.normalize(t, dim=-1, eps=reference.NORM_EPS) for t in (q, k, k_pool))
    qs = (qn + embedding) * (F.softplus(temperature) * log_length)
    local = (kn.index_select(2, neighbours).unflatten(2, (-1, K)) @ qs.unsqueeze(-1)).squeeze(-1)  # [B, M, N, K]
    local = local + torch.where(inside, local_bias[:, None], -math.inf)
    bias = expand_bias_table(table, rows, cols).flatten(3, 4).flatten(1, 2)  # [M, N, P]
    pool = qs @ kn_pool.transpose(2, 3) + bias
    local, pool = torch.cat((local, pool), dim=-1).softmax(dim=-1).split((K, P), dim=-1)
    return qn, local, pool, neighbours, inside


def _window(
    H: int, W: int, P: int, window: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels in the window of each pixel.

    Returns:
        Their places `[N * K]` int64, some other pixel's for those outside the map; which are inside, `[N, K]` bool; and
        the logarithm of the number of keys that a pixel sees, `[N, 1]`.
    """
    shift = torch.arange(window, device=device) - window // 2
    y = torch.arange(H, device=device)[:, None] + shift  # [H, w]
    x = torch.arange(W, device=device)[:, None] + shift
    places = y.clamp(0, H - 1)[:, None, :, None] * W + x.clamp(0, W - 1)[:, None]
    y_inside, x_inside = torch.logical_and(y >= 0, y < H), torch.logical_and(x >= 0, x < W)
    inside = torch.logical_and(y_inside[:, None, :, None], x_inside[:, None]).reshape(H * W, window**2)
    return places.flatten(), inside, (inside.sum(-1, keepdim=True) + P).to(dtype).log()


def _heads_first(x: Tensor, dtype: torch.dtype) -> Tensor:
    return as_dtype(x, dtype).flatten(1, 2).transpose(1, 2)
