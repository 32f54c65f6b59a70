"""Training of a detector: the losses that its network tells of a batch."""

from typing import Any

import torch
from torch import Tensor

from transnext.data.instances import InstanceBatch
from transnext.data.joint import normalised_canvas, on_canvas
from transnext.data.preprocessing import Preprocessing
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.headed import losses_of
from transnext.tasks.task import Losses, Objective

_BLANK_SIDE = 64


class DetectionObjective(Objective):
    """The losses of a detector.

    Args:
        net: The detector.
        preprocessing: What its images must look like.
    """

    net: DetectionNet

    def __init__(self, net: DetectionNet, preprocessing: Preprocessing) -> None:
        super().__init__(net)
        self.normalise = preprocessing.normalise()

    def forward(self, images: Tensor, sizes: Tensor, targets: InstanceBatch) -> Losses:
        """See `Objective.forward`."""
        x = normalised_canvas(images, sizes, self.normalise)
        return losses_of(self.net, x, sizes, on_canvas(targets, (x.shape[2], x.shape[3])).split())

    def blank(self, device: torch.device) -> tuple[Tensor, Tensor, Any]:
        """See `Objective.blank`."""
        images = torch.zeros(1, 3, _BLANK_SIDE, _BLANK_SIDE, dtype=torch.uint8, device=device)
        masks = torch.zeros(0, _BLANK_SIDE, _BLANK_SIDE, dtype=torch.uint8, device=device)
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        targets = InstanceBatch(torch.zeros(0, 4, device=device), nothing, torch.zeros(1, dtype=torch.int64), masks)
        return images, torch.zeros(1, 2, dtype=torch.int64, device=device), targets
