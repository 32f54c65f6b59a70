"""Adaptive average pooling: its bins, the op, and the pooling as two matrix products.

Shape letters are those of `transnext.ops.reference`.
"""

import torch
from torch import Tensor

from transnext.ops.register import OPS, define
from transnext.ops.tracing import at_least_float32, is_symbolic, no_autocast, shared


def pooling_bins(size: int, bins: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """First position of each bin and the one after its last, `[bins]` int64 each.

    Args:
        size: Positions along an axis, at least 1.
        bins: Bins over them, at least 1.
        device: Where the tensors are made.
    """
    p = torch.arange(bins, device=device)
    width = evenly_divided(size, bins)
    if width is not None:
        return p * width, (p + 1) * width
    return p * size // bins, ((p + 1) * size + bins - 1) // bins


def adaptive_average_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling of a channels-last map of any strides, `[B, H, W, C]` to `[B, P_h, P_w, C]`."""
    out: Tensor = OPS.adaptive_average_pool(x, *size)
    return out


@define("adaptive_average_pool(Tensor x, SymInt P_h, SymInt P_w) -> Tensor")
def _(x: Tensor, P_h: int, P_w: int) -> Tensor:
    return x.new_empty((x.shape[0], P_h, P_w, x.shape[3]))


def evenly_divided(size: int, bins: int) -> int | None:
    """Positions of each bin if they are known to be as many in all; None if not, or if symbols do not tell.

    Files for any size take maps whose sizes are multiples, so that within `exporting` the width of bins is known.

    Args:
        size: Positions along an axis.
        bins: Bins over them.
    """
    width = size // bins
    rest = size - width * bins
    if is_symbolic(width, rest):
        return shared(("width", size, bins), lambda: None)
    return width if rest == 0 else None


def pool_by_products(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling for maps whose size is a symbol.

    PyTorch's own operator asks whether the sizes divide one another, which binds a graph to the answer, and ONNX has it
    for fixed sizes only.

    Args:
        x: `[B, H, W, C]`.
        size: `(P_h, P_w)`.

    Returns:
        `[B, P_h, P_w, C]` in the dtype of `x`, summed in at least float32.
    """
    dtype = at_least_float32(x.dtype)
    rows, cols = (_averaging_matrix(x.shape[1 + i], size[i], x.device).to(dtype) for i in (0, 1))
    with no_autocast(x.device.type):
        pooled = torch.einsum("qw,bhwc->bhqc", cols, x.to(dtype))
        return torch.einsum("ph,bhqc->bpqc", rows, pooled).to(x.dtype)


def _averaging_matrix(size: int, bins: int, device: torch.device) -> Tensor:
    """The matrix that pools a row of positions, `[bins, size]` float32."""
    start, end = (t[:, None] for t in pooling_bins(size, bins, device))
    position = torch.arange(size, device=device)
    return torch.logical_and(position >= start, position < end) / (end - start)
