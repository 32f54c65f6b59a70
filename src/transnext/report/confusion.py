"""Confusion matrices as tables."""

from collections.abc import Sequence

import numpy as np

from transnext.report.text import escape, percent

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


def confusion_of_split(
    split: str, confusion: np.ndarray, names: Sequence[str], summary: str, *, noun: str = "image", opened: bool = True
) -> str:
    """A fold-out: the matrix, or nothing but pairs where there are too many classes.

    Args:
        split: Name of the split.
        confusion: What is counted by true class (rows) and predicted class (columns), `[classes, classes]`, integers.
        names: Of the classes.
        summary: What is beside the name of the split, for example how many mistakes there are.
        noun: What is counted.
        opened: Show it unfolded.

    Raises:
        ValueError: The matrix does not fit the names.
    """
    if confusion.shape != (len(names), len(names)):
        raise ValueError(
            f"the confusion matrix of split {split!r} has shape {confusion.shape}, "
            f"but there are {len(names)} class names"
        )
    names = [escape(name) for name in names]
    matrix = _matrix(split, confusion, names) if len(names) <= MAX_CLASSES else ""
    unfolded = ' open="open"' if opened else ""
    return (
        f'<details class="split"{unfolded}>'
        f"<summary>{escape(split)} <small>{escape(summary)}</small></summary>"
        f'<div class="confusion">{matrix}{_pairs(confusion, names, noun)}</div></details>'
    )


def _matrix(split: str, confusion: np.ndarray, names: Sequence[str]) -> str:
    totals = confusion.sum(axis=1)
    head = "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    rows = []
    for i, name in enumerate(names):
        cells = [
            _cell(name, names[j], int(images), int(totals[i]), correct=i == j) for j, images in enumerate(confusion[i])
        ]
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    size = "matrix" if len(names) <= ROOMY_CLASSES else "matrix dense"
    label = f"Confusion matrix of {escape(split)}"
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


def _pairs(confusion: np.ndarray, names: Sequence[str], noun: str) -> str:
    pairs = most_confused(confusion, MAX_PAIRS if len(names) <= MAX_CLASSES else 2 * MAX_PAIRS)
    if not pairs:
        return '<p class="note">No mistakes.</p>'
    totals = confusion.sum(axis=1)
    rows = "".join(
        f'<tr><td>{names[true]}</td><td>{names[predicted]}</td><td class="n">{images:,}</td>'
        f'<td class="n">{percent(images / totals[true], 0)}</td></tr>'
        for true, predicted, images in pairs
    )
    return (
        '<div class="pairs"><table><caption>Most confused</caption><thead><tr><th scope="col">True</th>'
        f'<th scope="col">Predicted</th><th scope="col" class="n">{noun.capitalize()}s</th>'
        f'<th scope="col" class="n">Of the class</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )
