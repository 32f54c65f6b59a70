"""Results on the ImageNet sets, beside those that the paper prints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from timm.models import get_pretrained_cfg
from torch import nn

from transnext.tasks.classification.intervals import bootstrap_interval
from transnext.tasks.classification.results import SplitResult
from transnext.tasks.classification.robustness import RobustnessResult, robustness_as_dict
from transnext.tasks.classification.summary import NOTHING, interval_text

TITLES = {
    "val": "ImageNet-1K",
    "real": "ReaL",
    "v2": "ImageNet-V2",
    "a": "ImageNet-A",
    "r": "ImageNet-R",
    "sketch": "ImageNet-Sketch",
    "c": "ImageNet-C (mCE)",
}
"""The sets in the order of the table."""
IMAGES = {"val": 50_000, "real": 46_837, "v2": 10_000, "a": 7_500, "r": 30_000, "sketch": 50_889, "c": 50_000}
"""Of the published sets."""

PUBLISHED: dict[str, dict[str, float]] = {
    "transnext_micro.in1k": {"val": 82.5, "a": 29.9, "r": 45.8, "sketch": 33.0, "v2": 72.6, "c": 50.8},
    "transnext_tiny.in1k": {"val": 84.0, "a": 39.9, "r": 49.6, "sketch": 37.6, "v2": 73.8, "c": 46.5},
    "transnext_small.in1k": {"val": 84.7, "a": 47.1, "r": 52.5, "sketch": 39.7, "v2": 74.8, "c": 43.9},
    "transnext_base.in1k": {"val": 84.8, "a": 50.6, "r": 53.9, "sketch": 41.4, "v2": 75.1, "c": 43.5},
    "transnext_small.in1k_384": {"val": 86.0, "a": 58.3, "r": 56.4, "sketch": 43.2, "v2": 76.8},
    "transnext_base.in1k_384": {"val": 86.2, "a": 61.6, "r": 57.7, "sketch": 44.7, "v2": 77.0},
    "transnext_micro_aaaa.in1k": {"val": 82.6},
}
"""Top-1 and, of C, mean corruption error, in percent (Shi, CVPR 2024)."""


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """One of the sets.

    Attributes:
        name: A key of `TITLES`.
        images: Images evaluated, of C those of one corruption and severity.
        value: Top-1, 0..1; of C the mean corruption error, normalised by AlexNet's, which may exceed 1; None if C is
            not complete.
        interval: 95 % bootstrap interval of top-1; None for C.
        published: What the paper prints for this model, as `value`; None if nothing.
    """

    name: str
    images: int
    value: float | None
    interval: tuple[float, float] | None
    published: float | None


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """All of the sets that were there.

    Attributes:
        model: What was evaluated.
        sets: In the order of `TITLES`.
        corruptions: ImageNet-C in full; None if it is not there.
        missing: Sets that are not there, with what was looked for or what is wrong.
        skipped: Name and reason of images that could not be read.
    """

    model: str
    sets: tuple[SetResult, ...]
    corruptions: RobustnessResult | None
    missing: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...]


class AmongClasses(nn.Module):
    """A classifier that chooses among some of its classes.

    Args:
        model: Gives logits `[B, 1000]`.
        indices: Which of them.
    """

    def __init__(self, model: nn.Module, indices: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.indices = torch.tensor(indices)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits `[B, len(indices)]`."""
        logits: torch.Tensor = self.model(x)
        return logits[:, self.indices.to(logits.device)]


def published(model: str) -> dict[str, float]:
    """What the paper prints for a model, by set; empty for others than the released ones.

    Args:
        model: Name of the architecture, with or without the tag of its weights, or a file of released weights under
            the name that it was released with.
    """
    for name, values in PUBLISHED.items():
        config = get_pretrained_cfg(name)
        default = get_pretrained_cfg(config.architecture)
        if model == name or (model, config.tag) == (config.architecture, default.tag):
            return values
        if Path(model).name == config.hf_hub_filename:
            return values
    return {}


def set_result(name: str, result: SplitResult, model: str) -> SetResult:
    """One of the sets with plain labels."""
    return SetResult(
        name=name,
        images=result.num_images,
        value=result.top1,
        interval=result.top1_interval,
        published=_fraction(published(model).get(name)),
    )


def real_result(val: SplitResult, labels: dict[str, list[int]], model: str) -> SetResult:
    """The validation set with its reassessed labels: right is what is among them; images without one do not count.

    Args:
        val: Result on the validation set.
        labels: By file name, without folder and extension.
        model: Name of the model.

    Raises:
        ValueError: An image has another name than those of the validation set.
    """
    right: list[bool] = []
    for p in val.predictions:
        name = Path(p.name).stem
        if name not in labels:
            raise ValueError(f"{p.name} is not named as an image of the validation set (ILSVRC2012_val_00000001.JPEG)")
        if labels[name]:
            right.append(p.predicted in labels[name])
    if not right:
        raise ValueError("no image of the validation set has a label")
    return SetResult(
        name="real",
        images=len(right),
        value=sum(right) / len(right),
        interval=bootstrap_interval(sum(right), len(right)),
        published=_fraction(published(model).get("real")),
    )


def corruption_result(result: RobustnessResult, model: str) -> SetResult:
    """ImageNet-C."""
    return SetResult(
        name="c",
        images=result.images,
        value=result.mce,
        interval=None,
        published=_fraction(published(model).get("c")),
    )


def suite_table(result: SuiteResult) -> Table:
    """A row for each set."""
    table = Table(title=result.model)
    for name in ("set", "images", "percent", "95 % interval", "published", "difference"):
        table.add_column(name, justify="left" if name == "set" else "right")
    for s in result.sets:
        both = s.value is not None and s.published is not None
        table.add_row(
            TITLES[s.name],
            f"{s.images}{'' if s.images == IMAGES[s.name] else f' of {IMAGES[s.name]}'}",
            _percent(s.value),
            NOTHING if s.interval is None else interval_text(s.interval),
            _percent(s.published),
            f"{100 * (s.value - s.published):+.1f}" if both else NOTHING,  # type: ignore[operator]
        )
    return table


def suite_as_dict(result: SuiteResult) -> dict[str, Any]:
    """Plain values."""
    return {
        "model": result.model,
        "sets": {
            s.name: {"images": s.images, "value": s.value, "interval": s.interval, "published": s.published}
            for s in result.sets
        },
        "corruptions": None if result.corruptions is None else robustness_as_dict(result.corruptions),
        "missing": dict(result.missing),
        "skipped": len(result.skipped),
    }


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _fraction(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
