"""A picture of cost against resolution."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from transnext.bench.results import BenchResults, Row
from transnext.explain.figures import save_figure

COLOURS = ("#0b63a0", "#c24a08", "#147a49", "#7a3fa0", "#8a6d00", "#b0266f", "#3f5a66", "#444444")
"""Of the lines, in the order of the models; the first three are those of the reports."""
TEXT, SOFT, LINE = "#1d1e20", "#5d6066", "#dedfdb"
SPAN, MARGIN = 4.0, 1.25
"""Least factor between the ends of a value axis, and least factor beyond the largest and smallest value."""
LABEL_HEIGHT = 0.055
"""Least distance between labels, as a share of the height of the axes."""


def draw_cost(results: BenchResults, path: Path) -> None:
    """Draws time per image, and peak memory if it was measured, against the size of the image.

    Args:
        results: What to draw.
        path: PNG file to write.
    """
    panels: list[tuple[str, Callable[[Row], float | None]]] = [
        ("Seconds per image", lambda row: 1 / row.images_per_second() if row.seconds else None)
    ]
    if any(row.memory for row in results.rows):
        batch = results.config["batch_size"]
        panels.append(
            (
                f"Peak memory at batch {batch}, GiB",
                lambda row: row.memory.peak_bytes / 2**30 if row.memory else None,
            )
        )
    figure = Figure(figsize=(6.4 * len(panels), 4.6), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, value) in zip(axes, panels, strict=True):
        _panel(ax, results, title, value)
    save_figure(figure, path)


def _panel(ax: Axes, results: BenchResults, title: str, value: Callable[[Row], float | None]) -> None:
    labels = list(dict.fromkeys(row.workload.label for row in results.rows))
    ends: list[tuple[str, str, float, float]] = []
    values: list[float] = []
    for i, label in enumerate(labels):
        points = sorted(
            (row.workload.size[0] * row.workload.size[1] / 1e6, y)
            for row in results.rows
            if row.workload.label == label and (y := value(row)) is not None
        )
        if points:
            xs, ys = zip(*points, strict=True)
            colour = COLOURS[i % len(COLOURS)]
            ax.plot(xs, ys, marker="o", markersize=4, linewidth=1.8, color=colour)
            ends.append((label, colour, xs[-1], ys[-1]))
            values += ys
    low, high = min(values), max(values)
    margin = max(MARGIN, (SPAN * low / high) ** 0.5)
    ax.set(xscale="log", yscale="log", ylim=(low / margin, high * margin))
    ax.set_title(title, loc="left", fontsize=11, color=TEXT)
    ax.set_xlabel("Megapixels", color=SOFT)
    sizes = {size[0] * size[1] / 1e6: f"{size[0]}x{size[1]}" for size in results.sizes()}
    ax.set_xticks(list(sizes), [f"{x:.2g}\n{text}" for x, text in sizes.items()])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(which="both", colors=SOFT, length=0, labelsize=9)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(color=LINE, linewidth=0.8)
    ax.spines[:].set_visible(False)
    ax.margins(x=0.08)
    _label_ends(ax, ends)


def _label_ends(ax: Axes, ends: list[tuple[str, str, float, float]]) -> None:
    """Names at the right ends of the lines, moved apart where they would overlap."""
    heights = [ax.transAxes.inverted().transform(ax.transData.transform((x, y)))[1] for _, _, x, y in ends]
    places = spread(heights, LABEL_HEIGHT)
    for (label, colour, x, y), place in zip(ends, places, strict=True):
        ax.annotate(
            label,
            (x, y),
            xytext=(1.02, place),
            textcoords=ax.transAxes,
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )


def spread(heights: list[float], distance: float) -> list[float]:
    """The heights moved up as little as needed to be at least `distance` apart, in their order."""
    moved = list(heights)
    last = float("-inf")
    for i in sorted(range(len(heights)), key=heights.__getitem__):
        last = moved[i] = max(heights[i], last + distance)
    return moved
