"""Resizing of the bias table before attention reads it (interpolating mode), and the gradient."""

import triton
from torch import Tensor

from transnext.ops.triton.kernels import position_bias as kernels
from transnext.ops.triton.launch import Kernel, config

RESIZE_ROWS = Kernel(kernels.resize_rows, [config(4, BLOCK_R=8, BLOCK_U=128)])
RESIZE_GRADIENT = Kernel(kernels.resize_gradient, [config(2, BLOCK_R=8, BLOCK_T=64)])


def resize_rows(
    table: Tensor, resized: Tensor, shape: tuple[int, ...], table_shape: tuple[int, ...], even: bool
) -> None:
    """Writes what attention's kernels read in interpolating mode.

    Args:
        table: `[M, U_h, U_w]`, contiguous.
        resized: Written, `[M, H, P_h, U_w, 2]` float32, as `kernels.resize_rows` has it.
        shape: Heads; rows and columns of queries and of pooled keys.
        table_shape: Rows and columns of the table; queries and keys that it is made for.
        even: Whether these keys divide these queries.
    """
    M, H, P_h, U_w, _ = resized.shape

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(M * H * P_h, meta["BLOCK_R"]) * triton.cdiv(U_w, meta["BLOCK_U"]),)

    RESIZE_ROWS[grid](table, resized, *shape, *table_shape, EVEN=even)


def resize_gradient(grad: Tensor, trained: int, result: Tensor | None = None) -> Tensor:
    """Gradient of resizing along one axis, `[R, trained, inner]`, of what `[S, R, size, inner]` sums up to.

    Args:
        grad: float32, contiguous.
        trained: Places that the axis is resized from.
        result: Where it is written, the last axis contiguous; None for new memory.
    """
    splits, R, size, inner = grad.shape
    if result is None:
        result = grad.new_empty((R, trained, inner))
    RESIZE_GRADIENT[lambda meta: (triton.cdiv(R, meta["BLOCK_R"]) * triton.cdiv(trained * inner, meta["BLOCK_T"]),)](
        grad, result, R, size, inner, trained, triton.cdiv(2 * size, trained), *result.stride()[:2], splits
    )
    return result
