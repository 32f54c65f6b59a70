"""Accuracy on each split, with the interval that the number of images leaves."""

from collections.abc import Sequence

from transnext.report.text import NOTHING, count, escape, finite, percent
from transnext.tasks.classification.results import SplitResult


def interval_of(result: SplitResult) -> tuple[float, float] | None:
    """95 % bootstrap interval of `top1`; None where no image was evaluated."""
    return result.top1_interval if finite(result.top1) is not None and result.num_images else None


def accuracy_section(results: Sequence[SplitResult], num_classes: int) -> str:
    """A table with a row and a bar for each split."""
    if not results:
        return '<p class="note">No split was evaluated.</p>'
    # Of five classes or fewer, the true one is always among the five most probable.
    with_top5 = num_classes > 5
    rows = "".join(_row(result, with_top5) for result in results)
    top5 = '<th scope="col" class="n">Top-5</th>' if with_top5 else ""
    return (
        '<table class="splits"><thead><tr><th scope="col">Split</th><th scope="col" class="wide">Accuracy (top-1)</th>'
        f'{top5}<th scope="col" class="n">Loss</th></tr></thead><tbody>{rows}</tbody></table>'
        '<p class="note">Beside each accuracy, and as the pale part of its bar: the 95\u202f% bootstrap interval, '
        "what the number of images leaves open.</p>"
    )


def _row(result: SplitResult, with_top5: bool) -> str:
    interval = interval_of(result)
    if interval is None:
        value = NOTHING
    else:
        low, high = interval
        between = f"{100 * low:.1f} to {100 * high:.1f}\u202f%"
        bar = (
            f'<span class="bar" style="--p:{100 * result.top1:.2f}%;--low:{100 * low:.2f}%;--high:{100 * high:.2f}%">'
            "<i></i><b></b></span>"
        )
        value = f"<strong>{percent(result.top1)}</strong> <small>{between}</small>{bar}"
    loss = f"{result.loss:.3f}" if finite(result.loss) is not None else NOTHING
    top5 = f'<td class="n">{percent(result.top5)}</td>' if with_top5 else ""
    return (
        f'<tr><th scope="row">{escape(result.split)}<small>{count(result.num_images, "image")}</small></th>'
        f'<td class="wide">{value}</td>{top5}<td class="n">{loss}</td></tr>'
    )
