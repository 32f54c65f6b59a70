"""Match of found objects to annotated ones, by COCO's rule at an overlap of one half."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transnext.tasks.detection.coco_eval import Floats, Judged, likeliest, sides

OVERLAP = 0.5
"""Intersection over union from which on two are the same object."""
RIGHT, WRONG, LEFT_OUT = 1, 0, -1
Ints = npt.NDArray[np.int32]
Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Outcome of all found objects (`D`) and of all annotated ones (`G`, groups left out).

    Attributes:
        image: int32 `[D]`: place in the list of images.
        place: int32 `[D]`: place among what was found in the image.
        label: int32 `[D]`.
        score: float32 `[D]`.
        state: int8 `[D]`: `RIGHT`, `WRONG`, or `LEFT_OUT` where it lies on a group or the data do not name its class.
        overlap: float32 `[D]`: with its object if it is right, else the largest with any object of the image.
        nearest: int32 `[D]`: that object, a place in the arrays of `G`; -1 for none.
        object_image: int32 `[G]`.
        object_place: int32 `[G]`: place among the annotations of the image.
        object_label: int32 `[G]`.
        object_score: float32 `[G]`: of what found it; -inf if nothing did.
        pairs: int32 `[P, 2]`: found and annotated ones of other classes that overlap by `OVERLAP` or more, places in
            the arrays of `D` and `G`.
        pair_overlap: float32 `[P]`.
    """

    image: Ints
    place: Ints
    label: Ints
    score: Singles
    state: npt.NDArray[np.int8]
    overlap: Singles
    nearest: Ints
    object_image: Ints
    object_place: Ints
    object_label: Ints
    object_score: Singles
    pairs: Ints
    pair_overlap: Singles


def outcomes_of(
    images: Sequence[Judged], limit: int, masks: bool = False, named: Collection[int] | None = None
) -> Outcomes:
    """Matches found objects to annotated ones.

    In the order of their scores, each takes the object of its class that it overlaps most of those not taken yet; one
    that has none but lies on a group of its class is left out, and so is every one of a class that the data do not
    name: whether it is there is not known.

    Args:
        images: The images.
        limit: Objects of a class in an image to look at, the likeliest first.
        masks: Compare outlines; else boxes.
        named: Classes that the data name, whether they have an object of them or not; all if None.
    """
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    num_found = num_objects = 0
    for number, image in enumerate(images):
        one = _outcomes_of_image(image, limit, masks)
        one["nearest"] = np.where(one["nearest"] >= 0, one["nearest"] + num_objects, -1)
        one["pairs"] = one["pairs"] + np.array([num_found, num_objects])
        one["image"] = np.full(len(one["place"]), number)
        one["object_image"] = np.full(len(one["object_place"]), number)
        num_found += len(one["place"])
        num_objects += len(one["object_place"])
        for key, values in one.items():
            parts.setdefault(key, []).append(values)
    if named is not None:
        for labels, states in zip(parts["label"], parts["state"], strict=True):
            states[~np.isin(labels, list(named))] = LEFT_OUT
    return Outcomes(**{key: np.concatenate(values).astype(_DTYPES.get(key, np.int32)) for key, values in parts.items()})


_DTYPES: dict[str, type[np.generic]] = {
    "score": np.float32,
    "state": np.int8,
    "overlap": np.float32,
    "object_score": np.float32,
    "pair_overlap": np.float32,
}


def _outcomes_of_image(image: Judged, limit: int, masks: bool) -> dict[str, npt.NDArray[Any]]:
    """Arrays of `Outcomes` for one image, with places in it."""
    truth, found = image.truth, image.found
    kept = likeliest(found.labels, limit)
    labels, scores = found.labels[kept], found.scores[kept]
    all_overlaps = overlaps(image, masks)[kept]
    single = np.flatnonzero(~truth.crowd)
    places = np.full(len(truth), -1)
    places[single] = np.arange(len(single))

    state = np.full(len(kept), WRONG)
    nearest = np.full(len(kept), -1)
    overlap = np.zeros(len(kept))
    object_score = np.full(len(single), -np.inf)
    if len(single):
        nearest = all_overlaps[:, single].argmax(1)
        overlap = all_overlaps[np.arange(len(kept)), single[nearest]]
        nearest = np.where(overlap > 0, nearest, -1)
    same = labels[:, None] == truth.labels[None, :]
    close = all_overlaps >= OVERLAP
    free = ~truth.crowd
    for i in np.flatnonzero((same & close).any(1)):
        candidates = np.flatnonzero(same[i] & close[i] & free)
        if len(candidates):
            # The last of equals, as COCO does.
            best = candidates[::-1][all_overlaps[i, candidates[::-1]].argmax()]
            free[best] = False
            state[i], nearest[i], overlap[i] = RIGHT, places[best], all_overlaps[i, best]
            object_score[places[best]] = scores[i]
        elif (same[i] & close[i] & truth.crowd).any():
            state[i] = LEFT_OUT
    pairs = np.argwhere(close[:, single] & ~same[:, single])
    return {
        "place": kept,
        "label": labels,
        "score": scores,
        "state": state,
        "overlap": overlap,
        "nearest": nearest,
        "object_place": single,
        "object_label": truth.labels[single],
        "object_score": object_score,
        "pairs": pairs,
        "pair_overlap": all_overlaps[pairs[:, 0], single[pairs[:, 1]]],
    }


def overlaps(image: Judged, masks: bool) -> Floats:
    """Intersection over union of found and annotated objects, `[found, objects]`; with a group, over the found one.

    Args:
        image: The image.
        masks: Compare outlines; else boxes.
    """
    from pycocotools import mask as run_lengths

    truth, found = image.truth, image.found
    if not len(truth) or not len(found):
        return np.zeros((len(found), len(truth)))
    crowd = truth.crowd.astype(np.uint8).tolist()
    if masks and truth.segmentations is not None and found.segmentations is not None:
        shared = run_lengths.iou(list(found.segmentations), list(truth.segmentations), crowd)
    else:
        shared = run_lengths.iou(sides(found.boxes), sides(truth.boxes), crowd)
    # Two without area share nothing of nothing.
    return np.nan_to_num(np.asarray(shared, dtype=np.float64), nan=0.0)
