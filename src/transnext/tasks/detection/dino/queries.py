"""Maps of several strides as one row of tokens: which are image, where they are, and what boxes they propose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_MAP_TEMPERATURE, _BOX_TEMPERATURE = 20, 10000
_EPSILON = 1e-6
_PROPOSED_SIDE = 0.05
_MARGIN = 0.01


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Maps laid end to end, the finest first, each row by row: `T` tokens.

    Attributes:
        shapes: Rows and columns of each map.
        valid: bool `[B, T]`: the token is of the image, not of the padding.
        extents: float32 `[B, L, 2]`: columns and rows of each map that are image.
        positions: float32 `[B, T, d]`: sines of where a token is in its image.
    """

    shapes: list[tuple[int, int]]
    valid: Tensor
    extents: Tensor
    positions: Tensor

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, int]], sizes: Tensor, canvas: tuple[int, int], width: int) -> "Levels":
        """The tokens of maps.

        Args:
            shapes: Rows and columns of each map.
            sizes: int64 `[B, 2]`: rows and columns that are image.
            canvas: Rows and columns of the padded images.
            width: Numbers in a position.
        """
        rows, columns = (torch.arange(side, device=sizes.device) for side in canvas)
        mask = (rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None]
        valid = [F.interpolate(mask[:, None].float(), size=shape)[:, 0] > 0 for shape in shapes]
        extents = torch.stack([torch.stack((v[:, 0].sum(1), v[:, :, 0].sum(1)), -1) for v in valid], 1)
        return cls(
            shapes=list(shapes),
            valid=torch.cat([v.flatten(1) for v in valid], 1),
            extents=extents.float(),
            positions=torch.cat([_positions(v, width).flatten(1, 2) for v in valid], 1),
        )

    @property
    def ratios(self) -> Tensor:
        """Parts of the columns and rows of each map that are image, float32 `[B, L, 2]`."""
        sides = [(columns, rows) for rows, columns in self.shapes]
        return self.extents / torch.tensor(sides, dtype=torch.float32, device=self.extents.device)

    def proposals(self) -> tuple[Tensor, Tensor]:
        """A box around each token, the larger the coarser its map.

        Returns:
            Logits of centre and sides, float32 `[B, T, 4]`, infinite where there is no box; and where there is one,
            bool `[B, T]`: not in the padding, nor within 1 % of the image's edge.
        """
        boxes = []
        for level, (rows, columns) in enumerate(self.shapes):
            y, x = (torch.arange(side, device=self.extents.device) + 0.5 for side in (rows, columns))
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
            centre = grid / self.extents[:, None, level]
            boxes.append(torch.cat((centre, torch.full_like(centre, _PROPOSED_SIDE * 2**level)), -1))
        box = torch.cat(boxes, 1)
        there = ((box > _MARGIN) & (box < 1 - _MARGIN)).all(-1) & self.valid
        return torch.logit(box).masked_fill(~there[..., None], math.inf), there


def box_positions(boxes: Tensor, width: int) -> Tensor:
    """Sines of boxes `[..., 4]`, centre and sides in 0..1: `[..., 4 * width]`, of y, x, w, h in this order."""
    y_first = boxes[..., [1, 0, 2, 3]] * (2 * math.pi)
    return _waves(y_first, width, _BOX_TEMPERATURE).flatten(-2)


def _positions(valid: Tensor, width: int) -> Tensor:
    """Sines of the places of tokens among those that are image: bool `[B, h, w]` to float32 `[B, h, w, width]`."""
    y, x = (valid.cumsum(axis, dtype=torch.float32) for axis in (1, 2))
    y = y / (y[:, -1:] + _EPSILON) * (2 * math.pi)
    x = x / (x[:, :, -1:] + _EPSILON) * (2 * math.pi)
    return torch.cat([_waves(values, width // 2, _MAP_TEMPERATURE) for values in (y, x)], -1)


def _waves(values: Tensor, width: int, temperature: float) -> Tensor:
    """Sines and cosines of angles at falling frequencies, `[...]` to `[..., width]`."""
    frequency = torch.arange(width, dtype=torch.float32, device=values.device) // 2
    angles = values[..., None] / temperature ** (2 * frequency / width)
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), -1).flatten(-2)
