"""How well each class is known."""

from collections.abc import Sequence

import numpy as np

from transnext.report.text import count, escape, percent
from transnext.tasks.classification.intervals import wilson_interval
from transnext.tasks.classification.results import SplitResult

MAX_ROWS = 60
"""Classes listed for a split, worst first."""


def classes_section(results: Sequence[SplitResult], class_names: Sequence[str]) -> str:
    """A fold-out for each split, the first that is not `train` open: accuracy of each class, worst first."""
    results = [result for result in results if result.num_images]
    if not results or len(class_names) < 2:
        return ""
    shown = next((result for result in results if result.split != "train"), results[0])
    parts = [
        f'<details class="split"{" open=" + chr(34) + "open" + chr(34) if result is shown else ""}>'
        f"<summary>{escape(result.split)} <small>mean over the classes {percent(result.balanced_accuracy)}</small>"
        f"</summary>{_table(result, class_names)}</details>"
        for result in results
    ]
    note = "With 95\u202f% Wilson intervals: of a class of few images, little can be said."
    return f'<p class="note">{note}</p>{"".join(parts)}'


def _table(result: SplitResult, class_names: Sequence[str]) -> str:
    images, right = result.class_images, result.confusion.diagonal()
    present = np.flatnonzero(images)
    worst_first = present[np.argsort(result.class_accuracy[present], kind="stable")]
    rows = "".join(
        _row(class_names[i], int(right[i]), int(images[i]), result.confusion[i], i, class_names)
        for i in worst_first[:MAX_ROWS]
    )
    more = len(worst_first) - MAX_ROWS
    absent = len(class_names) - len(present)
    notes = [f"{count(more)} more, better than these."] if more > 0 else []
    notes += [f"{count(absent)} {'class has' if absent == 1 else 'classes have'} no image."] if absent else []
    note = f'<p class="note">{" ".join(notes)}</p>' if notes else ""
    label = f"Classes of {escape(result.split)}"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="numbers"><thead><tr>'
        '<th scope="col">Class</th><th scope="col" class="n">Images</th><th scope="col" class="n">Accuracy</th>'
        '<th scope="col" class="n">Interval</th><th scope="col"><span class="hidden">Bar</span></th>'
        f'<th scope="col">Mostly taken for</th></tr></thead><tbody>{rows}</tbody></table></div>{note}'
    )


def _row(name: str, right: int, images: int, predicted: np.ndarray, true: int, class_names: Sequence[str]) -> str:
    accuracy = right / images
    low, high = wilson_interval(right, images)
    wrong = predicted.copy()
    wrong[true] = 0
    taken_for = f"{escape(class_names[int(wrong.argmax())])} ({int(wrong.max())})" if wrong.any() else ""
    bar = (
        f'<span class="bar" style="--p:{100 * accuracy:.2f}%;--low:{100 * low:.2f}%;--high:{100 * high:.2f}%">'
        "<i></i><b></b></span>"
    )
    return (
        f'<tr><th scope="row">{escape(name)}</th><td class="n">{images:,}</td><td class="n">{percent(accuracy)}</td>'
        f'<td class="n">{100 * low:.0f} to {100 * high:.0f}\u202f%</td><td>{bar}</td><td>{taken_for}</td></tr>'
    )
