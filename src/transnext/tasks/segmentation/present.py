"""How results of a segmenter are shown on a page: classes, confusion, the best and the worst pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from transnext.report.confusion import MAX_CLASSES, confusion_of_split
from transnext.report.parts import Section
from transnext.report.pictures import inline_picture
from transnext.report.tables import NO_SPLIT, class_table, rate_cell, share_bar, split_folds, split_notes
from transnext.report.text import count, escape, percent
from transnext.tasks.segmentation.draw import class_colours
from transnext.tasks.segmentation.looking import Looking
from transnext.tasks.segmentation.measures import TOLERANCE
from transnext.tasks.segmentation.panoptic_quality import PanopticQuality
from transnext.tasks.segmentation.pictures import WHOLE, Compared, chosen_images, compared
from transnext.tasks.segmentation.results import SegmentationResult
from transnext.tasks.task import Look

MAX_PICTURES = 16
"""Images shown, three pictures each, shared among the splits, half of them the worst."""
MAX_ROWS = 160
"""Classes listed for a split, worst first."""


def sections_of(
    results: Sequence[SegmentationResult], classes: Sequence[str], look: Look, how: Looking = WHOLE
) -> list[Section]:
    """The sections of a page.

    Args:
        results: Of each split.
        classes: Name of each class.
        look: The weights that they come from, and images.
        how: The network looked at pictures when the results were made.

    Raises:
        ValueError: A confusion matrix does not fit `classes`.
    """
    # The training images were seen over and over: the ones to look at are those of the other splits.
    others = [result for result in results if result.split != "train" or len(results) == 1]
    segments = segments_section(results)
    return [
        *([Section(key="segments", title="Panoptic quality of classes", html=segments)] if segments else []),
        Section(key="classes", title="Intersection over union of classes", html=classes_section(results)),
        Section(key="confusion", title="What is taken for what", html=confusion_section(results, classes)),
        Section(key="pictures", title="Worst and best pictures", html=pictures_section(others, look, how)),
    ]


def classes_section(results: Sequence[SegmentationResult]) -> str:
    """A fold-out for the classes of each split, the first that is not `train` open."""
    if not results:
        return NO_SPLIT
    folds = split_folds(results, lambda one: count(one.pixels, "labelled pixel"), _class_table)
    return (
        '<p class="lead">IoU: pixels that are of a class and named so, divided by those that are either. All numbers '
        "are of the pixels of all images together; means are over the classes that have one. Boundary F: of the pixels "
        f"at borders between classes, those within {percent(TOLERANCE, 2)} of the diagonal of a right one.</p>"
        f"{folds}{split_notes(results)}"
    )


def _class_table(result: SegmentationResult) -> str:
    _, true, predicted = result.areas.sum(0)
    present = np.flatnonzero(true + predicted)
    order = present[np.argsort(result.iou[present], kind="stable")]
    rows = []
    for label in order[:MAX_ROWS].tolist():
        iou = float(result.iou[label])
        numbers = (result.accuracy[label], result.dice[label], result.boundary_f[label])
        rows.append(
            f'<tr><th scope="row">{escape(result.classes[label])}</th>'
            f"{rate_cell(true[label] / max(1, result.pixels), 2)}{rate_cell(iou)}{share_bar(iou)}"
            f"{''.join(rate_cell(float(value)) for value in numbers)}</tr>"
        )
    titles = ("Share of pixels", "IoU", "", "Accuracy", "Dice", "Boundary F")
    more, absent = len(order) - MAX_ROWS, len(result.classes) - len(present)
    notes = [f"{count(more)} more, better than these."] if more > 0 else []
    notes += (
        [f"{count(absent)} {'class is' if absent == 1 else 'classes are'} neither there nor found."] if absent else []
    )
    table = class_table(f"Classes of {result.split}", titles, rows)
    return table + (f'<p class="note">{" ".join(notes)}</p>' if notes else "")


def segments_section(results: Sequence[SegmentationResult]) -> str:
    """A fold-out for the segments of each split; empty where none are told."""
    told = [(result, result.panoptic) for result in results if result.panoptic is not None]
    if not told:
        return ""
    folds = split_folds(
        [result for result, _ in told],
        lambda one: count(int(one.panoptic.pairs.sum() + one.panoptic.missed.sum()), "segment"),
        lambda one: _segment_table(one, one.panoptic),
    )
    return (
        '<p class="lead">PQ = SQ x RQ. A true and a found segment of a class are a pair if they have more than half of '
        "their union in common. SQ: the mean intersection over union of pairs; RQ: pairs, divided by them and half of "
        "the segments without one. Objects that are not told apart and pixels where nothing is known do not count "
        f"(the rules of COCO). Means are over the classes that have one.</p>{folds}"
    )


def _segment_table(result: SegmentationResult, found: PanopticQuality) -> str:
    rates = (found.quality, found.segmentation, found.recognition)
    rows = []
    for title, which in (("All", None), ("Things", True), ("Stuff", False)):
        means = found.means(which)
        if means["classes"]:
            values = [means[name] for name in ("PQ", "SQ", "RQ")]
            number = int(means["classes"])
            rows.append(_segment_row(f"{title} ({number:,} {'class' if number == 1 else 'classes'})", values))
    present = np.flatnonzero(~np.isnan(found.quality))
    order = present[np.argsort(found.quality[present], kind="stable")]
    for label in order[:MAX_ROWS].tolist():
        counts = (found.pairs[label], found.missed[label], found.wrong[label])
        rows.append(
            _segment_row(result.classes[label], [rate[label] for rate in rates], bool(found.things[label]), counts)
        )
    titles = ("PQ", "", "SQ", "RQ", "Things or stuff", "Found", "Missed", "Wrong")
    table = class_table(f"Panoptic quality of classes of {result.split}", titles, rows)
    more = len(order) - MAX_ROWS
    return table + (f'<p class="note">{count(more)} more, better than these.</p>' if more > 0 else "")


def _segment_row(
    name: str, values: Sequence[float], thing: bool | None = None, counts: Sequence[object] = ("", "", "")
) -> str:
    quality, *others = map(float, values)
    kind = "" if thing is None else "things" if thing else "stuff"
    cells = "".join(f'<td class="n">{cell}</td>' for cell in (kind, *counts))
    return (
        f'<tr><th scope="row">{escape(name)}</th>{rate_cell(quality)}{share_bar(quality)}'
        f"{''.join(rate_cell(value) for value in others)}{cells}</tr>"
    )


def confusion_section(results: Sequence[SegmentationResult], classes: Sequence[str]) -> str:
    """A fold-out for each split, the first open."""
    if not results:
        return NO_SPLIT
    parts = []
    for i, result in enumerate(results):
        wrong = result.pixels - int(np.trace(result.confusion))
        share = percent(wrong / result.pixels if result.pixels else None)
        summary = f"{count(wrong, 'pixel')} wrong, {share} of those that are labelled"
        parts.append(confusion_of_split(result.split, result.confusion, classes, summary, noun="pixel", opened=i == 0))
    note = "Pixels. Rows are the true class, columns the predicted one; the colour of a cell is its share of the row."
    return (f'<p class="note">{note}</p>' if len(classes) <= MAX_CLASSES else "") + "".join(parts)


def pictures_section(results: Sequence[SegmentationResult], look: Look, how: Looking = WHOLE) -> str:
    """Some images of each split with their maps, the worst and the best."""
    if not results:
        return ""
    each = max(1, MAX_PICTURES // (2 * len(results)))
    parts = []
    for result in results[: MAX_PICTURES // 2]:
        given = getattr(look.splits[result.split], "colours", None)
        colours = class_colours(len(result.classes), given)
        worst, best = chosen_images(result, each)
        parts.append(_list(f"{result.split}: worst", "wrong", worst, result, look, colours, how))
        parts.append(_list(f"{result.split}: best", "right", best, result, look, colours, how))
    shown = "".join(parts)
    lead = (
        "By the mean IoU of the classes in each image. From left to right: the map, what the model says, and where "
        "they differ, in orange; dark is what is not labelled."
    )
    if any(result.panoptic for result in results):
        lead += " Each object has a colour of its own; where classes differ is shown, not where objects do."
    return f'<p class="lead">{lead}</p>{shown}' if shown else ""


def _list(
    title: str,
    verdict: str,
    images: Sequence[int],
    result: SegmentationResult,
    look: Look,
    colours: npt.NDArray[np.uint8],
    how: Looking,
) -> str:
    """Cards under a heading; empty if no image can be shown."""
    cards = []
    for image in images:
        found = compared(image, result, look, colours, how)
        if found is not None:
            cards.append(_card(image, found, result, verdict))
    return f'<h3>{escape(title)}</h3><ul class="cards wide">{"".join(cards)}</ul>' if cards else ""


def _card(image: int, found: Compared, result: SegmentationResult, verdict: str) -> str:
    name, score = result.names[image], float(result.image_iou[image])
    reason = ""
    if found.wrong is not None:
        true, predicted = (escape(result.classes[label]) for label in found.wrong)
        reason = f'<span class="target">mostly {true} taken for {predicted}</span>'
    pictures = (
        inline_picture(found.true, "The map")
        + inline_picture(found.predicted, "What the model says")
        + inline_picture(found.difference, "Where they differ")
    )
    shown = "no number" if math.isnan(score) else f"mean IoU {percent(score)}"
    return (
        f'<li class="card {verdict}"><div class="pictures">{pictures}</div><p>'
        f'<span class="mark"><span class="hidden">{verdict}: </span></span><b>{shown}</b>{reason}</p>'
        f'<p class="name" title="{escape(name)}">{escape(name)}</p></li>'
    )
