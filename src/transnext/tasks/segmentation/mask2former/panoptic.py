"""Panoptic segments of a Mask2Former: every pixel belongs to one object, to one area of a class, or to nothing."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transnext.data.segmentation.maps import SEGMENT
from transnext.tasks.segmentation.mask2former.model import Mask2FormerNet
from transnext.tasks.segmentation.net import IGNORED
from transnext.tasks.segmentation.panoptic import Segment
from transnext.tasks.segmentation.placing import resize_scores


@dataclass(frozen=True, kw_only=True)
class Panoptic:
    """Segments of an image.

    Attributes:
        ids: int32 `[h, w]`, of the pixels that are image: the segment of each, 0 for none.
        segments: In the order of their ids.
    """

    ids: Tensor
    segments: tuple[Segment, ...]

    def coded(self) -> npt.NDArray[np.int32]:
        """A map of segments, int32 `[h, w]`; see `transnext.data.segmentation.maps.SEGMENT`."""
        codes = [IGNORED, *(one.label + SEGMENT * (0 if one.fused else one.id) for one in self.segments)]
        return np.array(codes, np.int32)[self.ids.cpu().numpy()]


@torch.no_grad()
def panoptic(
    net: Mask2FormerNet,
    images: Tensor,
    sizes: Tensor,
    *,
    originals: Sequence[tuple[int, int]] | None = None,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    fuse: Collection[int] = (),
) -> list[Panoptic]:
    """Divides images into segments.

    Each pixel goes to the query whose probability of class times mask is largest there; a query that keeps too little
    of its mask is left out. Pixels where the mask of their query is unlikely are of no segment.

    Args:
        net: For pixels or for objects.
        images: float32 `[B, 3, H, W]`, normalised; sides are multiples of 32.
        sizes: int64 `[B, 2]`: rows and columns that are image.
        originals: `(H, W)` of the pictures, to whose pixels masks are brought before they become probabilities; by
            default `sizes`.
        threshold: Probability of its class that a query has to exceed, 0..1.
        mask_threshold: Probability of the mask from which on a pixel belongs to it, 0..1.
        overlap_mask_area_threshold: Part of its mask that a query has to exceed with the pixels that it gets, 0..1.
        fuse: Places of the classes that have no objects: their areas are one segment.

    Raises:
        ValueError: What the network says is not finite.
    """
    predictions = net.predict(images)
    canvas = (images.shape[2], images.shape[3])
    seen = [(rows, columns) for rows, columns in sizes.tolist()]
    return [
        segments_of_queries(
            logits,
            masks,
            canvas,
            size,
            original,
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
            fuse=fuse,
        )
        for logits, masks, size, original in zip(
            predictions.logits[-1],
            predictions.masks[-1],
            seen,
            seen if originals is None else originals,
            strict=True,
        )
    ]


@torch.no_grad()
def segments_of_queries(
    logits: Tensor,
    masks: Tensor,
    canvas: tuple[int, int],
    size: tuple[int, int],
    original: tuple[int, int],
    *,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    fuse: Collection[int] = (),
) -> Panoptic:
    """Segments of an image from what its queries say; see `panoptic`.

    Args:
        logits: Of the classes, the last of which is none: `[Q, classes + 1]`.
        masks: Logits, `[Q, h, w]` over the canvas.
        canvas: `(H, W)` of what the network saw.
        size: `(H, W)` of what was image in it.
        original: `(H, W)` of the picture.
        threshold: See `panoptic`.
        mask_threshold: See `panoptic`.
        overlap_mask_area_threshold: See `panoptic`.
        fuse: See `panoptic`.

    Raises:
        ValueError: The logits are not finite.
    """
    if not torch.isfinite(logits).all() or not torch.isfinite(masks).all():
        raise ValueError("what the model says is not finite: its weights are not usable")
    scores, labels = logits.float().softmax(-1).max(-1)
    kept = (labels != logits.shape[-1] - 1) & (scores > threshold)
    parts = resize_scores(masks[kept], canvas, size, original) if kept.any() else iter(())
    return segments_of_masks(
        ((rows, part.sigmoid()) for rows, part in parts),
        original,
        scores[kept],
        labels[kept],
        mask_threshold=mask_threshold,
        overlap_mask_area_threshold=overlap_mask_area_threshold,
        fuse=fuse,
    )


def segments_of_masks(
    masks: Iterable[tuple[slice, Tensor]],
    size: tuple[int, int],
    scores: Tensor,
    labels: Tensor,
    *,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    fuse: Collection[int] = (),
) -> Panoptic:
    """Segments of an image; see `panoptic`.

    Args:
        masks: Rows of the image, and the probabilities of the masks there, float32 `[Q, rows, w]`.
        size: `(h, w)` of the image.
        scores: Probabilities of the classes, float32 `[Q]`.
        labels: int64 `[Q]`.
        mask_threshold: See `panoptic`.
        overlap_mask_area_threshold: See `panoptic`.
        fuse: See `panoptic`.
    """
    queries = len(scores)
    # The query that a pixel goes to, counted from 1, where its mask is likely there, else 0.
    taken = torch.zeros(size, dtype=torch.int32, device=scores.device)
    owned = torch.zeros(queries, dtype=torch.int64, device=scores.device)
    whole = torch.zeros_like(owned)
    for rows, part in masks:
        owner = (part * scores[:, None, None]).argmax(0)
        # As published, all pixels that are its own count here, and it gets those of them where it is likely.
        owned += torch.bincount(owner.reshape(-1), minlength=queries)
        whole += (part >= mask_threshold).sum((1, 2))
        likely = part.gather(0, owner[None])[0] >= mask_threshold
        taken[rows] = torch.where(likely, owner + 1, 0).int()
    got = torch.bincount(taken.reshape(-1), minlength=queries + 1)[1:]
    valid = (got > 0) & (owned > overlap_mask_area_threshold * whole)
    segments: dict[int, Segment] = {}
    fused: dict[int, int] = {}
    ids = [0]
    for score, label, good in zip(scores.tolist(), labels.tolist(), valid.tolist(), strict=True):
        segment = fused.get(label, len(segments) + 1) if good else 0
        ids.append(segment)
        if not good:
            continue
        if label in fuse:
            fused[label] = segment
            score = max(score, segments[segment].score) if segment in segments else score
        segments[segment] = Segment(id=segment, label=label, score=score, fused=label in fuse)
    table = torch.tensor(ids, dtype=torch.int32, device=taken.device)
    return Panoptic(ids=table[taken.long()], segments=tuple(segments.values()))
