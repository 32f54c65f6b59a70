"""Accuracy under the corruptions of ImageNet-C: measure, result, table, JSON, section of a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from transnext.data import Source
from transnext.data.corruptions import CORRUPTIONS, SEVERITIES, CorruptedImages, check_corruption
from transnext.engine.evaluation import Evaluator
from transnext.report.charts import LINE_STYLES, Series, line_chart
from transnext.report.tables import folded, number_table
from transnext.report.text import count, escape, percent, percent_of

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
        """Error due to the corruptions: `mean_error` less the error on clean images; None without those."""
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
    """Inverse of `robustness_as_dict`."""
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


def measure_robustness(
    evaluator: Evaluator,
    source: Source,
    *,
    split: str = "val",
    corruptions: Sequence[str] = (),
    seed: int = 0,
) -> RobustnessResult:
    """Measures the accuracy on a split, clean and under corruptions made on the fly at all severities.

    Args:
        evaluator: The classifier and how to run it.
        source: Images of the split.
        split: Its name.
        corruptions: Which; all 15 if empty.
        seed: Another seed gives other noise.

    Raises:
        ValueError: There is no such corruption, or no image could be read.
    """
    corruptions = tuple(dict.fromkeys(corruptions)) or CORRUPTIONS
    for name in corruptions:
        check_corruption(name)
    clean_images = evaluator.images(source)
    clean = evaluator.run(clean_images, split)
    top1 = np.empty((len(corruptions), len(SEVERITIES)))
    for i, corruption in enumerate(corruptions):
        for j, severity in enumerate(SEVERITIES):
            images = CorruptedImages(
                source,
                clean_images.transform,
                clean_images.min_side,
                corruption=corruption,
                severity=severity,
                seed=seed,
            )
            top1[i, j] = evaluator.run(images, split, title=f"{corruption} {severity}").top1
    return RobustnessResult(split=split, images=clean.num_images, clean=clean.top1, corruptions=corruptions, top1=top1)


def robustness_section(result: RobustnessResult | None) -> str:
    """A chart for each kind of corruption, by severity, and all numbers in a table; empty without a result."""
    if result is None:
        return ""
    covers = (0.0, float(np.nanmax([*result.top1.ravel(), result.clean or 0])))
    lines = {"All of them": [_mean(result)], **{kind: _lines(result, names) for kind, names in KINDS.items()}}
    charts = [
        line_chart(title, series, percent_of, (0.0, 1.0), "severity", covers=covers) for title, series in lines.items()
    ]
    relative = result.relative_error
    more = "" if relative is None else f", {100 * relative:.1f} points more than on the images as they are"
    return (
        f"<p>Mean corruption error {percent(result.mean_error)}{more} "
        f"({escape(result.split)}, {count(result.images, 'image')}).</p>"
        '<p class="note">The corruptions of ImageNet-C (Hendrycks and Dietterich 2019), made on the fly. Severity 0 is '
        f'the images as they are.</p><div class="charts">{"".join(charts)}</div>{_table(result)}'
    )


def _mean(result: RobustnessResult) -> Series:
    return Series(label="mean", points=_points(result, result.by_severity), style="line1")


def _lines(result: RobustnessResult, names: Sequence[str]) -> list[Series]:
    present = [name for name in names if name in result.corruptions]
    return [
        Series(
            label=name.replace("_", " "),
            points=_points(result, result.top1[result.corruptions.index(name)]),
            style=style,
        )
        for name, style in zip(present, LINE_STYLES, strict=False)
    ]


def _points(result: RobustnessResult, values: np.ndarray) -> list[tuple[float, float]]:
    clean = [] if result.clean is None else [(0.0, result.clean)]
    return [*clean, *((float(s), float(v)) for s, v in enumerate(values, start=1))]


def _table(result: RobustnessResult) -> str:
    rows = (
        [name.replace("_", " "), *(percent(float(v)) for v in (*row, row.mean()))]
        for name, row in zip(result.corruptions, result.top1, strict=True)
    )
    table = number_table("Accuracy under corruption", ("Corruption", *SEVERITIES, "Mean"), rows)
    return folded("All numbers", table)
