"""Maps over the pixels of where one query of aggregated attention looks.

Shape legend: `B` batch, `H W` image, `h w` feature map of the stage, `M` heads, `K` window positions, `P_h P_w` pooled
grid.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.models.attention import AggregatedAttention
from transnext.models.transnext import TransNeXt
from transnext.ops import AxisIndex
from transnext.ops.reference import aggregated_attention_weights


def attention_from(
    model: nn.Module,
    images: Tensor,
    position: tuple[float, float] = (0.5, 0.5),
    stage: int | None = None,
    block: int = -1,
) -> Tensor:
    """Attention of one query to all pixels of its feature map, mean over heads.

    The softmax weight of a neighbour lies on its pixel; the weight of a pooled key is spread evenly over the pixels it
    was pooled from. The query-learnable-value term, which comes after the softmax, is no part of it.

    Args:
        model: A TransNeXt or a module that contains one. It is run in eval mode without gradients, and left as it was.
        images: Normalised images, `[B, 3, H, W]`, of the device and dtype of the model.
        position: Row and column of the query as fractions of the image, 0..1. The feature-map pixel nearest to it is
            the query.
        stage: Index of the stage; the last with aggregated attention if None.
        block: Index of the block within the stage.

    Returns:
        `[B, h, w]`, float32 (float64 for a float64 model), non-negative; each map sums to 1.

    Raises:
        ValueError: The model has no such stage or block with aggregated attention, `position` lies outside the image,
            or `images` is not a batch.
    """
    net = _find_network(model)
    return _attention_in_stage(net, images, position, _find_stage(net, stage), block)


def where_it_looks(
    model: nn.Module,
    images: Tensor,
    position: tuple[float, float] = (0.5, 0.5),
    stage: int | None = None,
    block: int = -1,
) -> Tensor:
    """The map of `attention_from` at the size of the images, for display.

    Args:
        model: As in `attention_from`.
        images: As in `attention_from`.
        position: As in `attention_from`.
        stage: As in `attention_from`.
        block: As in `attention_from`.

    Returns:
        `[B, H, W]`, each map divided by its maximum: 0..1, where 1 is what the query attends to most. The feature map
        is resized bilinearly, each of its pixels standing where the receptive field of its patch is centred.

    Raises:
        ValueError: As in `attention_from`.
    """
    net = _find_network(model)
    index = _find_stage(net, stage)
    attention = _attention_in_stage(net, images, position, index, block)
    stride = _stride(net, index)
    rows = _resize_matrix(attention.shape[1], images.shape[2], stride, attention)
    cols = _resize_matrix(attention.shape[2], images.shape[3], stride, attention)
    heat = rows @ attention @ cols.T
    return heat / heat.amax(dim=(1, 2), keepdim=True)


def _find_network(model: nn.Module) -> TransNeXt:
    for module in model.modules():
        if isinstance(module, TransNeXt):
            return module
    raise ValueError(f"{type(model).__name__} contains no TransNeXt: attention can be shown for TransNeXt models only")


def _mixers(net: TransNeXt, stage: int) -> list[AggregatedAttention]:
    """The aggregated-attention mixers of a stage, one for each block; none if it mixes globally."""
    return [module for module in net.stages[stage].modules() if isinstance(module, AggregatedAttention)]


def _find_stage(net: TransNeXt, stage: int | None) -> int:
    """Index, from 0, of a stage with aggregated attention."""
    aggregated = [i for i in range(len(net.stages)) if _mixers(net, i)]
    if not aggregated:
        raise ValueError("the model has no stage with aggregated attention")
    if stage is None:
        return aggregated[-1]
    index = stage + len(net.stages) if stage < 0 else stage
    if index not in aggregated:
        raise ValueError(f"stage {stage} has no aggregated attention: choose one of {', '.join(map(str, aggregated))}")
    return index


def _attention_in_stage(
    net: TransNeXt, images: Tensor, position: tuple[float, float], stage: int, block: int
) -> Tensor:
    if images.ndim != 4 or images.shape[0] == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}: expected [B, 3, H, W] with at least one image")
    if not all(0 <= p <= 1 for p in position):
        raise ValueError(f"position is {position}: expected row and column as fractions of the image, 0..1")
    mixers = _mixers(net, stage)
    if not -len(mixers) <= block < len(mixers):
        raise ValueError(f"block is {block}, but stage {stage} has {len(mixers)} blocks, counted from 0")
    mixer = mixers[block]
    with torch.no_grad(), _evaluating(net):
        x = _input_of(mixer, net, images, stage)
        stride = _stride(net, stage)
        row = _nearest(position[0], images.shape[2], stride, x.shape[1])
        col = _nearest(position[1], images.shape[3], stride, x.shape[2])
        return _attention_of_query(mixer, x, row, col)


@contextmanager
def _evaluating(net: TransNeXt) -> Iterator[None]:
    """Eval mode; afterwards every module has its own mode again, also where they differed."""
    training, backend = [(module, module.training) for module in net.modules()], net.backend
    net.eval()
    if backend == "fused":
        net.backend = "auto"  # a mixer that is looked at runs as modules
    try:
        yield
    finally:
        if backend == "fused":
            net.backend = backend
        for module, mode in training:
            module.training = mode


def _input_of(mixer: AggregatedAttention, net: TransNeXt, images: Tensor, stage: int) -> Tensor:
    """Input of `mixer`, `[B, h, w, C]`, when the network runs up to its stage."""
    seen: list[Tensor] = []
    handle = mixer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        net.forward_intermediates(images, indices=[stage], stop_early=True, intermediates_only=True)
    finally:
        handle.remove()
    return seen[0]


def _attention_of_query(mixer: AggregatedAttention, x: Tensor, row: int, col: int) -> Tensor:
    """Attention `[B, h, w]` of the query at `(row, col)` of the map `x`, `[B, h, w, C]`."""
    size = (x.shape[1], x.shape[2])
    r = mixer.window_size // 2
    # The window of one query needs no more than the part of the map that it covers. Cut at the edges of the map, that
    # part hides from the query what the whole map would: memory stays small for large images.
    rows = slice(max(row - r, 0), row + r + 1)
    cols = slice(max(col - r, 0), col + r + 1)
    q = mixer.q(x[:, rows, cols]).unflatten(-1, (mixer.num_heads, -1))
    k, _, k_pool, _ = mixer.keys_of(x)
    bias = mixer.bias_of(x)
    weights = aggregated_attention_weights(
        q,
        k[:, rows, cols],
        k_pool,
        mixer.query_embedding,
        mixer.temperature,
        mixer.relative_pos_bias_local,
        bias.table,
        _part_of(bias.rows, rows),
        _part_of(bias.cols, cols),
    )
    at = (row - rows.start, col - cols.start)
    local = weights.local[:, at[0], at[1]].mean(dim=1).unflatten(-1, (mixer.window_size, -1))  # [B, w, w]
    pool = weights.pool[:, at[0], at[1]].mean(dim=1)  # [B, P_h, P_w]

    attention = _spread_matrix(size[0], pool.shape[1], pool) @ pool @ _spread_matrix(size[1], pool.shape[2], pool).T
    # The window, padded to the size of the map with a margin for what lies outside it.
    padded = F.pad(attention, (r, r, r, r))
    padded[:, row : row + 2 * r + 1, col : col + 2 * r + 1] += local
    return padded[:, r : r + size[0], r : r + size[1]].contiguous()


def _part_of(axis: AxisIndex, queries: slice) -> AxisIndex:
    """The index of some of the queries of an axis."""
    return AxisIndex(axis.offsets, axis.taps[queries], None if axis.weight is None else axis.weight[queries])


def _spread_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """`[size, bins]`: the share of each bin of adaptive average pooling that each pixel has; columns sum to 1."""
    return F.adaptive_avg_pool1d(torch.eye(size, dtype=like.dtype, device=like.device), bins)


def _stride(net: TransNeXt, stage: int) -> int:
    """Image pixels between the feature-map pixels of a stage."""
    return net.feature_info[stage]["reduction"]


def _nearest(fraction: float, image_size: int, stride: int, size: int) -> int:
    """The feature-map pixel nearest to a place of the image, along one axis.

    The padded convolutions of the patch embeddings centre feature-map pixel `i` on image pixel `i * stride`.
    """
    pixel = fraction * image_size - 0.5
    return min(max(math.floor(pixel / stride + 0.5), 0), size - 1)


def _resize_matrix(size: int, image_size: int, stride: int, like: Tensor) -> Tensor:
    """`[image_size, size]`: linear interpolation along one axis, feature-map pixel `i` at image pixel `i * stride`."""
    pixels = torch.arange(image_size, dtype=like.dtype, device=like.device)
    place = (pixels / stride).clamp(max=size - 1)
    return (1 - (place[:, None] - torch.arange(size, device=like.device)).abs()).clamp(min=0)
