"""Log-spaced continuous position bias as a small table and one index per axis.

Shape legend: `H` queries and `P` keys along *one* axis, `U` distinct query-key offsets along it, `T` taps,
`M` heads. A subscript says which axis: `U_h`, `U_w`.

The bias of a query-key pair depends on its row offset and its column offset only, so it is read from a table
`[M, U_h, U_w]` over the distinct offsets of each axis. Nothing of size (queries x keys) is needed to index it:
a pooled key sits at the mean of consecutive integer positions, so offsets are multiples of 1/2 and the place of
an offset in the table has a closed form (docs/position_bias.md derives it).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from transnext.ops.pooling import evenly_divided, pooling_bins
from transnext.ops.tracing import is_symbolic

COORDINATE_SCALE = 8.0
"""The far end of the pre-training map lies at 8, where log2(1 + r) / log2(8) is about 1."""


class AxisIndex(NamedTuple):
    """Index by which the queries and keys of one axis read the bias table.

    The bias of query `i` and key `p` along this axis is the sum over taps `t` of `weight[i, p, t]` times the table
    entry `taps[i, p, t]`.

    Attributes:
        offsets: Distinct offsets query minus key, in feature-map pixels, `[U]`, ascending; float64, or float32 where a
            device has no float64.
        taps: Entries of `offsets` to read, `[H, P, T]` int64, values in `[0, U)`.
        weight: Weights of the taps, `[H, P, T]`, in the dtype of `offsets`, summing to 1 over `T`; None if `T` is 1.
        table_size: Queries and keys along the axis that the table is made for, from which all the above follows; None
            for an index of some of the queries only.
    """

    offsets: Tensor
    taps: Tensor
    weight: Tensor | None
    table_size: tuple[int, int] | None = None


def axis_index(
    num_queries: int,
    num_keys: int,
    *,
    trained_queries: int | None = None,
    trained_keys: int | None = None,
    device: torch.device | str | None = None,
) -> AxisIndex:
    """Index of `num_queries` positions and `num_keys` adaptive-average-pooling bins over them, along one axis.

    Args:
        num_queries: Positions along the axis, `H`, at least 1.
        num_keys: Pooled positions along the axis, `P`, at least 1; `num_queries` for attention without pooling.
        trained_queries: If given, offsets are those of a map of this many positions and the bias is resized from there
            bilinearly (`align_corners=False`), as in the interpolating mode.
        trained_keys: Pooled positions of that map; given together with `trained_queries`.
        device: Where the tensors are made.

    Returns:
        The offsets and taps of the axis, `T` = 1, or 4 when the bias is resized.
    """
    if trained_queries is None or trained_keys is None:
        trained_queries, trained_keys = num_queries, num_keys
        resized = False
    else:  # a symbol is resized from its own size too, with weights of 0 and 1
        resized = is_symbolic(num_queries, num_keys) or (trained_queries, trained_keys) != (num_queries, num_keys)
    if not resized:
        offsets, index = _offsets_of_pooling_bins(num_queries, num_keys, device)
        return AxisIndex(offsets, index.unsqueeze(-1), None, (num_queries, num_keys))
    offsets, index = _offsets_of_pooling_bins(trained_queries, trained_keys, device)
    query_taps, query_weight = _bilinear_taps(trained_queries, num_queries, device)
    key_taps, key_weight = _bilinear_taps(trained_keys, num_keys, device)
    taps = index[query_taps[:, None, :, None], key_taps[None, :, None, :]]
    weight = query_weight[:, None, :, None] * key_weight[None, :, None, :]
    return AxisIndex(offsets, taps.flatten(2), weight.flatten(2), (trained_queries, trained_keys))


def _offsets_of_pooling_bins(
    num_queries: int, num_keys: int, device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """Distinct offsets `[U]` and the index `[H, P]` into them.

    Bin `p` of adaptive average pooling covers the positions `floor(p H / P) .. ceil((p + 1) H / P) - 1`.
    """
    queries = torch.arange(num_queries, device=device)
    start, end = pooling_bins(num_queries, num_keys, device)
    if (width := evenly_divided(num_queries, num_keys)) is not None:
        # Offsets are 1 apart. What follows would give the same, with divisions that make many nodes in a graph.
        far = num_queries - width
        steps = torch.arange(num_queries + far, device=device, dtype=_widest_float(device))
        return steps - (far + (width - 1) / 2), queries[:, None] - (start - far)
    # Twice the mean position of a bin is an integer, so doubled offsets are integers: 2 apart where the bins are of one
    # width, else 1, and at most `far` either way. No branch, since the sizes may be symbols.
    width = num_queries // num_keys
    uneven = (num_queries + num_keys - 1) // num_keys - width  # no negative quotient, which runtimes round otherwise
    step = 2 - uneven
    far = 2 * (num_queries - 1) - (1 - uneven) * (width - 1)
    index = (2 * queries[:, None] - (start + end - 1 - far)[None, :]) // step
    offsets = torch.arange(2 * far // step + 1, device=device, dtype=_widest_float(device)) * step - far
    return offsets / 2, index


def _bilinear_taps(size_in: int, size_out: int, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    """The two source positions `[size_out, 2]` int64 and weights `[size_out, 2]` of linear resizing."""
    place = (torch.arange(size_out, device=device, dtype=_widest_float(device)) + 0.5) * (size_in / size_out) - 0.5
    place = place.clamp(min=0)
    left = place.long().clamp(max=size_in - 1)
    right = (left + 1).clamp(max=size_in - 1)
    fraction = place - left
    return torch.stack((left, right), -1), torch.stack((1 - fraction, fraction), -1)


def _widest_float(device: torch.device | str | None) -> torch.dtype:
    """float64, or float32 on Apple's MPS and on XPUs, some of which lack it; offsets are exact in either."""
    return torch.float32 if device is not None and torch.device(device).type in ("mps", "xpu") else torch.float64


def log_spaced(offsets: Tensor, scale: float) -> Tensor:
    """Log-spaced coordinates of pixel offsets (TransNeXt, section 3.4; the form of Swin V2).

    Args:
        offsets: Offsets in feature-map pixels, any shape, floating point.
        scale: Feature-map pixels minus one of the pre-training resolution, positive.

    Returns:
        `sign(r) * log2(1 + |r|) / log2(8)` with `r = 8 * offsets / scale`, same shape and dtype.
    """
    r = COORDINATE_SCALE * offsets / scale
    return torch.sign(r) * torch.log2(1 + r.abs()) / 3.0


def expand_bias_table(table: Tensor, rows: AxisIndex, cols: AxisIndex) -> Tensor:
    """The bias of every query-key pair, for implementations that want it in memory.

    Args:
        table: `[M, U_h, U_w]`.
        rows: Index of the vertical axis, `H` queries and `P_h` keys.
        cols: Index of the horizontal axis, `W` queries and `P_w` keys.

    Returns:
        `[M, H, W, P_h, P_w]`, the dtype of `table`.
    """
    bias = _read_axis(table, rows, dim=1)  # [M, H * P_h, U_w]
    bias = _read_axis(bias, cols, dim=2)  # [M, H * P_h, W * P_w]
    (H, P_h, _), (W, P_w, _) = rows.taps.shape, cols.taps.shape
    return bias.view(table.shape[0], H, P_h, W, P_w).transpose(2, 3)


def _read_axis(table: Tensor, axis: AxisIndex, dim: int) -> Tensor:
    if axis.weight is None:
        return table.index_select(dim, axis.taps.flatten())
    taps = axis.taps.flatten(0, 1)
    weight = axis.weight.flatten(0, 1).to(table.dtype)
    shape = (1, -1, 1) if dim == 1 else (1, 1, -1)
    result = table.index_select(dim, taps[:, 0]) * weight[:, 0].view(shape)
    for t in range(1, taps.shape[1]):
        result = result + table.index_select(dim, taps[:, t]) * weight[:, t].view(shape)
    return result
