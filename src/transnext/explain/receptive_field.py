"""Effective receptive fields of any timm model, and how much of its strides shows in them.

Shape legend: `B` images, `H W` image, `h w` last feature map.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.explain.attention import evaluating


@dataclass(frozen=True, kw_only=True, eq=False)
class ReceptiveField:
    """What the middle of the last feature map depends on, mean over images.

    Attributes:
        model: Its name.
        weights: Where they come from, in words.
        images: How many, and of which kind, in words.
        energy: Mean absolute gradient of each pixel, `[H, W]` float64, largest 1.
        stride: Image pixels between the pixels of the last feature map.
    """

    model: str
    weights: str
    images: str
    energy: Tensor
    stride: int

    @property
    def artefact(self) -> float:
        """See `artefact`."""
        return artefact(self.energy, self.stride)

    @property
    def has_room(self) -> bool:
        """Whether the map is large enough for `artefact`."""
        return _has_room(self.energy, self.stride)

    def side(self, share: float) -> int:
        """Side of the smallest square around the centre of the energy that holds a share of it, pixels."""
        rows, cols = (_from_centre(self.energy.sum(axis)) for axis in (1, 0))
        reach = (2 * torch.maximum(rows[:, None], cols) + 1).round().long().flatten()  # side of the square that has it
        held = torch.zeros(int(reach.max()) + 1, dtype=torch.float64).index_add_(0, reach, self.energy.flatten())
        held = held.cumsum(0) / held.sum()
        return int((held < share).sum())

    def caption(self) -> str:
        """What was measured, in a line."""
        height, width = self.energy.shape
        return f"{self.model}, {self.weights}, {height} x {width} pixels, {self.images}"


def measure_receptive_field(
    model: nn.Module, batches: Iterable[Tensor], *, name: str, weights: str, images: str
) -> ReceptiveField:
    """The effective receptive field of the middle of the last feature map (Luo et al., 2016).

    What is differentiated is the sum of the positive channels of that place, as Ding et al. do (RepLKNet, 2022): the
    sum of all channels does not change where a LayerNorm comes last.

    Args:
        model: Of timm, which can take apart those that have `forward_intermediates`.
        batches: Normalised images, `[B, 3, H, W]`, all of one size.
        name: Of the model, for the caption.
        weights: Where they come from, for the caption.
        images: How many and of which kind, for the caption.

    Raises:
        ValueError: The model cannot be taken apart, there is no image, or no pixel has an influence.
    """
    if not (hasattr(model, "forward_intermediates") and hasattr(model, "feature_info")):
        raise ValueError(f"{name} cannot be taken apart by this version of timm: choose another model")
    total: Tensor | None = None
    stride = 1
    with evaluating(model):
        for batch in batches:
            gradient, stride = _gradient(model, batch)
            energy = gradient.double().abs().sum((0, 1))
            total = energy if total is None else total + energy
    if total is None:
        raise ValueError("a receptive field needs at least one image")
    if not (torch.isfinite(total).all() and total.max() > 0):
        raise ValueError(f"no pixel has a finite influence on the last map of {name}: its weights are not usable")
    energy = (total / total.max()).cpu()
    return ReceptiveField(model=name, weights=weights, images=images, energy=energy, stride=stride)


def artefact(energy: Tensor, stride: int) -> float:
    """Energy of a map at the frequencies of a stride, over that of a map without trace of it: 1 is none.

    The map is differentiated along each axis, and absolute differences are summed along the other, as Wang, Bovik and
    Evan do for the blocks of JPEG (2000). Divided by their running mean over a stride, these profiles no longer have
    the shape of the map, and their energy at frequency 0 and at the multiples of `1 / stride`, over that at 0, is the
    result: by Parseval's theorem the mean square of the profile folded to one stride, over its squared mean. It is
    `stride` where nothing changes but at the edges of squares of that side. The mean of both axes.

    A stride has to fit several times into the map, and a map narrower than a few strides looks like a trace of them.

    Args:
        energy: `[H, W]`, non-negative.
        stride: Pixels, at least 2.

    Raises:
        ValueError: The map is smaller than four strides, or the stride below 2.
    """
    if not _has_room(energy, stride):
        raise ValueError(f"a map of {tuple(energy.shape)} has no room for strides of {stride} pixels: enlarge it")
    scores = []
    for axis in (0, 1):
        profile = energy.double().diff(dim=axis).abs().sum(1 - axis)
        profile = _without_shape(profile, stride)
        phases = torch.arange(1, len(profile) + 1) % stride  # of the edge between a pixel and the one before it
        known = torch.isfinite(profile)
        folded = torch.zeros(stride, dtype=torch.float64).index_add_(0, phases[known], profile[known])
        folded /= torch.bincount(phases[known], minlength=stride).clamp(min=1)
        scores.append((folded.square().mean() / folded.mean().square()).item())
    return sum(scores) / 2


def _has_room(energy: Tensor, stride: int) -> bool:
    return stride >= 2 and min(energy.shape) >= 4 * stride


def _from_centre(line: Tensor) -> Tensor:
    """Distance of each place from the centre of mass."""
    places = torch.arange(len(line), dtype=line.dtype)
    return (places - (places * line).sum() / line.sum()).abs()


def _without_shape(profile: Tensor, stride: int) -> Tensor:
    """A profile over its running mean over one stride; NaN where that is 0."""
    kernel = torch.ones(stride + 1 - stride % 2, dtype=profile.dtype)
    if stride % 2 == 0:
        kernel[0] = kernel[-1] = 0.5
    signal = torch.stack((profile, torch.ones_like(profile)))[:, None]
    mean, weight = F.conv1d(signal, kernel[None, None], padding=len(kernel) // 2)[:, 0]
    return profile / (mean / weight)


def _gradient(model: Any, images: Tensor) -> tuple[Tensor, int]:
    """Gradient of the middle of the last map to the images, `[B, 3, H, W]`, and the stride of the map."""
    with torch.inference_mode(False), torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        last = model.forward_intermediates(x, indices=1, intermediates_only=True)[-1]
        middle = F.relu(last[:, :, last.shape[2] // 2, last.shape[3] // 2]).sum()
        (gradient,) = torch.autograd.grad(middle, x)
    return gradient, model.feature_info[-1]["reduction"]
