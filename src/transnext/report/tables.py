"""Tables of numbers on a page."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from transnext.report.text import count, escape, percent

NO_SPLIT = '<p class="note">No split was evaluated.</p>'
"""In place of a section that has nothing to show."""


def scrolled(label: str, body: str) -> str:
    """A table that scrolls where it is wider than the page.

    Args:
        label: What it is called by screen readers, escaped here.
        body: HTML of its head and body.
    """
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="numbers">{body}'
        "</table></div>"
    )


def rate_cell(fraction: float, digits: int = 1) -> str:
    """A cell with a fraction 0..1 in percent."""
    return f'<td class="n">{percent(fraction, digits)}</td>'


def share_bar(fraction: float) -> str:
    """A cell with a bar as long as a fraction 0..1; none for NaN."""
    share = f"{0.0 if math.isnan(fraction) else 100 * fraction:.2f}%"
    return f'<td><span class="bar" style="--p:{share};--low:{share};--high:{share}"><i></i><b></b></span></td>'


def class_table(label: str, titles: Iterable[str], rows: Iterable[str]) -> str:
    """A table with a row for each class; see `scrolled`.

    Args:
        label: See there.
        titles: Of the columns behind the name, "" of bars.
        rows: HTML.
    """
    head = "".join(
        f'<th scope="col" class="n">{title}</th>' if title else '<th scope="col"><span class="hidden">Bar</span></th>'
        for title in titles
    )
    return scrolled(label, f'<thead><tr><th scope="col">Class</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody>')


def split_folds(results: Sequence[Any], what: Callable[[Any], str], content: Callable[[Any], str]) -> str:
    """A fold-out for each split, the first that is not `train` open.

    Args:
        results: Of each split, with `split` and `num_images`.
        what: Tells what is counted in the images of one.
        content: HTML of one.
    """
    shown = next((result for result in results if result.split != "train"), results[0])
    return "".join(
        f'<details class="split"{" open=" + chr(34) + "open" + chr(34) if result is shown else ""}>'
        f"<summary>{escape(result.split)} <small>{what(result)} in "
        f"{count(result.num_images, 'image')}</small></summary>{content(result)}</details>"
        for result in results
    )


def split_notes(results: Iterable[Any]) -> str:
    """The `notes` of each `split`: what a reader of its numbers must know."""
    return "".join(
        f'<p class="note">{escape(result.split)}: {escape(note)}.</p>' for result in results for note in result.notes
    )


def number_table(label: str, head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table that scrolls where it is wider than the page. All cells are escaped.

    Args:
        label: What it is called by screen readers.
        head: Name of each column.
        rows: Cells of each row; the first names it.
    """
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return scrolled(label, f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody>")


def folded(summary: str, content: str) -> str:
    """Content that a click on its summary unfolds.

    Args:
        summary: Text, escaped here.
        content: HTML.
    """
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"
