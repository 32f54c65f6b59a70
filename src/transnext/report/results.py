"""The numbers of each split, the main one with the interval that the number of images leaves."""

from collections.abc import Sequence

from transnext.report.parts import Metric, Result
from transnext.report.text import NOTHING, count, escape, finite, percent


def main_metric(result: Result) -> Metric | None:
    """The first metric; None where nothing was evaluated."""
    metric = next(iter(result.metrics.values()), None)
    return metric if metric is not None and finite(metric.value) is not None and result.num_images else None


def shown(metric: Metric) -> str:
    """A metric as text of a page."""
    if finite(metric.value) is None:
        return NOTHING
    return percent(metric.value) if metric.percent else f"{metric.value:.3f}"


def results_section(results: Sequence[Result]) -> str:
    """A table with a row for each split, and a bar for the main metric where it has an interval."""
    if not results:
        return '<p class="note">No split was evaluated.</p>'
    first, *others = results[0].metrics.values()
    head = "".join(f'<th scope="col" class="n">{escape(metric.title)}</th>' for metric in others)
    rows = "".join(_row(result) for result in results)
    note = (
        '<p class="note">Beside the first number, and as the pale part of its bar: the 95\u202f% interval, '
        "what the number of images leaves open.</p>"
    )
    return (
        f'<table class="splits"><thead><tr><th scope="col">Split</th><th scope="col" class="wide">{escape(first.title)}'
        f"</th>{head}</tr></thead><tbody>{rows}</tbody></table>{note if first.interval else ''}"
    )


def _row(result: Result) -> str:
    metric = main_metric(result)
    value = NOTHING
    if metric is not None:
        value = f"<strong>{shown(metric)}</strong>"
        if metric.interval is not None:
            low, high = metric.interval
            value += (
                f" <small>{100 * low:.1f} to {100 * high:.1f}\u202f%</small>"
                f'<span class="bar" style="--p:{100 * metric.value:.2f}%;--low:{100 * low:.2f}%;'
                f'--high:{100 * high:.2f}%"><i></i><b></b></span>'
            )
    others = "".join(f'<td class="n">{shown(m)}</td>' for m in list(result.metrics.values())[1:])
    return (
        f'<tr><th scope="row">{escape(result.split)}<small>{count(result.num_images, "image")}</small></th>'
        f'<td class="wide">{value}</td>{others}</tr>'
    )
