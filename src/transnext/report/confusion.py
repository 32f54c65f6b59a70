"""What is taken for what: the confusion matrix of each split and its largest entries off the diagonal."""

from collections.abc import Sequence

import numpy as np

from transnext.report.text import count, escape, percent
from transnext.tasks.classification.results import SplitResult

MAX_CLASSES = 50
"""Classes up to which the matrix is drawn."""
MAX_PAIRS = 12
ROOMY_CLASSES = 25
"""Classes up to which cells have full size."""


def most_confused(confusion: np.ndarray, limit: int) -> list[tuple[int, int, int]]:
    """The pairs of different classes with most images.

    Args:
        confusion: Images by true class (rows) and predicted class (columns), `[classes, classes]`, integers.
        limit: Pairs to return at most.

    Returns:
        True class, predicted class, images (at least 1); most first, then by class.
    """
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    true, predicted = np.nonzero(mistakes)
    images = mistakes[true, predicted]
    order = np.argsort(-images, kind="stable")[:limit]
    return [(int(true[i]), int(predicted[i]), int(images[i])) for i in order]


def confusion_section(results: Sequence[SplitResult], class_names: Sequence[str]) -> str:
    """A fold-out for each split, the first open: matrix, or nothing but pairs where there are too many classes."""
    if not results:
        return '<p class="note">No split was evaluated.</p>'
    names = [escape(name) for name in class_names]
    opened = ' open="open"'
    parts = []
    for i, result in enumerate(results):
        if result.confusion.shape != (len(names), len(names)):
            raise ValueError(
                f"the confusion matrix of split {result.split!r} has shape {result.confusion.shape}, "
                f"but there are {len(names)} class names"
            )
        wrong = result.num_images - int(np.trace(result.confusion))
        matrix = _matrix(result, names) if len(names) <= MAX_CLASSES else ""
        parts.append(
            f'<details class="split"{opened if i == 0 else ""}>'
            f"<summary>{escape(result.split)} <small>{count(wrong, 'mistake')} in {count(result.num_images, 'image')}"
            f'</small></summary><div class="confusion">{matrix}{_pairs(result, names)}</div></details>'
        )
    note = "Rows are the true class, columns the predicted one; the colour of a cell is its share of the row."
    return (f'<p class="note">{note}</p>' if len(names) <= MAX_CLASSES else "") + "".join(parts)


def _matrix(result: SplitResult, names: Sequence[str]) -> str:
    confusion = result.confusion
    totals = confusion.sum(axis=1)
    head = "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    rows = []
    for i, name in enumerate(names):
        cells = [
            _cell(name, names[j], int(images), int(totals[i]), correct=i == j) for j, images in enumerate(confusion[i])
        ]
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    size = "matrix" if len(names) <= ROOMY_CLASSES else "matrix dense"
    label = f"Confusion matrix of {escape(result.split)}"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="{size}">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(true: str, predicted: str, images: int, total: int, correct: bool) -> str:
    if images == 0:
        return "<td></td>"
    share = images / total
    # The least of the mistakes must still be seen.
    alpha = 0.15 + 0.85 * share
    kind = "ok" if correct else "no"
    title = f"{true}, predicted {predicted}: {images:,} of {total:,} ({percent(share, 0)})"
    return f'<td class="{kind}" style="--v:{alpha:.2f}" title="{title}">{images}</td>'


def _pairs(result: SplitResult, names: Sequence[str]) -> str:
    pairs = most_confused(result.confusion, MAX_PAIRS if len(names) <= MAX_CLASSES else 2 * MAX_PAIRS)
    if not pairs:
        return '<p class="note">No mistakes.</p>'
    totals = result.confusion.sum(axis=1)
    rows = "".join(
        f'<tr><td>{names[true]}</td><td>{names[predicted]}</td><td class="n">{images:,}</td>'
        f'<td class="n">{percent(images / totals[true], 0)}</td></tr>'
        for true, predicted, images in pairs
    )
    return (
        '<div class="pairs"><table><caption>Most confused</caption><thead><tr><th scope="col">True</th>'
        '<th scope="col">Predicted</th><th scope="col" class="n">Images</th>'
        f'<th scope="col" class="n">Of the class</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )
