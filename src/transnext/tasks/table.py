"""Results as a table on a terminal, and numbers in it."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from transnext.report.text import rate
from transnext.tasks.task import Result

MOST_COLUMNS = 8
"""Columns beside the first one that a terminal has room for."""


def results_table(results: Sequence[Result]) -> Table:
    """A row for each split, a column for each metric and its interval; the other way round where there are many."""
    names = ["images"]
    columns: list[list[str]] = []
    for result in results:
        cells = [str(result.num_images)]
        names = ["images"]
        for metric in result.metrics.values():
            names.append(metric.title)
            cells.append(metric.text())
            if metric.interval is not None:
                names.append("95 % interval")
                cells.append(interval_text(metric.interval))
        names.append("images/s")
        columns.append([*cells, rate(result.images_per_second)])
    splits = [result.split for result in results]
    if len(names) > MOST_COLUMNS:
        return _table(["", *splits], ([name, *cells] for name, *cells in zip(names, *columns, strict=True)))
    return _table(["split", *names], ([split, *cells] for split, cells in zip(splits, columns, strict=True)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title="Results")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def interval_text(interval: tuple[float, float]) -> str:
    """An interval of a fraction in percent."""
    return f"{100 * interval[0]:.1f}..{100 * interval[1]:.1f}"
