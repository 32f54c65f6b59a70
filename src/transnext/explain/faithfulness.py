"""Faithfulness of explanations: deletion and insertion against baselines, and with weights that know nothing.

Shape legend: `H W` image, `S` steps.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.choices import CamMethod
from transnext.explain.attention import evaluating, look, where_it_looks
from transnext.explain.gradients import class_activation, integrated_gradients
from transnext.explain.rollout import roll_out
from transnext.explain.targets import class_target
from transnext.limits import check_number

Explainer: TypeAlias = Callable[[nn.Module, Tensor, int], Tensor]
"""From a classifier, an image `[1, 3, H, W]` and a class to a map `[H, W]`, larger where more speaks for the class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """Probability of a class while an image goes away or comes, most important pixels first.

    Attributes:
        deletion: Pixels become grey, `[S + 1]`, from the image to nothing: a good map lets it fall at once.
        insertion: A blurred image becomes sharp, `[S + 1]`: a good map lets it rise at once.
    """

    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> float:
        """Area under the curve, 0..1; less is better."""
        return _area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Area under the curve, 0..1; more is better."""
        return _area(self.insertion)


@dataclass(kw_only=True, eq=False)
class Judged:
    """What was measured of an explainer.

    Attributes:
        curves: Mean over images.
        randomised: The same for maps made with randomised weights, judged by the real ones; None of baselines.
        correlation: Rank correlation of the maps of real and of randomised weights, -1..1, mean over images: near 1,
            the map shows the image and not what was learnt. None of baselines.
    """

    curves: Curves
    randomised: Curves | None = None
    correlation: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Faithfulness:
    """What was measured of several explainers.

    Attributes:
        judged: By name; the baselines "random" and "centre" are among them.
        images: How many.
        steps: Of the curves.
    """

    judged: dict[str, Judged]
    images: int
    steps: int


def perturbation_curves(
    model: nn.Module, image: Tensor, heat: Tensor, label: int, *, steps: int = 16, seed: int = 0
) -> Curves:
    """Deletion and insertion (Petsiuk et al., RISE, 2018), both by the probability of a class.

    Args:
        model: A classifier in eval mode, from images `[B, 3, H, W]` to logits.
        image: `[3, H, W]`, normalised: 0 is the mean colour, which deleted pixels get.
        heat: `[H, W]`; larger values come first, equal ones in random order.
        label: The class.
        steps: Into which the pixels are shared out.
        seed: Decides the order of equal values.

    Raises:
        ValueError: The map has another size than the image, or is not finite.
    """
    check_number("steps", steps, 2, 1024)
    if heat.shape != image.shape[1:] or not torch.isfinite(heat).all():
        raise ValueError(f"heat has shape {tuple(heat.shape)}: expected finite numbers {tuple(image.shape[1:])}")
    mixed = torch.randperm(heat.numel(), generator=torch.Generator().manual_seed(seed)).to(heat.device)
    order = mixed[heat.flatten()[mixed].argsort(descending=True, stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    counts = torch.linspace(0, len(order), steps + 1, device=order.device).round()
    first = (rank < counts[:, None]).unflatten(1, heat.shape)[:, None]  # [S + 1, 1, H, W]
    blurred = blur(image)
    deleted = torch.where(first, torch.zeros_like(image), image)
    inserted = torch.where(first, image, blurred)
    with torch.inference_mode():
        curves = [model(images).float().softmax(1)[:, label].cpu() for images in (deleted, inserted)]
    return Curves(deletion=curves[0], insertion=curves[1])


def blur(image: Tensor) -> Tensor:
    """An image out of focus, by a Gaussian of a tenth of its shorter side, edges repeated: `[3, H, W]` to the same."""
    sigma = min(image.shape[1:]) / 10
    radius = min(round(3 * sigma), min(image.shape[1:]) - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device) / sigma) ** 2).to(image.dtype)
    kernel /= kernel.sum()
    x = F.pad(image[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, kernel[None, None, :, None]), kernel[None, None, None])[:, 0]


def measure_faithfulness(
    model: nn.Module,
    images: Iterable[Tensor],
    explainers: Mapping[str, Explainer] | None = None,
    *,
    steps: int = 16,
    seed: int = 0,
) -> Faithfulness:
    """Judges explainers by images, each explained for its likeliest class.

    Args:
        model: A classifier.
        images: Normalised images, `[3, H, W]`, any number.
        explainers: By name; `EXPLAINERS` if None.
        steps: Of the curves.
        seed: Decides the random baseline and the randomised weights.

    Raises:
        ValueError: There is no image, or an explainer cannot explain the model.
    """
    explainers = EXPLAINERS if explainers is None else explainers
    other = randomised(model, seed)
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, _Sums] = {name: _Sums() for name in ("random", "centre", *explainers)}
    count = 0
    with evaluating(model), evaluating(other):
        for image in images:
            with torch.inference_mode():
                label = int(model(image[None]).argmax())
            baselines = {
                "random": torch.rand(image.shape[1:], generator=generator).to(image.device),
                "centre": centre(image),
            }
            for name, heat in baselines.items():
                sums[name].real.append(perturbation_curves(model, image, heat, label, steps=steps, seed=seed + count))
            for name, explain in explainers.items():
                heats = [explain(net, image[None], label) for net in (model, other)]
                curves = [
                    perturbation_curves(model, image, heat, label, steps=steps, seed=seed + count) for heat in heats
                ]
                sums[name].real.append(curves[0])
                sums[name].random.append(curves[1])
                sums[name].correlations.append(rank_correlation(*heats))
            count += 1
    if count == 0:
        raise ValueError("faithfulness is measured by images, and there is none")
    return Faithfulness(judged={name: s.judged() for name, s in sums.items()}, images=count, steps=steps)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy whose weights know nothing: those of each parameter in random order, as in Adebayo et al. (2018).

    Args:
        model: Any.
        seed: Decides the order.
    """
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.copy_(p.flatten()[torch.randperm(p.numel(), generator=generator).to(p.device)].view_as(p))
    return other


def centre(image: Tensor) -> Tensor:
    """The map of who has no idea but that things are in the middle: nearer pixels count more, `[H, W]`."""
    rows, cols = (torch.linspace(-1, 1, n, device=image.device) for n in image.shape[1:])
    return -(rows[:, None] ** 2 + cols**2)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two maps, -1..1; 0 where one is constant."""
    ranks = [_ranks(t.flatten().double()) for t in (a, b)]
    x, y = (r - r.mean() for r in ranks)
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return 0.0 if scale == 0 else float((x * y).sum() / scale)


def _ranks(values: Tensor) -> Tensor:
    """Ranks, equal values getting the mean of theirs."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    return (last - (counts - 1) / 2)[inverse].double()


def _area(curve: Tensor) -> float:
    return float(torch.trapezoid(curve) / (len(curve) - 1))


@dataclass(kw_only=True)
class _Sums:
    real: list[Curves] = field(default_factory=list)
    random: list[Curves] = field(default_factory=list)
    correlations: list[float] = field(default_factory=list)

    def judged(self) -> Judged:
        return Judged(
            curves=_mean(self.real),
            randomised=_mean(self.random) if self.random else None,
            correlation=sum(self.correlations) / len(self.correlations) if self.correlations else None,
        )


def _mean(curves: list[Curves]) -> Curves:
    return Curves(
        deletion=torch.stack([c.deletion for c in curves]).mean(0),
        insertion=torch.stack([c.insertion for c in curves]).mean(0),
    )


def _rollout(model: nn.Module, image: Tensor, label: int) -> Tensor:
    return roll_out(look(model, image)).image


def _looks(model: nn.Module, image: Tensor, label: int) -> Tensor:
    """The map of `where_it_looks`: from the middle of the image, whatever the class."""
    return where_it_looks(model, image)[0]


def _cam(method: CamMethod, stage: int | None = None) -> Explainer:
    return lambda model, image, label: class_activation(
        model,
        image,
        class_target(label),
        method=method,
        stage=stage,
    )[0]


def _gradients(model: nn.Module, image: Tensor, label: int) -> Tensor:
    return integrated_gradients(model, image, class_target(label))[0]


EXPLAINERS: dict[str, Explainer] = {
    "attention from the centre": _looks,
    "rollout": _rollout,
    "Grad-CAM": _cam("gradcam"),
    "Grad-CAM of the last stage": _cam("gradcam", -1),
    "Layer-CAM": _cam("layercam"),
    "integrated gradients": _gradients,
}
"""What is judged by default."""
