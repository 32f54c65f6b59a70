"""GELU and adaptive average pooling in one: the op and its gradient; for GPUs.

Shape letters are those of `transnext.ops.reference`.
"""

from torch import Tensor

from transnext.ops import reference
from transnext.ops.register import OPS, define, register_gradient, register_triton


def gelu_average_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling of what GELU makes of a map, which is written nowhere.

    The gradient computes GELU's slope again and keeps nothing but the map; it is the same from run to run.

    Args:
        x: `[B, H, W, C]`, any strides; float32, bfloat16 or float16, on a GPU.
        size: `(P_h, P_w)`; bins are those of `transnext.ops.pooling.pooling_bins`.

    Returns:
        `[B, P_h, P_w, C]` in the dtype of `x`, computed in float32. GELU is the exact one (erf).
    """
    out: Tensor = OPS.gelu_average_pool(x, *size)
    return out


@define("gelu_average_pool(Tensor x, SymInt P_h, SymInt P_w) -> Tensor")
def _(x: Tensor, P_h: int, P_w: int) -> Tensor:
    return x.new_empty((x.shape[0], P_h, P_w, x.shape[3]))


@define("gelu_average_pool_backward(Tensor grad, Tensor x, SymInt P_h, SymInt P_w) -> Tensor")
def _(grad: Tensor, x: Tensor, P_h: int, P_w: int) -> Tensor:
    return x.new_empty(x.shape)


def _gradient(wanted: tuple[bool, ...], grad: Tensor, *arguments: object) -> tuple[Tensor]:
    gradient: Tensor = OPS.gelu_average_pool_backward(grad, *arguments)
    return (gradient,)


register_gradient("gelu_average_pool", reference.gelu_average_pool, _gradient, num_tensors=1)
register_triton("gelu_average_pool", "gelu_pool")
