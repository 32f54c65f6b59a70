"""Sections of a page about a classifier: predictions, confusion, classes, calibration."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from transnext.data import Source
from transnext.data.preprocessing import picture
from transnext.explain import where_it_looks
from transnext.explain.figures import on_white, overlay
from transnext.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from transnext.report.parts import Section
from transnext.report.text import count, escape, percent
from transnext.tasks.classification.intervals import wilson_interval
from transnext.tasks.classification.results import Prediction, SplitResult
from transnext.tasks.task import Look

EXAMPLES_PER_SPLIT = 12


def sections_of(results: Sequence[SplitResult], class_names: Sequence[str], look: Look) -> list[Section]:
    """The sections of a page.

    Args:
        results: Of each split.
        class_names: Name of each class.
        look: The weights that they come from, and images.

    Raises:
        ValueError: A confusion matrix does not fit `class_names`.
    """
    examples: list[Example] = []
    for result in results:
        # The training images were seen over and over: the ones to look at are those of the other splits.
        if result.split != "train" or len(results) == 1:
            examples += _examples(result, look.splits[result.split], class_names, look)
    return page_sections(results, class_names, examples)


def page_sections(
    results: Sequence[SplitResult], class_names: Sequence[str], examples: Sequence["Example"]
) -> list[Section]:
    """The sections of a page, with predictions to show, in order; beyond 48 the page shows some of each split."""
    return [
        Section(key="predictions", title="Predictions", html=examples_section(examples)),
        Section(key="confusion", title="What is taken for what", html=confusion_section(results, class_names)),
        Section(key="classes", title="Classes", html=classes_section(results, class_names)),
        Section(key="calibration", title="Calibration", html=calibration_section(results)),
    ]


def _examples(result: SplitResult, source: Source, class_names: Sequence[str], look: Look) -> list["Example"]:
    """Some images of a split, half of them wrong if there are so many, spread over the split."""
    wrong = [p for p in result.predictions if p.predicted != p.target]
    right = [p for p in result.predictions if p.predicted == p.target]
    num_wrong = min(len(wrong), max(EXAMPLES_PER_SPLIT // 2, EXAMPLES_PER_SPLIT - len(right)))
    chosen = _spread(wrong, num_wrong) + _spread(right, EXAMPLES_PER_SPLIT - num_wrong)
    if not chosen:
        return []
    transform, min_side = look.preprocessing.transform(), look.preprocessing.min_side()
    images = torch.stack([transform(source.load(p.index, min_side)) for p in chosen])
    heats = _heats(look, images)
    return [
        Example(
            split=result.split,
            name=p.name,
            image=picture(x),
            target=class_names[p.target],
            predicted=class_names[p.predicted],
            probability=p.probability,
            heat=heat,
        )
        for p, x, heat in zip(chosen, images, heats, strict=True)
    ]


def _heats(look: Look, images: Tensor) -> list[np.ndarray | None]:
    device = next(look.net.parameters()).device
    try:
        heats = where_it_looks(look.net, look.preprocessing.normalise(device)(images.to(device)))
    except ValueError:  # a model without aggregated attention, trained for comparison
        return [None] * len(images)
    return list(heats.cpu().numpy())


def _spread(items: Sequence[Prediction], count: int) -> list[Prediction]:
    """`count` items at even distances, so that not all are of the first class."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


MAX_EXAMPLES = 48
"""Shown in all, shared evenly among the splits; keeps the page small."""
PIXELS = 2 * MAX_EXAMPLES * 224**2
"""Of all pictures: they have their own size, unless that makes the page too large."""
QUALITY = 82
CENTRE = (0.5, 0.5)

CAPTION = (
    "The picture on the right shows the attention of the last aggregated-attention stage from the centre of the image, "
    "the ring: a small window around it seen in full detail, and a pooled view of the whole image, under one softmax. "
    "Bright places get the most of that attention and dark ones the least, averaged over heads."
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prediction to show.

    Attributes:
        split: Split that the image belongs to.
        name: Path or name of the image.
        image: The image as the model saw it, RGB, cut and scaled but not normalised. It is shown at its own size if
            the page has room.
        target: Name of the true class.
        predicted: Name of the class of the highest probability.
        probability: That probability, 0..1.
        heat: Where the model looks from the image centre, `[H, W]`, 0..1, as `transnext.explain.where_it_looks` gives
            it; None to show the image alone.
    """

    split: str
    name: str
    image: Image.Image
    target: str
    predicted: str
    probability: float
    heat: np.ndarray | None


def examples_section(examples: Sequence[Example]) -> str:
    """The examples by split, mistakes first."""
    if not examples:
        return '<p class="note">No predictions were kept for this page.</p>'
    by_split: dict[str, list[Example]] = {}
    for example in examples:
        by_split.setdefault(example.split, []).append(example)
    limit = max(1, MAX_EXAMPLES // len(by_split))
    parts = [f'<p class="lead">{CAPTION}</p>'] if any(e.heat is not None for e in examples) else []
    by_split = {split: _balanced(group, limit) for split, group in by_split.items()}
    pictures = sum(1 if e.heat is None else 2 for group in by_split.values() for e in group)
    side = math.isqrt(PIXELS // pictures)
    for split, group in by_split.items():
        size = "cards" if any(e.heat is not None for e in group) else "cards small"
        wrong = sum(e.target != e.predicted for e in group)
        parts.append(
            f"<h3>{escape(split)} <small>{count(len(group) - wrong)} right, {count(wrong)} wrong shown</small></h3>"
            f'<ul class="{size}">{"".join(_card(example, side) for example in group)}</ul>'
        )
    return "".join(parts)


def _balanced(group: Sequence[Example], limit: int) -> list[Example]:
    """At most `limit` examples, wrong ones first; as many of each kind as there are, up to half."""
    wrong = [e for e in group if e.target != e.predicted]
    right = [e for e in group if e.target == e.predicted]
    num_wrong = min(len(wrong), max(limit // 2, limit - len(right)))
    return wrong[:num_wrong] + right[: limit - num_wrong]


def _card(example: Example, side: int) -> str:
    """An example, its pictures at most `side` pixels wide and high."""
    correct = example.target == example.predicted
    picture = on_white(example.image)
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    pictures = _img(picture, f"{example.name}, {example.target}")
    if example.heat is not None:
        where = overlay(picture, example.heat, position=CENTRE)
        pictures += _img(where, f"Where the model looks in {example.name}")
    verdict = "right" if correct else "wrong"
    target = "" if correct else f'<span class="target">is {escape(example.target)}</span>'
    return (
        f'<li class="card {verdict}"><div class="pictures">{pictures}</div><p>'
        f'<span class="mark"><span class="hidden">{verdict}: </span></span>'
        f"<b>{escape(example.predicted)}</b> <span>{percent(example.probability, 0)}</span>{target}</p>"
        f'<p class="name" title="{escape(example.name)}">{escape(example.name)}</p></li>'
    )


def _img(image: Image.Image, alt: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" width="{image.width}" height="{image.height}"/>'
    )


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
        f"</summary>{_class_table(result, class_names)}</details>"
        for result in results
    ]
    note = "With 95\u202f% Wilson intervals: of a class of few images, little can be said."
    return f'<p class="note">{note}</p>{"".join(parts)}'


def _class_table(result: SplitResult, class_names: Sequence[str]) -> str:
    images, right = result.class_images, result.confusion.diagonal()
    present = np.flatnonzero(images)
    worst_first = present[np.argsort(result.class_accuracy[present], kind="stable")]
    rows = "".join(
        _class_row(class_names[i], int(right[i]), int(images[i]), result.confusion[i], i, class_names)
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


def _class_row(name: str, right: int, images: int, predicted: np.ndarray, true: int, class_names: Sequence[str]) -> str:
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


def calibration_section(results: Sequence[SplitResult]) -> str:
    """A diagram of confidence against accuracy for each split."""
    results = [result for result in results if result.num_images]
    if not results:
        return ""
    return (
        '<p class="note">Images sorted by the probability of the predicted class. Bars show how many are right; on '
        "the dashed line, as many as the probability says. Red is what is claimed and not kept. ECE is the expected "
        "calibration error: the mean distance from the line over all images.</p>"
        f'<div class="charts">{"".join(_diagram(result) for result in results)}</div>'
    )


def _diagram(result: SplitResult) -> str:
    bins = result.calibration
    error = percent(bins.expected_error)
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = _y(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * tick:g}\u202f%</text>')
        label = f"{100 * tick:g}\u202f%"
        parts.append(f'<text x="{_x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>')
    width = (_x(1) - _x(0)) / len(bins.counts)
    for i in np.flatnonzero(bins.counts):
        confidence, accuracy = float(bins.confidence[i]), float(bins.accuracy[i])
        left = _x(i / len(bins.counts)) + 0.75
        title = escape(f"said {percent(confidence)}, right {percent(accuracy)}: {count(int(bins.counts[i]), 'image')}")
        parts.append(_bar("level", left, width - 1.5, 0, accuracy))
        if confidence > accuracy:
            parts.append(_bar("gap", left, width - 1.5, accuracy, confidence))
        parts.append(
            f'<rect class="hit" x="{left:.1f}" y="{TOP}" width="{width - 1.5:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{title}</title></rect>'
        )
    parts.append(f'<path class="ideal" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}"/>')
    middle = (_x(0) + _x(1)) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 3}" text-anchor="middle">probability of the prediction</text>')
    name = escape(result.split)
    label = escape(f"Reliability on {result.split}: expected calibration error {error}")
    return (
        f'<figure class="chart"><figcaption>{name}<ul class="legend"><li>ECE <b>{error}</b></li></ul></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg></figure>'
    )


def _bar(style: str, left: float, width: float, low: float, high: float) -> str:
    return (
        f'<rect class="{style}" x="{left:.1f}" y="{_y(high):.1f}" width="{width:.1f}" '
        f'height="{_y(low) - _y(high):.1f}"/>'
    )


def _x(fraction: float) -> float:
    return LEFT + fraction * (WIDTH - LEFT - RIGHT)


def _y(fraction: float) -> float:
    return TOP + (1 - fraction) * (HEIGHT - TOP - BOTTOM)
