"""Results as a table on a terminal, and numbers in it."""

from collections.abc import Sequence

from rich.table import Table

from transnext.report.text import NOTHING
from transnext.tasks.task import Result


def results_table(results: Sequence[Result]) -> Table:
    """A row for each split, a column for each metric and its interval."""
    table = Table(title="Results")
    metrics = results[0].metrics.values() if results else ()
    table.add_column("split")
    table.add_column("images", justify="right")
    for metric in metrics:
        table.add_column(metric.title, justify="right")
        if metric.interval is not None:
            table.add_column("95 % interval", justify="right")
    table.add_column("images/s", justify="right")
    for result in results:
        cells = [result.split, str(result.num_images)]
        for metric in result.metrics.values():
            cells.append(metric.text())
            if metric.interval is not None:
                cells.append(interval_text(metric.interval))
        speed = result.images_per_second
        table.add_row(*cells, NOTHING if speed is None else f"{speed:.0f}")
    return table


def interval_text(interval: tuple[float, float]) -> str:
    """An interval of a fraction in percent."""
    return f"{100 * interval[0]:.1f}..{100 * interval[1]:.1f}"
