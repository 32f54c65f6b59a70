"""A classifier with its attention as an ONNX graph.

Shape legend: `B` batch, `H W` image, `h w` feature map of a stage, `N = h * w`, `M` heads, `D` channels of a head, `K`
window positions, `P` pooled keys.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.export import onnx_file
from transnext.export.info import ExportInfo
from transnext.export.plain import ForExport
from transnext.export.program import trace
from transnext.models.attention import AggregatedAttention, GlobalCosineAttention, Mixer
from transnext.models.transnext import TransNeXt
from transnext.ops import expand_bias_table
from transnext.ops.exported import aggregated_attention_weights
from transnext.ops.reference import NORM_EPS
from transnext.ops.tracing import is_symbolic

LOGITS = "logits"


@dataclass(frozen=True, kw_only=True)
class BlockInfo:
    """What the page must know of a block.

    Attributes:
        stage: Its stage, from 0.
        block: Its place in the stage, from 0.
        stride: Image pixels between feature-map pixels.
        heads: Heads, `M`.
        window: Side of the window; None for a block that attends globally.
        ratio: Of map to pooled grid; None for a block that attends globally.
        pool: `(P_h, P_w)` where the pooled grid is fixed, else None.
    """

    stage: int
    block: int
    stride: int
    heads: int
    window: int | None
    ratio: int | None
    pool: tuple[int, int] | None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs in the graph: weights of the window, if there is one, and of the other keys."""
        place = f"{self.stage}_{self.block}"
        return (f"pool{place}",) if self.window is None else (f"local{place}", f"pool{place}")


def blocks_of(net: TransNeXt) -> tuple[BlockInfo, ...]:
    """The blocks of a network, in order."""
    return tuple(
        BlockInfo(
            stage=i,
            block=j,
            stride=net.feature_info[i]["reduction"],
            heads=block.attn.num_heads,
            window=getattr(block.attn, "window_size", None),
            ratio=getattr(block.attn, "sr_ratio", None),
            pool=getattr(block.attn, "fixed_pool_size", None),
        )
        for i, stage in enumerate(net.stages)
        for j, block in enumerate(stage.blocks)  # type: ignore[arg-type]
    )


class WithAttention(ForExport):
    """A copy of a classifier that `torch.export` can trace, and that gives all softmax weights beside the logits.

    Args:
        model: A TransNeXt; it is left as it is.
        fixed_size: As in `ForExport`.
    """

    def __init__(self, model: TransNeXt, *, fixed_size: bool = False) -> None:
        super().__init__(model, fixed_size=fixed_size)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images `[B, 3, H, W]` to logits `[B, classes]` and the weights of each block.

        Those are `[B, M, N, K]`, of a block with a window, and `[B, M, N, P]`, where `P` is `N` for one that attends
        globally.
        """
        net: Any = self.net
        x = images.permute(0, 2, 3, 1)
        weights: list[Tensor] = []
        for stage in net.stages:
            x = stage.patch_embed(x)
            for block in stage.blocks:
                weights += attention_weights(block.attn, block.norm1(x))
                x = block(x)
            x = stage.norm(x)
        return net.forward_head(x), *weights


def attention_weights(mixer: Mixer, x: Tensor) -> tuple[Tensor, ...]:
    """Softmax weights of all queries of a mixer, in operators that every runtime has.

    Args:
        mixer: The mixer.
        x: Its input, `[B, h, w, C]`.

    Returns:
        Of aggregated attention those of the window, `[B, M, N, K]`, and of the pooled grid, `[B, M, N, P]`; of global
        attention `[B, M, N, N]`.
    """
    if isinstance(mixer, AggregatedAttention):
        q = mixer.q(x).unflatten(-1, (mixer.num_heads, -1))
        k, _, k_pool, _ = mixer.keys_of(x)
        return aggregated_attention_weights(
            q,
            k,
            k_pool,
            mixer.query_embedding,
            mixer.temperature,
            mixer.relative_pos_bias_local,
            *mixer.bias_of(x),
        )
    assert isinstance(mixer, GlobalCosineAttention)
    H, W = x.shape[1:3]
    q, k, _ = mixer.qkv(x).flatten(1, 2).unflatten(-1, (3, mixer.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    log_length = torch.full((), H * W, dtype=x.dtype).log() if is_symbolic(H, W) else math.log(H * W)
    qs = (F.normalize(q, dim=-1, eps=NORM_EPS) + mixer.query_embedding) * (F.softplus(mixer.temperature) * log_length)
    bias = mixer.bias_of(x)
    table = expand_bias_table(bias.table, bias.rows, bias.cols).flatten(3, 4).flatten(1, 2)  # [M, N, N]
    return ((qs @ F.normalize(k, dim=-1, eps=NORM_EPS).transpose(2, 3) + table).softmax(-1),)


def network_graph(network: WithAttention, info: ExportInfo) -> Any:
    """The `onnx.ModelProto` of a network, with nothing in it but what is needed to run it.

    Args:
        network: What to write.
        info: Its `outputs` are `LOGITS` and those of the blocks.

    Raises:
        ValueError: It cannot be expressed.
    """
    program = trace(network, info.preprocessing.input_size)
    proto = onnx_file.convert(program, info).model_proto
    graph = proto.graph
    # Where each node came from is a quarter of the file, and what the values in between look like follows from it.
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
        node.ClearField("name")
    for value in (*graph.initializer, *graph.input, *graph.output):
        del value.metadata_props[:]
        value.ClearField("doc_string")
    del graph.value_info[:]
    del graph.metadata_props[:]
    return proto


def parameters_of(model: nn.Module) -> int:
    """Number of parameters of a model."""
    return sum(p.numel() for p in model.parameters())
