"""Accuracy on corrupted images, and at other sizes."""

from collections.abc import Callable, Sequence

import numpy as np

from transnext.report.charts import Series, Show, line_chart
from transnext.report.text import NOTHING, count, escape, number, percent
from transnext.tasks.classification.robustness import KINDS, RobustnessResult
from transnext.tasks.classification.scales import ScalePoint, ScaleResult

STYLES = ("line1", "line2", "line3", "line4")


def robustness_section(result: RobustnessResult | None) -> str:
    """A chart for each kind of corruption, by severity, and all numbers in a table; empty without a result."""
    if result is None:
        return ""
    covers = (0.0, float(np.nanmax([*result.top1.ravel(), result.clean or 0])))
    lines = {"All of them": [_mean(result)], **{kind: _lines(result, names) for kind, names in KINDS.items()}}
    charts = [
        line_chart(title, series, _percent, (0.0, 1.0), "severity", covers=covers) for title, series in lines.items()
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
        for name, style in zip(present, STYLES, strict=False)
    ]


def _points(result: RobustnessResult, values: np.ndarray) -> list[tuple[float, float]]:
    clean = [] if result.clean is None else [(0.0, result.clean)]
    return [*clean, *((float(s), float(v)) for s, v in enumerate(values, start=1))]


def _percent(fraction: float, digits: int) -> str:
    return f"{number(100 * fraction, digits)}\u202f%"


def _table(result: RobustnessResult) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th>'
        f"{''.join(f'<td>{percent(float(v))}</td>' for v in (*row, row.mean()))}</tr>"
        for name, row in zip(result.corruptions, result.top1, strict=True)
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Corruption", 1, 2, 3, 4, 5, "Mean"))
    return (
        "<details><summary>All numbers</summary>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Accuracy under corruption">'
        f'<table class="numbers"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def scales_section(result: ScaleResult | None) -> str:
    """Accuracy, speed and cost by image size, a line for each mode; empty without a result."""
    if result is None:
        return ""
    sizes = sorted({float(p.size) for p in result.points})
    values: dict[str, tuple[Callable[[ScalePoint], float | None], Show]] = {
        "Accuracy": (lambda p: p.top1, _percent),
        "Milliseconds per image": (lambda p: 1000 / p.images_per_second if p.images_per_second else None, number),
        "GMACs per image": (lambda p: None if p.macs is None else p.macs / 1e9, number),
    }
    charts = [
        line_chart(title, _by_mode(result, value), show, x_name="image size, pixels", x_ticks=sizes, covers=(0.0,))
        for title, (value, show) in values.items()
    ]
    failed = "".join(f'<p class="note warn">At {size} pixels: {escape(reason)}</p>' for size, reason in result.failures)
    return (
        f"<p>Trained at {result.trained_size} pixels; {escape(result.split)}, {count(result.images, 'image')}.</p>"
        f'<div class="charts">{"".join(charts)}</div>{failed}{_scales_table(result)}'
    )


def _by_mode(result: ScaleResult, value: Callable[[ScalePoint], float | None]) -> list[Series]:
    modes = list(dict.fromkeys(p.mode for p in result.points))
    return [
        Series(
            label=mode or "model",
            points=[(float(p.size), v) for p in result.points if p.mode == mode and (v := value(p)) is not None],
            style=style,
        )
        for mode, style in zip(modes, STYLES, strict=False)
    ]


def _scales_table(result: ScaleResult) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(p.mode or "")} {p.size}</th><td>{percent(p.top1)}</td>'
        f"<td>{100 * p.top1_interval[0]:.1f} to {100 * p.top1_interval[1]:.1f}\u202f%</td>"
        f"<td>{NOTHING if p.macs is None else number(p.macs / 1e9)}</td><td>{number(p.images_per_second)}</td></tr>"
        for p in result.points
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Size", "Accuracy", "Interval", "GMACs", "Images/s"))
    return (
        "<details><summary>All numbers</summary>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Accuracy and cost by image size">'
        f'<table class="numbers"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )
