"""Line charts as inline SVG, coloured by the style sheet of the page so that they follow light and dark mode."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transnext.report.text import escape, finite

WIDTH, HEIGHT = 360, 212
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 34
LINE_STYLES = ("line1", "line2", "line3", "line4")
"""Of several lines in a chart."""
Show = Callable[[float, int], str]
DIGITS = 3
TICK_DIGITS = 6
"""Ticks are round numbers and need all their digits where the axis spans little."""
MAX_TOOLTIPS = 300
"""Epochs up to which each has a tooltip; beyond, they would be narrower than a pixel."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line.

    Attributes:
        label: Its name.
        points: Epoch (or what else the chart goes along) and value, rising; a value that is not finite leaves a gap.
        style: Class of the line in the style sheet.
        figure: What the legend says beside the name; the last value by default.
    """

    label: str
    points: Sequence[tuple[float, float]]
    style: str
    figure: str | None = None

    @property
    def finite_points(self) -> list[tuple[float, float]]:
        """The points that can be drawn."""
        return [(x, y) for x, y in self.points if finite(y) is not None]


def line_chart(
    title: str,
    series: Sequence[Series],
    show: Show,
    limits: tuple[float, float] = (-math.inf, math.inf),
    x_name: str = "epoch",
    x_ticks: Sequence[float] | None = None,
    covers: Sequence[float] = (),
) -> str:
    """A `figure` with legend and chart.

    Args:
        title: What the values are.
        series: The lines; those without a finite value are left out.
        show: A value as text of at most so many significant digits.
        limits: Range that the value axis does not leave.
        x_name: What the chart goes along.
        x_ticks: Where to write its values; round numbers by default.
        covers: Values that the value axis reaches, whatever the lines do, so that charts can be compared.

    Returns:
        HTML; empty if there is nothing to draw.
    """
    series = [s for s in series if s.finite_points]
    if not series:
        return ""
    xs = [x for s in series for x, _ in s.finite_points]
    ys = [*covers, *(y for s in series for _, y in s.finite_points)]
    x_range = (min(xs) - 0.5, max(xs) + 0.5) if min(xs) == max(xs) else (min(xs), max(xs))
    y_ticks = nice_ticks(max(min(ys), limits[0]), min(max(ys), limits[1]), limits)
    y_range = (y_ticks[0], y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT),
            TOP + (y_range[1] - y) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [_axes(x_range, y_ticks, show, place, x_name, x_ticks)]
    parts += [_line(s, place) for s in series]
    parts.append(_tooltips(series, show, place, x_name))
    figures = [show(s.finite_points[-1][1], DIGITS) if s.figure is None else s.figure for s in series]
    said = "; ".join(f"{s.label} {figure}" for s, figure in zip(series, figures, strict=True))
    # A line alone is named by the title.
    legend = "".join(
        f'<li class="{s.style}"><i></i>{escape(s.label)} <b>{escape(figure)}</b></li>'
        for s, figure in zip(series, figures, strict=True)
        if len(series) > 1 or s.figure is not None
    )
    at_end = "At the end: " if all(s.figure is None for s in series) else ""
    description = escape(f"{title} by {x_name}, {min(xs):g} to {max(xs):g}. {at_end}{said}.")
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<ul class="legend">{legend}</ul></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{description}">{"".join(parts)}</svg></figure>'
    )


def nice_ticks(low: float, high: float, limits: tuple[float, float] = (-math.inf, math.inf)) -> list[float]:
    """About five round numbers, at least two, that span `low` to `high` and stay within `limits`."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) * 0.1 or 0.5
        low, high = max(low - margin, limits[0]), min(high + margin, limits[1])
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(i * step, 2 - math.floor(math.log10(step))) for i in range(first, last + 1)]
    return [t for t in ticks if limits[0] <= t <= limits[1]]


def _axes(
    x_range: tuple[float, float],
    y_ticks: Sequence[float],
    show: Show,
    place: Callable[[float, float], tuple[float, float]],
    x_name: str,
    x_ticks: Sequence[float] | None,
) -> str:
    parts = []
    for value in y_ticks:
        y = place(x_range[0], value)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(show(value, TICK_DIGITS))}</text>'
        )
    for value in _round_places(x_range) if x_ticks is None else x_ticks:
        x = place(value, y_ticks[0])[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_name)}</text>')
    return "".join(parts)


def _round_places(x_range: tuple[float, float]) -> list[int]:
    """About five round numbers of a range, and its first: the first epoch always has its number."""
    first, last = math.ceil(x_range[0]), math.floor(x_range[1])
    step = _epoch_step(last - first)
    places = sorted({first, *range(first + step - first % step, last + 1, step)})
    # The tick after the first must leave it room.
    return [place for place in places if place == first or place - first >= step / 2]


def _epoch_step(span: int) -> int:
    step = 1
    while span / step > 6:
        step = next(m * 10 ** (len(str(step)) - 1) for m in (1, 2, 5, 10) if m * 10 ** (len(str(step)) - 1) > step)
    return step


def _line(series: Series, place: Callable[[float, float], tuple[float, float]]) -> str:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in series.points:
        if finite(y) is None:
            runs.append([])
        else:
            runs[-1].append(place(x, y))
    parts = []
    for run in runs:
        if len(run) > 1:
            parts.append(f'<path d="M{" ".join(f"{x:.1f} {y:.1f}" for x, y in run)}"/>')
        elif run:
            parts.append(f'<circle cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="3.5"/>')
    return f'<g class="{series.style}">{"".join(parts)}</g>'


def _tooltips(
    series: Sequence[Series], show: Show, place: Callable[[float, float], tuple[float, float]], x_name: str
) -> str:
    """An invisible column over each place, with the values of all lines."""
    values: dict[float, list[str]] = {}
    for s in series:
        for x, y in s.finite_points:
            values.setdefault(x, []).append(f"{s.label} {show(y, DIGITS)}")
    epochs = sorted(values)
    if len(epochs) > MAX_TOOLTIPS:
        return ""
    xs = [place(epoch, 0)[0] for epoch in epochs]
    half = min((b - a for a, b in itertools.pairwise(xs)), default=WIDTH - LEFT - RIGHT) / 2
    parts = []
    for epoch, x in zip(epochs, xs, strict=True):
        left, right = max(x - half, LEFT), min(x + half, WIDTH - RIGHT)
        parts.append(
            f'<rect class="hit" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}">'
            f"<title>{escape(f'{x_name} {epoch:g}: ' + ', '.join(values[epoch]))}</title></rect>"
        )
    return "".join(parts)
