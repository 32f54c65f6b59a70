"""The MLP of the position bias over its grid of offsets: the op, its gradient and its cost; for the CPU."""

from typing import Any

import torch
from torch import Tensor

from transnext.ops import reference
from transnext.ops.register import OPS, Gradients, costs, define, plain_gradients, register_gradient


def position_bias_table(
    row_coordinates: Tensor,
    column_coordinates: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
) -> Tensor:
    """The MLP of the position bias over the grid of coordinates, without memory for its hidden units.

    Args:
        row_coordinates: Log-spaced offsets of rows, `[U_h]`.
        column_coordinates: Log-spaced offsets of columns, `[U_w]`.
        fc1_weight: `[hidden, 2]`, for row and column.
        fc1_bias: `[hidden]`.
        fc2_weight: `[M, hidden]`.
        fc2_bias: `[M]`.

    Returns:
        `[M, U_h, U_w]`, float32.
    """
    out: Tensor = OPS.position_bias_table(
        row_coordinates, column_coordinates, fc1_weight, fc1_bias, fc2_weight, fc2_bias
    )
    return out


_ARGUMENTS = (
    "Tensor row_coordinates, Tensor column_coordinates, Tensor fc1_weight, Tensor fc1_bias, Tensor fc2_weight, "
    "Tensor fc2_bias"
)


@define(f"position_bias_table({_ARGUMENTS}) -> Tensor")
def _(rows: Tensor, columns: Tensor, fc1: Tensor, b1: Tensor, fc2: Tensor, b2: Tensor) -> Tensor:
    return rows.new_empty((fc2.shape[0], rows.shape[0], columns.shape[0]), dtype=torch.float32)


@define(f"position_bias_table_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)")
def _(grad: Tensor, rows: Tensor, columns: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    return tuple(p.new_empty(p.shape) for p in parameters)


def _gradient(wanted: tuple[bool, ...], grad: Tensor, *tensors: Tensor) -> Gradients:
    if wanted[0] or wanted[1]:  # of the coordinates, which no kernel gives
        return plain_gradients(reference.position_bias_table, tensors, (), grad)
    return (None, None, *OPS.position_bias_table_backward(grad, *tensors))


register_gradient("position_bias_table", reference.position_bias_table, _gradient, num_tensors=6)

Shape = list[int]


@costs("position_bias_table")
def _(rows: Shape, columns: Shape, fc1: Shape, b1: Shape, fc2: Shape, *_: Any, **__: Any) -> int:
    return 2 * rows[0] * columns[0] * fc1[0] * (1 + fc2[0])


@costs("position_bias_table_backward")
def _(grad: Shape, rows: Shape, columns: Shape, fc1: Shape, b1: Shape, fc2: Shape, *_: Any, **__: Any) -> int:
    # Hidden units again, the gradients of the second layer and of the hidden units.
    return 4 * rows[0] * columns[0] * fc1[0] * (1 + fc2[0])
