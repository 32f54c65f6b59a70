"""Pictures of the studies, as files."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from transnext.data.corruptions import SEVERITIES
from transnext.explain.figures import save_figure
from transnext.studies.corruptions import KINDS, RobustnessResult
from transnext.studies.sizes import ScalePoint, ScaleResult

COLOURS = ("#0b63a0", "#c24a08", "#147a49", "#7a3fa0")
LINES = ("-", "--", ":", "-.")
TEXT, SOFT, LINE = "#1d1e20", "#5d6066", "#dedfdb"


def draw_robustness(result: RobustnessResult, path: Path) -> None:
    """Draws accuracy against severity, a panel for each kind of corruption and the mean of all in each.

    Args:
        result: What to draw.
        path: File to write; its extension says which kind.
    """
    kinds = {kind: [n for n in names if n in result.corruptions] for kind, names in KINDS.items()}
    kinds = {kind: names for kind, names in kinds.items() if names}
    figure = Figure(figsize=(3.6 * len(kinds), 3.8), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    clean = [] if result.clean is None else [result.clean]
    severities = [0] * len(clean) + list(SEVERITIES)
    for ax, (kind, names) in zip(axes, kinds.items(), strict=True):
        ax.plot(severities, [*clean, *result.by_severity], color=LINE, linewidth=5, label="mean of all")
        for name, colour, line in zip(names, COLOURS, LINES, strict=False):
            values = [*clean, *result.top1[result.corruptions.index(name)]]
            ax.plot(severities, values, line, color=colour, linewidth=1.8, marker="o", markersize=3.5, label=name)
        _dress(ax, kind, "Severity")
        ax.set_xticks(severities)
        ax.legend(frameon=False, fontsize=8, labelcolor=TEXT)
    axes[0].set_ylim(bottom=0)
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.suptitle(f"Top-1 on {result.split} under corruption", x=0.01, ha="left", fontsize=11, color=TEXT)
    save_figure(figure, path)


def draw_scales(result: ScaleResult, path: Path) -> None:
    """Draws accuracy, time and multiply-adds against the image size, a line for each mode.

    Args:
        result: What to draw.
        path: File to write; its extension says which kind.
    """
    panels: list[tuple[str, Callable[[ScalePoint], float | None]]] = [
        ("Top-1", lambda p: p.top1),
        ("Milliseconds per image", lambda p: 1000 / p.images_per_second if p.images_per_second else None),
        ("GMACs per image", lambda p: None if p.macs is None else p.macs / 1e9),
    ]
    panels = [panel for panel in panels if any(panel[1](p) is not None for p in result.points)]
    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained", dpi=150)
    sizes = sorted({p.size for p in result.points})
    for ax, (title, value) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for mode, colour, line in zip(dict.fromkeys(p.mode for p in result.points), COLOURS, LINES, strict=False):
            points = [(p.size, y) for p in result.points if p.mode == mode and (y := value(p)) is not None]
            if points:
                xs, ys = zip(*points, strict=True)
                ax.plot(xs, ys, line, color=colour, linewidth=1.8, marker="o", markersize=3.5, label=mode or "model")
        _dress(ax, title, f"Image size, pixels (trained at {result.trained_size})")
        ax.set_xticks(sizes)
        ax.set_ylim(bottom=0)
        if title == "Top-1":
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            ax.legend(frameon=False, fontsize=9, labelcolor=TEXT)
    save_figure(figure, path)


def _dress(ax: Axes, title: str, x_name: str) -> None:
    ax.set_title(title, loc="left", fontsize=11, color=TEXT)
    ax.set_xlabel(x_name, color=SOFT)
    ax.tick_params(which="both", colors=SOFT, length=0, labelsize=9)
    ax.grid(color=LINE, linewidth=0.8)
    ax.spines[:].set_visible(False)
