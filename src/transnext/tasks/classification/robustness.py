"""Accuracy under corruption: results, their table and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from transnext.data.corruptions import CORRUPTIONS, SEVERITIES

KINDS = {"Noise": CORRUPTIONS[:3], "Blur": CORRUPTIONS[3:7], "Weather": CORRUPTIONS[7:11], "Digital": CORRUPTIONS[11:]}
"""The corruptions by kind, as in the paper."""

ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's error on ImageNet-C, mean over the severities, 0..1 (Hendrycks & Dietterich 2019, where it is rounded)."""


@dataclass(frozen=True, kw_only=True)
class RobustnessResult:
    """Accuracy on one split, clean and corrupted.

    Attributes:
        split: Its name.
        images: Images evaluated, of each corruption and severity.
        clean: Top-1 without corruption, 0..1; None if it was not measured.
        corruptions: Names of the corruptions.
        top1: Accuracy by corruption and severity, `[corruptions, 5]` float64, 0..1; NaN where it was not measured.
    """

    split: str
    images: int
    clean: float | None
    corruptions: tuple[str, ...]
    top1: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Error of each corruption, mean over the severities, `[corruptions]`, 0..1."""
        return 1 - np.asarray(self.top1.mean(axis=1))

    @property
    def mean_error(self) -> float:
        """Mean corruption error: the mean of `errors`, 0..1, not divided by anybody else's."""
        return float(self.errors.mean())

    @property
    def relative_error(self) -> float | None:
        """How much of it is due to the corruptions: `mean_error` less the error on clean images; None without those."""
        return None if self.clean is None else self.mean_error - (1 - self.clean)

    @property
    def by_severity(self) -> np.ndarray:
        """Accuracy at each severity, mean over the corruptions, `[5]`, 0..1."""
        return np.asarray(self.top1.mean(axis=0))

    @property
    def mce(self) -> float | None:
        """Mean of `errors` each divided by AlexNet's, as for ImageNet-C; None unless all 15 were measured."""
        if set(self.corruptions) != set(ALEXNET_ERRORS) or np.isnan(self.top1).any():
            return None
        alexnet = np.array([ALEXNET_ERRORS[name] for name in self.corruptions])
        return float((self.errors / alexnet).mean())


def robustness_table(result: RobustnessResult) -> Table:
    """A row for each corruption, and their mean."""
    clean = "" if result.clean is None else f", {result.clean:.1%} when clean"
    table = Table(title=f"Top-1 on {result.split}, corrupted ({result.images} images{clean})")
    table.add_column("corruption")
    for name in (*(str(s) for s in SEVERITIES), "mean"):
        table.add_column(name, justify="right")
    for name, row in zip(result.corruptions, result.top1, strict=True):
        table.add_row(name, *_percents(row), *_percents([row.mean()]))
    table.add_section()
    table.add_row("mean", *_percents(result.by_severity), *_percents([result.top1.mean()]))
    return table


def robustness_line(result: RobustnessResult) -> str:
    """The result in a sentence."""
    relative = result.relative_error
    more = "" if relative is None else f", {100 * relative:.1f} points more than on clean images"
    return f"Mean corruption error {result.mean_error:.1%}{more}."


def robustness_as_dict(result: RobustnessResult) -> dict[str, Any]:
    """Plain values, None for what was not measured."""
    return {
        "split": result.split,
        "images": result.images,
        "clean": result.clean,
        "top1": {name: _plain(row) for name, row in zip(result.corruptions, result.top1, strict=True)},
        "by_severity": _plain(result.by_severity),
        "mean_error": _plain([result.mean_error])[0],
        "relative_error": None if result.relative_error is None else _plain([result.relative_error])[0],
    }


def robustness_from_dict(values: dict[str, Any]) -> RobustnessResult:
    """What `robustness_as_dict` was given."""
    return RobustnessResult(
        split=values["split"],
        images=values["images"],
        clean=values["clean"],
        corruptions=tuple(values["top1"]),
        top1=np.array(list(values["top1"].values()), np.float64),
    )


def _plain(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _percents(values: Sequence[float] | np.ndarray) -> list[str]:
    return ["–" if np.isnan(value) else f"{100 * value:.1f}" for value in values]
