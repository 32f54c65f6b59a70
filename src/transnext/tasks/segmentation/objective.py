"""Training of a segmenter: the losses that its network tells of a batch."""

from typing import Any

import torch
from torch import Tensor

from transnext.data.joint import normalised_canvas
from transnext.data.preprocessing import Preprocessing
from transnext.tasks.headed import losses_of
from transnext.tasks.segmentation.images import map_on_canvas
from transnext.tasks.segmentation.net import IGNORED, SegmentationNet
from transnext.tasks.task import Losses, Objective

_BLANK_SIDE = 64


class SegmentationObjective(Objective):
    """The losses of a segmenter.

    Args:
        net: The segmenter.
        preprocessing: What its images must look like.
    """

    net: SegmentationNet

    def __init__(self, net: SegmentationNet, preprocessing: Preprocessing) -> None:
        super().__init__(net)
        self.normalise = preprocessing.normalise()

    def forward(self, images: Tensor, sizes: Tensor, targets: Tensor) -> Losses:
        """See `Objective.forward`."""
        x = normalised_canvas(images, sizes, self.normalise)
        return losses_of(self.net, x, sizes, map_on_canvas(targets, (x.shape[2], x.shape[3])))

    def blank(self, device: torch.device) -> tuple[Tensor, Tensor, Any]:
        """See `Objective.blank`."""
        channels, dtype = len(self.normalise.mean), torch.float32 if self.normalise.numbers else torch.uint8
        images = torch.zeros(1, channels, _BLANK_SIDE, _BLANK_SIDE, dtype=dtype, device=device)
        maps = torch.full((1, _BLANK_SIDE, _BLANK_SIDE), IGNORED, dtype=torch.uint8, device=device)
        return images, torch.zeros(1, 2, dtype=torch.int64, device=device), maps
