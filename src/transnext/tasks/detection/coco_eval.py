"""The numbers of COCO: average precision and recall, by faster-coco-eval, without a file in between."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transnext.data.instances import Annotation
from transnext.tasks.detection.placing import Placed

Floats = npt.NDArray[np.float64]
AREAS = ("all", "small", "medium", "large")
"""Sizes of objects by their annotated area: below 32², up to 96², and above, pixels."""
IOU_THRESHOLDS = 10
"""Least overlaps that count as found: .5, .55, .. .95."""
AT_50, AT_75 = 0, 5
COCO_LIMIT = 100
"""Objects of a class in an image that COCO looks at."""
LIMIT_STEP = 100


@dataclass(frozen=True)
class Judged:
    """An image with what is in it and what was found.

    Attributes:
        index: Its place in the source.
        truth: What is in it.
        found: What a network found.
    """

    index: int
    truth: Annotation
    found: Placed


@dataclass(frozen=True, kw_only=True)
class CocoNumbers:
    """COCO's numbers for boxes, or for masks.

    Everything is a fraction, 0..1, and NaN where there is no object to find.

    Attributes:
        precision: float64 `[overlaps, 101, classes, areas]`: the highest at a recall of at least 0, .01, .. 1.
        recall: float64 `[overlaps, classes, areas]`: the highest.
        recall_of_few: float64 `[2]`: mean recall with 1 and with 10 objects of a class in an image.
        limit: Objects of a class in an image that were looked at, the likeliest first.
    """

    precision: Floats
    recall: Floats
    recall_of_few: Floats
    limit: int

    @property
    def summary(self) -> dict[str, float]:
        """The twelve numbers, in the order of COCO; `AR` is that with `limit` objects."""
        precision, recall = self.precision, self.recall
        numbers = {"AP": _mean(precision[..., 0])}
        numbers |= {"AP50": _mean(precision[AT_50, ..., 0]), "AP75": _mean(precision[AT_75, ..., 0])}
        numbers |= {f"AP_{area}": _mean(precision[..., i]) for i, area in enumerate(AREAS) if i}
        numbers |= {"AR_1": float(self.recall_of_few[0]), "AR_10": float(self.recall_of_few[1])}
        numbers["AR"] = _mean(recall[..., 0])
        numbers |= {f"AR_{area}": _mean(recall[..., i]) for i, area in enumerate(AREAS) if i}
        return numbers

    @property
    def class_ap(self) -> Floats:
        """Average precision of each class by area, `[classes, areas]`."""
        return _means(self.precision, (0, 1))

    @property
    def class_ap50(self) -> Floats:
        """Average precision of each class at an overlap of .5, `[classes]`."""
        return _means(self.precision[AT_50, ..., 0], (0,))

    @property
    def class_ar(self) -> Floats:
        """Average recall of each class, `[classes]`."""
        return _means(self.recall[..., 0], (0,))


def most_of_a_class(images: Sequence[Judged]) -> int:
    """The most objects of one class that an image has, groups left out."""
    return max((int(np.bincount(im.truth.labels[~im.truth.crowd]).max(initial=0)) for im in images), default=0)


def limit_for(images: Sequence[Judged]) -> int:
    """Objects of a class in an image to look at: COCO's 100, or as many as there are, rounded up to hundreds."""
    return max(COCO_LIMIT, -(-most_of_a_class(images) // LIMIT_STEP) * LIMIT_STEP)


def coco_numbers(images: Sequence[Judged], num_classes: int, limit: int, masks: bool = False) -> CocoNumbers:
    """Measures what was found as COCO does.

    Args:
        images: In the order that decides between equal scores.
        num_classes: Classes.
        limit: Objects of a class in an image to look at.
        masks: Compare outlines; else boxes.

    Raises:
        ValueError: An image has no outlines.
    """
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    if masks and not all(has_outlines(image) for image in images):
        raise ValueError("outlines cannot be compared: some images have boxes alone")
    truth = COCO(
        {
            "images": [
                {"id": i, "height": im.truth.size[0], "width": im.truth.size[1]} for i, im in enumerate(images, 1)
            ],
            "categories": [{"id": label + 1, "name": str(label)} for label in range(num_classes)],
            "annotations": _truths(images, masks),
        },
        print_function=_silent,
    )
    found = truth.loadRes(_founds(images, limit, masks))
    evaluation = COCOeval_faster(truth, found, "segm" if masks else "bbox", print_function=_silent)
    few = [min(1, limit), min(10, limit)]
    counts = sorted({*few, limit})
    evaluation.params.maxDets = counts
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = (_absent_as_nan(evaluation.eval[key]) for key in ("precision", "recall"))
    return CocoNumbers(
        precision=precision[..., -1],
        recall=recall[..., -1],
        recall_of_few=np.array([_mean(recall[..., 0, counts.index(number)]) for number in few]),
        limit=limit,
    )


def has_outlines(image: Judged) -> bool:
    """True if outlines of the image can be compared."""
    truth, found = image.truth, image.found
    return (truth.segmentations is not None or not len(truth)) and (found.segmentations is not None or not len(found))


def sides(boxes: npt.NDArray[np.float32]) -> Floats:
    """Boxes `[N, 4]` as left, top, width and height, float64."""
    corners = boxes.astype(np.float64).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def likeliest(labels: npt.NDArray[np.int32], limit: int) -> npt.NDArray[np.intp]:
    """Places of the first `limit` of each class."""
    if len(labels) <= limit:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < limit])


def _truths(images: Sequence[Judged], masks: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        truth = image.truth
        boxes = sides(truth.boxes).tolist()
        for i, box in enumerate(boxes):
            row = {
                "id": len(rows) + 1,  # 0 would mean "not found"
                "image_id": number,
                "category_id": int(truth.labels[i]) + 1,
                "bbox": box,
                "area": float(truth.areas[i]),
                "iscrowd": int(truth.crowd[i]),
            }
            if masks and truth.segmentations is not None:
                row["segmentation"] = truth.segmentations[i]
            rows.append(row)
    return rows


def _founds(images: Sequence[Judged], limit: int, masks: bool) -> list[dict[str, Any]]:
    """Rows of what is looked at; those with masks have no box: by it, sizes would be told instead of by the mask.

    In tiles a picture has thousands of objects that are hardly likely, and a row of each takes hundreds of bytes.
    """
    rows: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        found = image.found
        boxes = [] if masks else sides(found.boxes).tolist()
        for i in likeliest(found.labels, limit).tolist():
            row = {"image_id": number, "category_id": int(found.labels[i]) + 1, "score": float(found.scores[i])}
            if masks and found.segmentations is not None:
                row["segmentation"] = found.segmentations[i]
            else:
                row["bbox"] = boxes[i]
            rows.append(row)
    return rows


def _absent_as_nan(values: Any) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return np.where(array == -1, np.nan, array)


def _means(values: Floats, axes: tuple[int, ...]) -> Floats:
    """Means without NaN; NaN where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        means: Floats = np.nanmean(values, axis=axes)
    return means


def _mean(values: Floats) -> float:
    return float(_means(values.ravel(), (0,)))


def _silent(*_: object) -> None:
    """Takes what the library would print."""
