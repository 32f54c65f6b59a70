"""Objects in an image: as they are annotated, as a network is trained on them, and of a batch together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """Objects of a picture as they were annotated, in pixels of the upright picture. Cheap to pickle.

    Attributes:
        size: `(H, W)` of the picture.
        boxes: float32 `[N, 4]`: x0, y0, x1, y1.
        labels: int64 `[N]`: places in the list of classes.
        crowd: bool `[N]`: groups that are neither found nor missed.
        areas: float32 `[N]`: what the annotation calls the area, by which sizes are told apart.
        segmentations: Outlines of each object: compressed run lengths `{"size": [H, W], "counts": bytes}` of
            pycocotools; None where there are boxes alone.
    """

    size: tuple[int, int]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float32]
    segmentations: tuple[dict[str, Any], ...] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def masks(self) -> npt.NDArray[np.uint8]:
        """Decoded outlines, 0 or 1 `[N, H, W]`.

        Raises:
            ValueError: There are none.
        """
        if self.segmentations is None:
            raise ValueError("there are boxes alone, no outlines")
        if not self.segmentations:
            return np.zeros((0, *self.size), np.uint8)
        from pycocotools import mask as run_lengths

        decoded: npt.NDArray[np.uint8] = run_lengths.decode(list(self.segmentations))
        return np.ascontiguousarray(decoded.transpose(2, 0, 1))


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Objects of one image that a network is trained on, in pixels of its input.

    Attributes:
        boxes: float32 `[N, 4]`: x0, y0, x1, y1.
        labels: int64 `[N]`.
        masks: uint8 `[N, H, W]`, 0 or 1, of the input or, in a batch, of its canvas; None where there are boxes alone.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)


class InstanceBatch(NamedTuple):
    """Objects of `B` images end to end: a few large tensors pass between processes faster than many small ones.

    Attributes:
        boxes: float32 `[N, 4]`.
        labels: int64 `[N]`.
        counts: int64 `[B]`: objects of each image.
        masks: uint8 `[N, H, W]` on the canvas of the batch; None where there are boxes alone.
    """

    boxes: Tensor
    labels: Tensor
    counts: Tensor
    masks: Tensor | None

    @classmethod
    def of(cls, images: Sequence[Instances]) -> InstanceBatch:
        """Puts together the objects of images; masks are padded at the bottom and on the right."""
        empty = Instances(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
        whole = list(images) or [empty]
        masks = None
        if all(image.masks is not None for image in images) and images:
            parts = [image.masks for image in images if image.masks is not None]
            height, width = (max(part.shape[axis] for part in parts) for axis in (1, 2))
            masks = torch.cat([F.pad(p, (0, width - p.shape[2], 0, height - p.shape[1])) for p in parts])
        return cls(
            boxes=torch.cat([image.boxes for image in whole]),
            labels=torch.cat([image.labels for image in whole]),
            counts=torch.tensor([len(image) for image in images], dtype=torch.int64),
            masks=masks,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> InstanceBatch:
        """The same on a device; the counts stay where they are, as they say how to divide the rest."""
        return InstanceBatch(
            self.boxes.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.counts,
            None if self.masks is None else self.masks.to(device, non_blocking=non_blocking),
        )

    def split(self) -> list[Instances]:
        """The objects of each image."""
        counts = self.counts.tolist()
        images = [
            Instances(boxes=boxes, labels=labels)
            for boxes, labels in zip(self.boxes.split(counts), self.labels.split(counts), strict=True)
        ]
        if self.masks is None:
            return images
        return [replace(image, masks=m) for image, m in zip(images, self.masks.split(counts), strict=True)]
