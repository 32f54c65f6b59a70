"""ImageNet-1K and the sets that came after it, beside what the paper prints: measure, result, table, JSON."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from timm.models import get_pretrained_cfg
from torch import nn

from transnext.data.corruptions import CORRUPTIONS, SEVERITIES
from transnext.data.imagenet import (
    FOLDERS,
    NUM_CLASSES,
    SUBSETS,
    find_corruptions,
    find_folder,
    open_imagenet,
    real_labels,
    subset_indices,
)
from transnext.engine.evaluation import Evaluator
from transnext.report.text import NOTHING
from transnext.studies.corruptions import RobustnessResult, robustness_as_dict
from transnext.tasks.classification.intervals import bootstrap_interval
from transnext.tasks.classification.results import SplitResult
from transnext.tasks.table import interval_text

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
    """Numbers that the paper prints for a model, by set; empty for others than the released ones.

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


def evaluate_imagenet(evaluator: Evaluator, root: str | Path) -> SuiteResult:
    """Evaluates on the sets that are found below a folder; `transnext.data.imagenet.FOLDERS` says where.

    ReaL needs the validation set alone: its labels are those of `root/real.json`, or the copy that comes with timm.

    Args:
        evaluator: A classifier of the 1000 classes, and how to run it.
        root: Where the sets are.

    Raises:
        FileNotFoundError: There is no such folder, or none of the sets in it.
        ValueError: The classifier has other classes, or a set is not laid out as it should be.
    """
    root = Path(root)
    classifier = evaluator.loaded
    if len(classifier.class_names) != NUM_CLASSES:
        raise ValueError(
            f"{classifier.name} has {len(classifier.class_names)} classes: the ImageNet suite needs a classifier of "
            f"the {NUM_CLASSES} of ImageNet-1K"
        )
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    folders = {name: find_folder(root, name) for name in FOLDERS}
    if not any(folders.values()):
        places = ", ".join(place for names in FOLDERS.values() for place in names)
        raise FileNotFoundError(f"none of the ImageNet sets is in {root}: looked for {places}")
    missing = {TITLES[name]: " or ".join(FOLDERS[name]) for name, folder in folders.items() if folder is None}
    sets: dict[str, SetResult] = {}
    skipped: list[tuple[str, str]] = []
    corruptions = None
    for name, folder in folders.items():
        if folder is None:
            continue
        if name == "c":
            corruptions = _corruptions(evaluator, folder)
            sets[name] = corruption_result(corruptions, classifier.name)
            if sets[name].value is None:
                missing[TITLES[name]] = _incomplete(corruptions)
            continue
        result = _plain_set(evaluator, name, folder)
        sets[name] = set_result(name, result, classifier.name)
        skipped += result.skipped
        if name == "val":
            file = root / "real.json"
            try:
                sets["real"] = real_result(result, real_labels(file if file.exists() else None), classifier.name)
            except ValueError as error:
                missing[TITLES["real"]] = str(error)
    if "val" not in sets:
        missing[TITLES["real"]] = "needs the validation set"
    return SuiteResult(
        model=classifier.name,
        sets=tuple(sets[name] for name in TITLES if name in sets),
        corruptions=corruptions,
        missing=tuple(missing.items()),
        skipped=tuple(skipped),
    )


def _plain_set(evaluator: Evaluator, name: str, folder: Path) -> SplitResult:
    subset = name if name in SUBSETS else None
    images = evaluator.images(open_imagenet(folder, subset))
    model = evaluator.loaded.model
    # A subset is scored among its own classes: another answer than those would always be wrong.
    chosen = model if subset is None else AmongClasses(model, subset_indices(subset)).eval()
    return evaluator.run(images, TITLES[name], model=chosen)


def _corruptions(evaluator: Evaluator, folder: Path) -> RobustnessResult:
    found = find_corruptions(folder, CORRUPTIONS)
    if not found:
        raise ValueError(f"{folder} has no corruptions: expected folders such as {CORRUPTIONS[0]}/1 in it")
    # Its images are crops of 224 pixels already: another crop would cut their rims off.
    whole = dataclasses.replace(evaluator.loaded.preprocessing, crop_pct=1.0)
    top1 = np.full((len(found), len(SEVERITIES)), np.nan)
    counts: list[int] = []
    for i, (corruption, folders) in enumerate(found.items()):
        for severity, path in folders.items():
            images = evaluator.images(open_imagenet(path), whole)
            result = evaluator.run(images, TITLES["c"], title=f"{corruption} {severity}")
            top1[i, severity - 1] = result.top1
            counts.append(result.num_images)
    return RobustnessResult(split="imagenet-c", images=min(counts), clean=None, corruptions=tuple(found), top1=top1)


def _incomplete(result: RobustnessResult) -> str:
    absent = [name for name in CORRUPTIONS if name not in result.corruptions]
    partial = [name for name, row in zip(result.corruptions, result.top1, strict=True) if np.isnan(row).any()]
    return f"mCE needs all 15 corruptions at 5 severities; not whole: {', '.join(absent + partial)}"
