"""How results of a detector are shown on a page: precision, curves, confusion, mistakes, attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from transnext.data import Source
from transnext.report.charts import LINE_STYLES, Series, line_chart
from transnext.report.confusion import MAX_CLASSES, confusion_of_split
from transnext.report.parts import Section
from transnext.report.pictures import inline_picture
from transnext.report.tables import NO_SPLIT, class_table, rate_cell, scrolled, share_bar, split_folds, split_notes
from transnext.report.text import count, escape, percent, percent_of
from transnext.tasks.detection.coco_eval import AREAS, AT_50, CocoNumbers
from transnext.tasks.detection.mistakes import KINDS, Mark, kinds_of_mistakes, surest_right, worst_false, worst_missed
from transnext.tasks.detection.pictures import attention_of, has_attention, part_with
from transnext.tasks.detection.results import DetectionResult, class_numbers
from transnext.tasks.task import Look

MAX_MISTAKES = 16
"""Pictures of mistakes, shared among the splits."""
MAX_ATTENTION = 4
"""Objects shown with attention, two pictures each, shared among the splits."""
MAX_ROWS = 60
"""Classes listed for a split, worst first."""
MAX_CLASS_CHARTS = 3
"""Charts of the curves of classes, of as many lines each as there are styles."""
THRESHOLDS = np.linspace(0, 1, 51)
QUARTERS = (0, 0.25, 0.5, 0.75, 1)

TITLES = {
    "AP": "AP, at overlaps of .5 to .95",
    "AP50": "AP50, at an overlap of .5",
    "AP75": "AP75, at an overlap of .75",
    "AP_small": "AP of small objects, below 32² pixels",
    "AP_medium": "AP of medium objects, up to 96² pixels",
    "AP_large": "AP of large objects",
    "AR_1": "AR with 1 object of a class in an image",
    "AR_10": "AR with 10",
    "AR": "AR with {limit}",
    "AR_small": "AR of small objects",
    "AR_medium": "AR of medium objects",
    "AR_large": "AR of large objects",
}


def sections_of(results: Sequence[DetectionResult], classes: Sequence[str], look: Look) -> list[Section]:
    """The sections of a page.

    Args:
        results: Of each split.
        classes: Name of each class.
        look: The weights that they come from, and images.

    Raises:
        ValueError: A confusion matrix does not fit `classes`.
    """
    # The training images were seen over and over: the ones to look at are those of the other splits.
    others = [result for result in results if result.split != "train" or len(results) == 1]
    return [
        Section(key="average-precision", title="Average precision", html=precision_section(results)),
        Section(key="precision-recall", title="Precision and recall", html=curves_section(results)),
        Section(key="confusion", title="What is taken for what", html=confusion_section(results, classes)),
        Section(key="mistakes", title="Worst mistakes", html=mistakes_section(others, look)),
        Section(key="attention", title="Where it looks", html=attention_section(others, look)),
    ]


def precision_section(results: Sequence[DetectionResult]) -> str:
    """COCO's twelve numbers of each split, and a fold-out for its classes, the first that is not `train` open."""
    if not results:
        return NO_SPLIT
    columns: list[tuple[str, CocoNumbers]] = []
    for result in results:
        outlines = [] if result.masks is None else [(f"{result.split}, outlines", result.masks)]
        columns += [*outlines, (f"{result.split}, boxes", result.boxes)]
    limits = "/".join(str(limit) for limit in sorted({numbers.limit for _, numbers in columns}))
    summaries = [numbers.summary for _, numbers in columns]
    head = "".join(f'<th scope="col" class="n">{escape(title)}</th>' for title, _ in columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(title.format(limit=limits))}</th>'
        f"{''.join(rate_cell(summary[key]) for summary in summaries)}</tr>"
        for key, title in TITLES.items()
    )
    folds = split_folds(results, lambda one: count(len(one.outcomes.object_label), "object"), _class_table)
    return (
        f"{scrolled('Numbers of COCO', f'<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody>')}"
        f'<p class="note">AP: average precision, AR: average recall, means over classes, as COCO defines them. A dash: '
        f"no such object.</p>{split_notes(results)}<h3>Classes</h3>{folds}"
    )


def _class_table(result: DetectionResult) -> str:
    objects, numbers = result.class_objects, result.main
    average = numbers.class_ap[:, 0]
    present = np.flatnonzero(objects)
    order = present[np.argsort(average[present], kind="stable")]
    at_threshold = result.class_rates
    rows = []
    all_numbers, box_average = class_numbers(numbers), result.boxes.class_ap[:, 0].tolist()
    for label in order[:MAX_ROWS].tolist():
        own = all_numbers[label]
        boxes = "" if result.masks is None else rate_cell(box_average[label])
        areas = "".join(rate_cell(own[f"AP_{area}"]) for area in AREAS[1:])
        rows.append(
            f'<tr><th scope="row">{escape(result.classes[label])}</th><td class="n">{int(objects[label]):,}</td>'
            f"{rate_cell(own['AP'])}{share_bar(own['AP'])}{boxes}{rate_cell(own['AP50'])}{areas}"
            f"{''.join(rate_cell(rate) for rate in at_threshold[label].tolist())}</tr>"
        )
    titles = ["Objects", "AP", "", *([] if result.masks is None else ["Box AP"]), "AP50"]
    titles += ["small", "medium", "large", "Precision", "Recall", "F1"]
    more, absent = len(order) - MAX_ROWS, len(objects) - len(present)
    notes = [f"Precision, recall and F1: with scores of at least {percent(result.threshold)}."]
    notes += [] if result.masks is None else ["AP is that of outlines."]
    notes += [f"{count(more)} more, better than these."] if more > 0 else []
    notes += [f"{count(absent)} {'class has' if absent == 1 else 'classes have'} no object."] if absent else []
    return f'{class_table(f"Classes of {result.split}", titles, rows)}<p class="note">{" ".join(notes)}</p>'


def curves_section(results: Sequence[DetectionResult]) -> str:
    """Charts of each split: precision by recall, precision and recall by threshold, and curves of classes."""
    charts = [chart for result in results for chart in _charts(result) if chart]
    if not charts:
        return ""
    lead = (
        "Found is what overlaps an object of its class by half. Precision by recall is drawn as COCO does: the highest "
        "precision that any threshold gives at such a recall; beside each name its average. By threshold, beside each "
        "name its value at the threshold."
    )
    return f'<p class="lead">{lead}</p><div class="charts">{"".join(charts)}</div>'


def _charts(result: DetectionResult) -> list[str]:
    by_class = result.main.precision[AT_50, ..., 0]
    recalls = np.linspace(0, 1, len(by_class))
    present = np.flatnonzero(~np.isnan(by_class).any(0))
    if not len(present):
        return []

    def curve(name: str, precision: np.ndarray, style: str) -> Series:
        points = list(zip(recalls[::2].tolist(), precision[::2].tolist(), strict=True))
        return Series(label=name, points=points, style=style, figure=percent(float(precision.mean())))

    def recall_chart(title: str, series: Sequence[Series]) -> str:
        return line_chart(
            f"{result.split}: {title}", series, percent_of, (0, 1), x_name="recall", x_ticks=QUARTERS, covers=(0, 1)
        )

    charts = [recall_chart("precision", [curve("mean over classes", by_class[:, present].mean(1), LINE_STYLES[0])])]
    rates = np.array([result.sweep.at(float(threshold)) for threshold in THRESHOLDS])
    chosen = result.sweep.at(result.threshold)
    lines = [
        Series(
            label=name,
            points=list(zip(THRESHOLDS.tolist(), rates[:, i].tolist(), strict=True)),
            style=LINE_STYLES[i],
            figure=percent(chosen[i]),
        )
        for i, name in enumerate(("precision", "recall", "F1"))
    ]
    title = f"{result.split}: by threshold, {percent(result.threshold)}"
    charts.append(line_chart(title, lines, percent_of, (0, 1), x_name="threshold", x_ticks=QUARTERS, covers=(0, 1)))
    if len(present) > 1:
        most = present[np.argsort(-result.class_objects[present], kind="stable")]
        step = len(LINE_STYLES)
        for first in range(0, min(len(most), MAX_CLASS_CHARTS * step), step):
            group = most[first : first + step].tolist()
            series = [
                curve(result.classes[label], by_class[:, label], style)
                for label, style in zip(group, LINE_STYLES, strict=False)
            ]
            charts.append(recall_chart("precision of classes", series))
    return charts


def confusion_section(results: Sequence[DetectionResult], classes: Sequence[str]) -> str:
    """A fold-out for each split, the first open: classes and background."""
    if not results:
        return NO_SPLIT
    names = [*classes, "background"]
    parts = []
    for i, result in enumerate(results):
        missed, invented = int(result.confusion[:-1, -1].sum()), int(result.confusion[-1].sum())
        summary = f"scores of at least {percent(result.threshold)}: {missed:,} missed, {invented:,} on background"
        parts.append(confusion_of_split(result.split, result.confusion, names, summary, noun="object", opened=i == 0))
    note = (
        "Rows are the true class, columns the found one; the colour of a cell is its share of the row. In the last row "
        "is what was found where there is no such object, in the last column what was missed."
    )
    return (f'<p class="note">{note}</p>' if len(names) <= MAX_CLASSES else "") + "".join(parts)


def mistakes_section(results: Sequence[DetectionResult], look: Look) -> str:
    """Pictures of what is wrong with the highest scores, and of the largest objects that were missed."""
    if not results:
        return ""
    each = max(1, MAX_MISTAKES // (2 * len(results)))
    parts = []
    for result in results[: MAX_MISTAKES // 2]:
        false, missed = worst_false(result, each), worst_missed(result, each)
        kinds = kinds_of_mistakes(result)
        counts = np.bincount(kinds[kinds >= 0], minlength=len(KINDS)).tolist()
        wrong = ", ".join(f"{number:,} {kind}" for number, kind in zip(counts, KINDS, strict=True) if number)
        parts.append(_cards(f"{result.split}: wrongly found", wrong, false, result, look))
        confused = int(result.confusion[:-1, :-1].sum() - np.trace(result.confusion))
        unseen = int(result.confusion[:-1, -1].sum())
        lost = f"{count(unseen + confused, 'object')}, {confused:,} of them taken for another class"
        parts.append(_cards(f"{result.split}: missed", lost, missed, result, look))
    shown = "".join(parts)
    if not shown:
        return '<p class="note">No mistakes.</p>'
    lead = (
        "Of what counts at the threshold, the wrong ones of the highest scores and the missed ones that fill most of "
        "their image. Orange is what was found, blue what is there."
    )
    return f'<p class="lead">{lead}</p>{shown}'


def _cards(title: str, summary: str, marks: Sequence[Mark], result: DetectionResult, look: Look) -> str:
    pictures = partial(_part, result=result, source=look.splits[result.split])
    return _list(title, summary, marks, result, pictures, "wrong", "cards small")


def _part(mark: Mark, result: DetectionResult, source: Source) -> str:
    picture = part_with(mark, result, source)
    return "" if picture is None else inline_picture(picture, f"{result.classes[mark.label]}, {mark.reason}")


def attention_section(results: Sequence[DetectionResult], look: Look) -> str:
    """Some found objects with the attention of the backbone from their middle; empty if it has none to show."""
    if not results or not has_attention(look.net):
        return ""
    each = max(1, MAX_ATTENTION // len(results))
    parts = []
    for result in results[:MAX_ATTENTION]:
        pictures = partial(_attention, result=result, look=look)
        parts.append(_list(result.split, "", surest_right(result, each), result, pictures, "right", "cards"))
    shown = "".join(parts)
    caption = (
        "The picture on the right shows the attention of the last aggregated-attention stage of the backbone from the "
        "middle of the box, the ring. Bright places get the most of it and dark ones the least, averaged over heads."
    )
    return f'<p class="lead">{caption}</p>{shown}' if shown else ""


def _attention(mark: Mark, result: DetectionResult, look: Look) -> str:
    both = attention_of(mark, result, look)
    if both is None:
        return ""
    name = result.classes[mark.label]
    return inline_picture(both[0], name) + inline_picture(both[1], f"Where the model looks from the {name}")


def _list(
    title: str,
    summary: str,
    marks: Sequence[Mark],
    result: DetectionResult,
    pictures: Callable[[Mark], str],
    verdict: str,
    size: str,
) -> str:
    """Cards under a heading; empty if no picture can be shown."""
    cards = []
    for mark in marks:
        shown = pictures(mark)
        if not shown:
            continue
        name = result.names[mark.image]
        score = "" if mark.score is None else f" <span>{percent(mark.score, 0)}</span>"
        reason = f'<span class="target">{escape(mark.reason)}</span>' if mark.reason else ""
        cards.append(
            f'<li class="card {verdict}"><div class="pictures">{shown}</div><p>'
            f'<span class="mark"><span class="hidden">{verdict}: </span></span>'
            f"<b>{escape(result.classes[mark.label])}</b>{score}{reason}</p>"
            f'<p class="name" title="{escape(name)}">{escape(name)}</p></li>'
        )
    if not cards:
        return ""
    return f'<h3>{escape(title)} <small>{escape(summary)}</small></h3><ul class="{size}">{"".join(cards)}</ul>'
