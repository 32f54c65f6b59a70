"""What is minimised where the class of every pixel is told: cross-entropy, focal and Dice loss, weights of classes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.ops.tracing import no_autocast
from transnext.tasks.headed import mean_over_processes
from transnext.tasks.segmentation.net import IGNORED

LOSSES = ("cross_entropy", "focal", "dice")
"""Names of the losses, which may be joined by "+"."""


class PixelLoss(nn.Module):
    """The loss of logits against maps of classes, one or the sum of several.

    Args:
        loss: "cross_entropy", "focal", "dice", or some of them joined by "+", for example "cross_entropy+dice".
        class_weights: Factor of each class in cross-entropy and focal loss; all 1 if None.
        focal_gamma: Exponent of the focal loss, at least 1: larger ones care less for what is known well.

    Raises:
        ValueError: There is no such loss, or it has no such weights.
    """

    weights: Tensor | None

    def __init__(
        self,
        loss: str = "cross_entropy",
        *,
        class_weights: Sequence[float] | Tensor | None = None,
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.names = loss.split("+")
        if any(name not in LOSSES for name in self.names) or len(set(self.names)) < len(self.names):
            raise ValueError(f"loss is {loss!r}: choose one of {', '.join(LOSSES)}, or some of them joined by '+'")
        if not focal_gamma >= 1:
            raise ValueError(f"focal_gamma is {focal_gamma}: expected at least 1; without a focus it is cross_entropy")
        self.focal_gamma = focal_gamma
        weights = None
        if class_weights is not None:
            if self.names == ["dice"]:
                raise ValueError("dice takes no class_weights: leave them out, or choose cross_entropy+dice")
            weights = torch.as_tensor(class_weights, dtype=torch.float32).detach().clone()
            if weights.ndim != 1 or not (weights.isfinite() & (weights >= 0)).all():
                raise ValueError(f"class_weights are {weights.tolist()}: expected a number of 0 or more for each class")
        self.register_buffer("weights", weights, persistent=False)

    def check(self, num_classes: int) -> None:
        """Refuses weights for another number of classes.

        Raises:
            ValueError: There are more or fewer.
        """
        if self.weights is not None and len(self.weights) != num_classes:
            raise ValueError(f"{len(self.weights)} class_weights for {num_classes} classes: give one for each")

    def args(self) -> dict[str, Any]:
        """Arguments that make it again, plain values."""
        weights = None if self.weights is None else self.weights.tolist()
        return {"loss": "+".join(self.names), "class_weights": weights, "focal_gamma": self.focal_gamma}

    def forward(self, logits: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """Losses by name, 0-d float32.

        Args:
            logits: `[B, classes, h, w]`, at any resolution of the same canvas: resized to that of the maps.
            maps: uint8 `[B, H, W]`: classes, and `IGNORED`.
        """
        with no_autocast(logits.device.type):
            logits = F.interpolate(logits.float(), size=maps.shape[-2:], mode="bilinear", align_corners=False)
            maps = maps.long()
            return {name: self._of(name, logits, maps) for name in self.names}

    def _of(self, name: str, logits: Tensor, maps: Tensor) -> Tensor:
        if name == "cross_entropy":
            return cross_entropy(logits, maps, self.weights)
        if name == "focal":
            return focal_loss(logits, maps, self.focal_gamma, self.weights)
        return dice_loss(logits, maps)


def cross_entropy(logits: Tensor, maps: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, the sum over the labelled pixels divided by the number of all pixels, ignored ones too.

    Args:
        logits: float32 `[B, classes, H, W]`.
        maps: int64 `[B, H, W]`: classes, and `IGNORED`.
        class_weights: float32 `[classes]`: factor of the pixels of each class.

    Returns:
        0-d; as all losses here, for one process of several, whose mean is that of all images together.
    """
    total = F.cross_entropy(logits, maps, weight=class_weights, ignore_index=IGNORED, reduction="sum")
    return total / _pixels(maps)


def focal_loss(logits: Tensor, maps: Tensor, gamma: float, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy times `(1 - p) ** gamma` of the probability `p` of what is right; see `cross_entropy`."""
    surprise = F.cross_entropy(logits, maps, ignore_index=IGNORED, reduction="none")
    # 1 - exp(-x) would be 0 for what is almost certain.
    focused = (-torch.expm1(-surprise)) ** gamma * surprise
    if class_weights is not None:
        # What is ignored has a loss of 0 whatever the factor.
        focused = focused * class_weights[maps.where(maps != IGNORED, 0)]
    return focused.sum() / _pixels(maps)


def dice_loss(logits: Tensor, maps: Tensor) -> Tensor:
    """1 - the Dice of probabilities, the mean over the classes that are in each image; ignored pixels do not count.

    Args:
        logits: float32 `[B, classes, H, W]`.
        maps: int64 `[B, H, W]`: classes, and `IGNORED`.

    Returns:
        0-d; 0 if nothing is labelled.
    """
    labelled = maps != IGNORED
    probabilities = logits.softmax(1) * labelled[:, None]
    of_pixel = maps.where(labelled, 0)
    right = probabilities.gather(1, of_pixel[:, None])
    common = torch.zeros_like(logits[:, :, 0, 0]).scatter_add(1, of_pixel.flatten(1), right.flatten(1))
    size = torch.zeros_like(common).scatter_add(1, of_pixel.flatten(1), labelled.flatten(1).to(common))
    present = size > 0
    dice = 2 * common / (probabilities.sum((2, 3)) + size).clamp(min=1)
    counted = mean_over_processes(present.sum().float())
    return ((1 - dice) * present).sum() / counted.where(counted > 0, 1)


def pixel_accuracy(logits: Tensor, maps: Tensor) -> Tensor:
    """Share of the labelled pixels whose likeliest class is right, 0-d float32, 0..1; 0 if nothing is labelled.

    Args:
        logits: `[B, classes, h, w]`, at any resolution of the same canvas: resized to that of the maps.
        maps: uint8 `[B, H, W]`: classes, and `IGNORED`.
    """
    logits = F.interpolate(logits.detach().float(), size=maps.shape[-2:], mode="bilinear", align_corners=False)
    labelled = maps != IGNORED
    right = (logits.argmax(1) == maps) & labelled
    return right.sum() / labelled.sum().clamp(min=1)


def class_weights(counts: Sequence[int] | Tensor, power: float = 0.5) -> Tensor:
    """Weights of classes from how many pixels they have: rarer ones weigh more, the mean over all pixels is 1.

    Args:
        counts: `[classes]`: pixels of each class; those without any get the largest weight of the others.
        power: From 0, all weigh alike, to 1, the pixels of each class weigh as much together as those of any other.

    Returns:
        float32 `[classes]`.

    Raises:
        ValueError: There is no pixel at all, a count is negative, or the power is not within 0..1.
    """
    pixels = torch.as_tensor(counts, dtype=torch.float64)
    if not 0 <= power <= 1:
        raise ValueError(f"power is {power}: expected 0 to 1")
    if pixels.ndim != 1 or not (pixels >= 0).all() or not pixels.sum() > 0:
        raise ValueError(f"counts are {pixels.tolist()}: expected the pixels of each class, some of them at least")
    rarest = pixels[pixels > 0].min()
    weights = pixels.clamp(min=rarest) ** -power
    return (weights * pixels.sum() / (weights * pixels).sum()).float()


def _pixels(maps: Tensor) -> Tensor:
    """Pixels of the maps of a process, on average over processes, float32."""
    return mean_over_processes(torch.tensor(float(maps.numel()), device=maps.device))
