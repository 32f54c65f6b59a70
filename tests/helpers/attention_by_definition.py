"""Softmax weights of all blocks from their inputs, by the definition and in float64."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.models.attention import AggregatedAttention
from transnext.ops import expand_bias_table
from transnext.ops.reference import aggregated_attention_weights


def weights_by_definition(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Logits, then the weights of each block, heads first.

    Args:
        model: A TransNeXt; it is left as it is.
        images: `[B, 3, H, W]`.

    Returns:
        Float64: logits `[B, classes]`; of aggregated attention the window, `[B, M, N, K]`, and the pooled grid,
        `[B, M, N, P]`; of global attention `[B, M, N, N]`.
    """
    net = copy.deepcopy(model).double().eval()
    inputs: list[Tensor] = []
    mixers = [block.attn for stage in net.stages for block in stage.blocks]  # type: ignore[union-attr]
    handles = [mixer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for mixer in mixers]
    with torch.no_grad():
        found = [net(images.double())]
        for handle in handles:
            handle.remove()
        for mixer, x in zip(mixers, inputs, strict=True):
            if isinstance(mixer, AggregatedAttention):
                k, _, k_pool, _ = mixer.keys_of(x)
                q = mixer.q(x).unflatten(-1, (mixer.num_heads, -1))
                parameters = (mixer.query_embedding, mixer.temperature, mixer.relative_pos_bias_local)
                weights = aggregated_attention_weights(q, k, k_pool, *parameters, *mixer.bias_of(x))
                found += [w.flatten(4).flatten(1, 2).transpose(1, 2) for w in weights]
            else:
                found.append(_global(mixer, x))
    return found


def _global(mixer: nn.Module, x: Tensor) -> Tensor:
    """One query after the other."""
    H, W = x.shape[1:3]
    bias = mixer.bias_of(x)
    q, k, _ = mixer.qkv(x).unflatten(-1, (3, mixer.num_heads, -1)).unbind(3)
    table = expand_bias_table(bias.table, bias.rows, bias.cols)
    scale = F.softplus(mixer.temperature[:, 0, 0]) * math.log(H * W)
    rows = []
    for y in range(H):
        for z in range(W):
            unit = F.normalize(q[:, y, z], dim=-1) + mixer.query_embedding[:, 0]
            score = torch.einsum("bmd,byxmd->bmyx", unit, F.normalize(k, dim=-1)) * scale[:, None, None]
            rows.append((score + table[:, y, z]).flatten(2).softmax(-1))
    return torch.stack(rows, 2)
