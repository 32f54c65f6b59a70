"""A classifier asked twice: about an image and about its mirror image."""

import math

import torch
from torch import Tensor, nn


class MirrorAveraged(nn.Module):
    """The mean of a classifier's probabilities for an image and for its mirror image (left and right exchanged).

    Args:
        model: Gives logits `[B, classes]`; shared, not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` to the logarithm of the mean probabilities, float32 `[B, classes]`."""
        one, other = (self.model(x).float().log_softmax(-1) for x in (images, images.flip(-1)))
        return torch.logaddexp(one, other) - math.log(2)
