"""The position bias of a mixer: log-spaced coordinates through a small MLP, for any size and in every mode.

Shape legend: `H W` feature map, `P_h P_w` key grid, `U_h U_w` distinct offsets per axis, `M` heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
import torch.nn.functional as F
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
    traced = _is_traced(like)
    places = _places(like, query_size, key_size, trained_key_size, geometry, mode)
    rows, cols = _axes(places, traced)
    # Quantised layers have no parameters, and wrapped ones keep them anywhere.
    dtype = None if fused else next((p.dtype for p in fc1.parameters() if p.is_floating_point()), like.dtype)
    coordinates = _coordinates(places, rows, cols, geometry.pretrain_scale, dtype, traced)
    return PositionBias(_table(fc1, fc2, *coordinates, fused), rows, cols)


def position_biases(
    mlps: Sequence[tuple[nn.Linear, nn.Linear]],
    like: Tensor,
    query_size: tuple[int, int],
    key_size: tuple[int, int],
    trained_key_size: tuple[int, int],
    geometry: StageGeometry,
    mode: str,
) -> list[PositionBias]:
    """What `position_bias` gives for several MLPs of one shape, without calling them, by one product for each layer.

    Args:
        mlps: First and second layer of each, with biases and of one dtype.
        like: As the others, an argument of `position_bias`.
        query_size: `(H, W)`.
        key_size: `(P_h, P_w)`.
        trained_key_size: The key grid at the trained size.
        geometry: The sizes the stage was trained at.
        mode: "extrapolate" or "interpolate".
    """
    traced = _is_traced(like)
    places = _places(like, query_size, key_size, trained_key_size, geometry, mode)
    axes = _axes(places, traced)
    dtype = mlps[0][0].weight.dtype
    rows, cols = _coordinates(places, *axes, geometry.pretrain_scale, dtype, traced)
    n = len(mlps)
    w1, b1 = (torch.cat([getattr(fc1, name) for fc1, _ in mlps]) for name in ("weight", "bias"))
    w2, b2 = (torch.cat([getattr(fc2, name) for _, fc2 in mlps]) for name in ("weight", "bias"))
    w2, b2 = w2.view(n, -1, w2.shape[1]), b2.view(n, -1, 1)
    parts = []
    for part in rows.split(max(1, MAX_CHUNK_ENTRIES // (n * cols.shape[0]))):
        hidden = torch.relu(F.linear(_grid(part, cols).flatten(0, 1), w1, b1))  # [U, n * hidden]
        parts.append(torch.baddbmm(b2, w2, hidden.unflatten(-1, (n, -1)).permute(1, 2, 0)))  # [n, M, U]
    tables = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    return [PositionBias(table, *axes) for table in tables.unflatten(-1, (len(rows), len(cols))).unbind(0)]


_Place: TypeAlias = tuple[int, int, tuple[int, int] | tuple[None, None], torch.device]
"""What an axis depends on: queries, keys, how many of them the table is made for if it is resized, and the device."""


def _is_traced(like: Tensor) -> bool:
    """Tells if nothing may be remembered: of a graph that is traced, whose sizes may be symbols, nor of fake tensors;
    and a CUDA graph would read an entry after it was dropped."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or type(like) is not Tensor or is_capturing()


def _places(
    like: Tensor,
    query_size: tuple[int, int],
    key_size: tuple[int, int],
    trained_key_size: tuple[int, int],
    geometry: StageGeometry,
    mode: str,
) -> list[_Place]:
    places: list[_Place] = []
    for i in range(2):
        trained = (geometry.trained_size[i], trained_key_size[i]) if mode == "interpolate" else (None, None)
        places.append((query_size[i], key_size[i], trained, like.device))
    return places


def _axes(places: Sequence[_Place], traced: bool) -> tuple[AxisIndex, AxisIndex]:
    index = _shared_axis if is_exporting() else _axis if traced else _remembered_axis
    rows, cols = (index(*place) for place in places)
    return rows, cols


def _coordinates(
    places: Sequence[_Place],
    rows: AxisIndex,
    cols: AxisIndex,
    scale: tuple[float, float],
    dtype: torch.dtype | None,
    traced: bool,
) -> tuple[Tensor, Tensor]:
    """Log-spaced coordinates of the offsets of both axes, `[U_h]` and `[U_w]`, in `dtype` if it is given."""
    if not traced:
        of_rows, of_cols = (_remembered_coordinates(*place, s, dtype) for place, s in zip(places, scale, strict=True))
        return of_rows, of_cols
    of_rows, of_cols = shared(
        ("coordinates", id(rows.offsets), id(cols.offsets), *scale),
        lambda: (log_spaced(rows.offsets, scale[0]), log_spaced(cols.offsets, scale[1])),
    )
    return (of_rows, of_cols) if dtype is None else (of_rows.to(dtype), of_cols.to(dtype))


@lru_cache(maxsize=256)
def _remembered_axis(
    num_queries: int, num_keys: int, trained: tuple[int, int] | tuple[None, None], device: torch.device
) -> AxisIndex:
    # Outside inference mode, so that a model that was first used for inference can be trained.
    with torch.inference_mode(False), torch.no_grad():
        return _axis(num_queries, num_keys, trained, device)


@lru_cache(maxsize=256)
def _remembered_coordinates(
    num_queries: int,
    num_keys: int,
    trained: tuple[int, int] | tuple[None, None],
    device: torch.device,
    scale: float,
    dtype: torch.dtype | None,
) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        coordinates = log_spaced(_remembered_axis(num_queries, num_keys, trained, device).offsets, scale)
        return coordinates if dtype is None else coordinates.to(dtype)


def _shared_axis(num_queries: int, num_keys: int, *others: Any) -> AxisIndex:
    return shared(("axis", num_queries, num_keys, *others), lambda: _axis(num_queries, num_keys, *others))


def _axis(
    num_queries: int, num_keys: int, trained: tuple[int, int] | tuple[None, None], device: torch.device
) -> AxisIndex:
    return axis_index(num_queries, num_keys, trained_queries=trained[0], trained_keys=trained[1], device=device)


def _table(fc1: nn.Linear, fc2: nn.Linear, rows: Tensor, cols: Tensor, fused: bool) -> Tensor:
    """The MLP over the grid of coordinates, `[M, U_h, U_w]`, a few rows at a time to bound memory."""
    if fused:
        return position_bias_table(rows, cols, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    if is_symbolic(rows.shape[0], cols.shape[0]):
        parts: Sequence[Tensor] = (rows,)
    else:
        parts = rows.split(max(1, MAX_CHUNK_ENTRIES // cols.shape[0]))
    return torch.cat([fc2(torch.relu(fc1(_grid(part, cols)))) for part in parts]).permute(2, 0, 1)


def _grid(rows: Tensor, cols: Tensor) -> Tensor:
    """All pairs of coordinates, `[U_h, U_w, 2]`."""
    size = rows.shape[0], cols.shape[0]
    return torch.stack((rows[:, None].expand(size), cols.expand(size)), dim=-1)
