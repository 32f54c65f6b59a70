"""Whether the probabilities can be trusted: a reliability diagram for each split."""

from collections.abc import Sequence

import numpy as np

from transnext.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from transnext.report.text import count, escape, percent
from transnext.tasks.classification.results import SplitResult


def calibration_section(results: Sequence[SplitResult]) -> str:
    """A diagram of confidence against accuracy for each split."""
    results = [result for result in results if result.num_images]
    if not results:
        return ""
    return (
        '<p class="note">Images sorted by the probability of the predicted class. Bars show how many are right; on '
        "the dashed line, as many as the probability says. Red is what is claimed and not kept. ECE is the expected "
        "calibration error: the mean distance from the line over all images.</p>"
        f'<div class="charts">{"".join(_diagram(result) for result in results)}</div>'
    )


def _diagram(result: SplitResult) -> str:
    bins = result.calibration
    error = percent(bins.expected_error)
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = _y(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * tick:g}\u202f%</text>')
        label = f"{100 * tick:g}\u202f%"
        parts.append(f'<text x="{_x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>')
    width = (_x(1) - _x(0)) / len(bins.counts)
    for i in np.flatnonzero(bins.counts):
        confidence, accuracy = float(bins.confidence[i]), float(bins.accuracy[i])
        left = _x(i / len(bins.counts)) + 0.75
        title = escape(f"said {percent(confidence)}, right {percent(accuracy)}: {count(int(bins.counts[i]), 'image')}")
        parts.append(_bar("level", left, width - 1.5, 0, accuracy))
        if confidence > accuracy:
            parts.append(_bar("gap", left, width - 1.5, accuracy, confidence))
        parts.append(
            f'<rect class="hit" x="{left:.1f}" y="{TOP}" width="{width - 1.5:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{title}</title></rect>'
        )
    parts.append(f'<path class="ideal" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}"/>')
    middle = (_x(0) + _x(1)) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 3}" text-anchor="middle">probability of the prediction</text>')
    name = escape(result.split)
    label = escape(f"Reliability on {result.split}: expected calibration error {error}")
    return (
        f'<figure class="chart"><figcaption>{name}<ul class="legend"><li>ECE <b>{error}</b></li></ul></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg></figure>'
    )


def _bar(style: str, left: float, width: float, low: float, high: float) -> str:
    return (
        f'<rect class="{style}" x="{left:.1f}" y="{_y(high):.1f}" width="{width:.1f}" '
        f'height="{_y(low) - _y(high):.1f}"/>'
    )


def _x(fraction: float) -> float:
    return LEFT + fraction * (WIDTH - LEFT - RIGHT)


def _y(fraction: float) -> float:
    return TOP + (1 - fraction) * (HEIGHT - TOP - BOTTOM)
