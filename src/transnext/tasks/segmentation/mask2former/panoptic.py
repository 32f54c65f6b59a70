"""Panoptic segments of a Mask2Former: every pixel belongs to one object, to one area of a class, or to nothing."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from transnext.tasks.segmentation.mask2former.model import Mask2FormerNet, upsampled


@dataclass(frozen=True, kw_only=True)
class Segment:
    """An object, or all areas of a class that has no objects.

    Attributes:
        id: Its value in the map, from 1.
        label: Place in the list of classes.
        score: Probability of the class, 0..1; of several queries the largest.
        fused: It is all of its class.
    """

    id: int
    label: int
    score: float
    fused: bool


@dataclass(frozen=True, kw_only=True)
class Panoptic:
    """Segments of an image.

    Attributes:
        ids: int32 `[h, w]`, of the pixels that are image: the segment of each, 0 for none.
        segments: In the order of their ids.
    """

    ids: Tensor
    segments: tuple[Segment, ...]


@torch.no_grad()
def panoptic(
    net: Mask2FormerNet,
    images: Tensor,
    sizes: Tensor,
    *,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap: float = 0.8,
    fuse: Collection[int] = (),
) -> list[Panoptic]:
    """Divides images into segments.

    Each pixel goes to the query whose probability of class times mask is largest there; a query that keeps too little
    of its mask is left out. Pixels where the mask of their query is unlikely are of no segment.

    Args:
        net: For pixels or for objects.
        images: float32 `[B, 3, H, W]`, normalised; sides are multiples of 32.
        sizes: int64 `[B, 2]`: rows and columns that are image.
        threshold: Probability of its class that a query has to exceed, 0..1.
        mask_threshold: Probability of the mask from which on a pixel belongs to it, 0..1.
        overlap: Part of its mask that a query has to exceed with the pixels that it gets, 0..1.
        fuse: Places of the classes that have no objects: their areas are one segment.
    """
    predictions = net.predict(images)
    canvas = (images.shape[2], images.shape[3])
    found = []
    for logits, masks, (height, width) in zip(
        predictions.logits[-1], predictions.masks[-1], sizes.tolist(), strict=True
    ):
        scores, labels = logits.softmax(-1).max(-1)
        kept = (labels != net.num_classes) & (scores > threshold)
        # As a batch of single masks, as there may be none.
        probabilities = upsampled(masks[kept][:, None], canvas)[:, 0, :height, :width].sigmoid()
        found.append(
            segments_of_masks(
                probabilities, scores[kept], labels[kept], mask_threshold=mask_threshold, overlap=overlap, fuse=fuse
            )
        )
    return found


def segments_of_masks(
    masks: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    mask_threshold: float = 0.5,
    overlap: float = 0.8,
    fuse: Collection[int] = (),
) -> Panoptic:
    """Segments of an image; see `panoptic`.

    Args:
        masks: Probabilities, float32 `[Q, h, w]`.
        scores: Probabilities of the classes, float32 `[Q]`.
        labels: int64 `[Q]`.
        mask_threshold: See `panoptic`.
        overlap: See `panoptic`.
        fuse: See `panoptic`.
    """
    ids = torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device)
    segments: dict[int, Segment] = {}
    if not len(masks):
        return Panoptic(ids=ids, segments=())
    owner = (masks * scores[:, None, None]).argmax(0)
    fused: dict[int, int] = {}
    for query, (score, label) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
        whole = masks[query] >= mask_threshold
        owned = owner == query
        # As published, all pixels that are its own count here, and it gets those of them where it is likely.
        own = owned & whole
        if not own.any() or owned.sum() <= overlap * whole.sum():
            continue
        segment = fused.get(label, len(segments) + 1)
        if label in fuse:
            fused[label] = segment
            score = max(score, segments[segment].score) if segment in segments else score
        ids[own] = segment
        segments[segment] = Segment(id=segment, label=label, score=score, fused=label in fuse)
    return Panoptic(ids=ids, segments=tuple(segments.values()))
