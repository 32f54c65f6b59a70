"""A network whose scores are a known function of place, and dense definitions of what is made of them."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.tasks.tiling import Grid

Doubles = npt.NDArray[np.float64]


def placed_picture(height: int, width: int) -> Tensor:
    """A picture that knows its places: rows, columns and noise, float32 `[3, H, W]`."""
    rows, columns = torch.meshgrid(torch.arange(height) / 50, torch.arange(width) / 50, indexing="ij")
    return torch.stack([rows, columns, torch.rand(height, width)])


class Looking:
    """Stands for a network: scores at a stride, which depend on what is in an image and on where in it.

    Attributes:
        batches: `(B, H, W)` of what it was asked about.
    """

    def __init__(self, stride: int = 4, classes: int = 5) -> None:
        self.stride = stride
        self.weights = torch.randn(classes, 3)
        self.batches: list[tuple[int, int, int]] = []

    def __call__(self, images: Tensor, sizes: Tensor) -> Tensor:
        assert images.shape[2] % 32 == images.shape[3] % 32 == 0
        assert len(sizes) == len(images)
        self.batches.append((len(images), images.shape[2], images.shape[3]))
        seen = F.avg_pool2d(images, self.stride) if self.stride > 1 else images
        scores = torch.einsum("kc,bchw->bkhw", self.weights.to(images), seen).sin()
        # A window says other things near its edges than in its middle, so that it matters which one is taken.
        edge = torch.linspace(-1, 0.5, scores.shape[3]).to(scores) ** 2
        return scores + edge * torch.linspace(-1, 1, scores.shape[1]).to(scores)[:, None, None]


def dense(ask: Looking, picture: Tensor, grid: Grid) -> Doubles:
    """Scores of a picture by definition: each window alone, all summed with their weights, and divided by those."""
    height, width = grid.window
    total, weights = np.zeros((len(ask.weights), *grid.size)), np.zeros(grid.size)
    one = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 if grid.fading else np.ones(n) for n in grid.window]
    for top in grid.rows:
        for left in grid.columns:
            crop = picture[:, top : top + height, left : left + width].double()
            canvas = (-(-height // 32) * 32, -(-width // 32) * 32)
            padded = F.pad(crop, (0, canvas[1] - width, 0, canvas[0] - height))[None]
            scores = F.interpolate(
                ask(padded, torch.tensor([[height, width]])), canvas, mode="bilinear", align_corners=False
            )[0, :, :height, :width].numpy()
            weight = np.outer(*one)
            total[:, top : top + height, left : left + width] += weight * scores
            weights[top : top + height, left : left + width] += weight
    return np.asarray(total / weights)
