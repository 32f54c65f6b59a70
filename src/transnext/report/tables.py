"""Tables of numbers on a page."""

from collections.abc import Iterable, Sequence

from transnext.report.text import escape


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
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="numbers">'
        f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(summary: str, content: str) -> str:
    """Content that a click on its summary unfolds.

    Args:
        summary: Text, escaped here.
        content: HTML.
    """
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"
