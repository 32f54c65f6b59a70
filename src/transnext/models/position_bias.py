"""The position bias of a mixer: log-spaced coordinates through a small MLP, for any size and in every mode.

Shape legend: `H W` feature map, `P_h P_w` key grid, `U_h U_w` distinct offsets per axis, `M` heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from transnext.ops import AxisIndex, axis_index, log_spaced
from transnext.ops.backend import is_capturing
from transnext.ops.bias_table import position_bias_table
from transnext.ops.tracing import is_exporting, is_symbolic, shared

BiasMode = Literal["extrapolate", "interpolate"]
BIAS_MODES: tuple[str, ...] = get_args(BiasMode)

HIDDEN_FEATURES = 512
MAX_CHUNK_ENTRIES = 1 << 15
"""Table entries that go through the MLP at once: 64 MB of hidden units in float32. An 800x1216 image has 235,000."""


class PositionBias(NamedTuple):
    """Bias of all query-key pairs as a table and an index per axis; see `transnext.ops.position_bias`.

    Attributes:
        table: `[M, U_h, U_w]`.
        rows: Index of the vertical axis.
        cols: Index of the horizontal axis.
    """

    table: Tensor
    rows: AxisIndex
    cols: AxisIndex


@dataclass(frozen=True, kw_only=True)
class StageGeometry:
    """The sizes a stage was trained at.

    Attributes:
        trained_size: Rows and columns of the feature map at the trained image size; the interpolating mode resizes
            the bias from there.
        pretrain_scale: Rows and columns of the feature map at the pre-training resolution, minus 1 each: the unit of
            the coordinates.
    """

    trained_size: tuple[int, int]
    pretrain_scale: tuple[float, float]


def position_bias(
    fc1: nn.Linear,
    fc2: nn.Linear,
    like: Tensor,
    query_size: tuple[int, int],
    key_size: tuple[int, int],
    trained_key_size: tuple[int, int],
    geometry: StageGeometry,
    mode: str,
    fused: bool = False,
) -> PositionBias:
    """Position bias of a `query_size` map against a `key_size` grid of pooled keys.

    Args:
        fc1: First layer of the MLP, 2 -> hidden.
        fc2: Second layer, hidden -> `M`.
        like: A tensor of the running computation, for device and dtype.
        query_size: `(H, W)`.
        key_size: `(P_h, P_w)`.
        trained_key_size: The key grid at the trained size, used by the interpolating mode.
        geometry: The sizes the stage was trained at.
        mode: "extrapolate" or "interpolate".
        fused: The kernel for CPUs stands for the layers, which nobody replaced or watches.
    """
    # Nothing is remembered of a graph that is traced, whose sizes may be symbols, nor of fake tensors; and a CUDA graph
    # would read an entry after it was dropped.
    traced = is_exporting() or torch.compiler.is_compiling() or torch.jit.is_tracing() or type(like) is not Tensor
    index = _axis if traced or is_capturing() else _remembered_axis
    axes: list[AxisIndex] = []
    for i in range(2):
        trained = (geometry.trained_size[i], trained_key_size[i]) if mode == "interpolate" else (None, None)
        axes.append(index(query_size[i], key_size[i], trained, like.device))
    rows, cols = axes
    table = _table(fc1, fc2, rows.offsets, cols.offsets, geometry.pretrain_scale, fused, like.dtype)
    return PositionBias(table, rows, cols)


@lru_cache(maxsize=256)
def _remembered_axis(
    num_queries: int, num_keys: int, trained: tuple[int, int] | tuple[None, None], device: torch.device
) -> AxisIndex:
    # Outside inference mode, so that a model that was first used for inference can be trained.
    with torch.inference_mode(False), torch.no_grad():
        return _axis(num_queries, num_keys, trained, device)


def _axis(
    num_queries: int, num_keys: int, trained: tuple[int, int] | tuple[None, None], device: torch.device
) -> AxisIndex:
    return shared(
        ("axis", num_queries, num_keys, trained, device),
        lambda: axis_index(num_queries, num_keys, trained_queries=trained[0], trained_keys=trained[1], device=device),
    )


def _table(
    fc1: nn.Linear,
    fc2: nn.Linear,
    row_offsets: Tensor,
    col_offsets: Tensor,
    scale: tuple[float, float],
    fused: bool,
    dtype: torch.dtype,
) -> Tensor:
    """The MLP over the grid of distinct offsets, `[M, U_h, U_w]`, a few rows at a time to bound memory."""
    rows, cols = shared(
        ("coordinates", id(row_offsets), id(col_offsets), *scale),
        lambda: (log_spaced(row_offsets, scale[0]), log_spaced(col_offsets, scale[1])),
    )
    if fused:
        return position_bias_table(rows, cols, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    # Quantised layers have no parameters, and wrapped ones keep them anywhere.
    dtype = next((p.dtype for p in fc1.parameters() if p.is_floating_point()), dtype)
    rows, cols = rows.to(dtype), cols.to(dtype)
    if is_symbolic(rows.shape[0], cols.shape[0]):
        parts: Sequence[Tensor] = (rows,)
    else:
        parts = rows.split(max(1, MAX_CHUNK_ENTRIES // cols.shape[0]))
    chunks = []
    for part in parts:
        size = part.shape[0], cols.shape[0]
        grid = torch.stack((part[:, None].expand(size), cols.expand(size)), dim=-1)
        chunks.append(fc2(torch.relu(fc1(grid))))
    return torch.cat(chunks).permute(2, 0, 1)
