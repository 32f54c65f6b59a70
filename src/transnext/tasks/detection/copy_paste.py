"""Copy-paste (Ghiasi et al. 2021): objects of one picture laid over another, by their outlines."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from transnext.data.instances import Instances
from transnext.tasks.detection.augment import box_of, large_enough


def paste(
    image: Image.Image,
    objects: Instances,
    other: Image.Image,
    others: Instances,
    *,
    fill: tuple[int, int, int] = (0, 0, 0),
    visible: float = 0.2,
) -> tuple[Image.Image, Instances]:
    """Lays a random share of the objects of another image over an image.

    What they cover is taken from the masks and boxes of the objects below, and those of which hardly anything is left
    are dropped. The result is as large as both images; each was placed at random already.

    Args:
        image: In mode `RGB`.
        objects: In it, with masks of its size.
        other: In mode `RGB`, of any size.
        others: In it, with masks of its size.
        fill: Colour of the ground, where the image has to grow.
        visible: Objects of which less than this share is left are dropped.

    Raises:
        ValueError: There are no masks.
    """
    if objects.masks is None or others.masks is None:
        raise ValueError("objects cannot be copied without masks")
    chosen = np.flatnonzero([random.random() < 0.5 for _ in range(len(others))])
    if not len(chosen):
        return image, objects
    width, height = max(image.width, other.width), max(image.height, other.height)
    below = _grown(objects.masks.numpy(), height, width)
    above = _grown(others.masks.numpy()[chosen], height, width)
    covered = np.asarray(above.any(0))

    ground = image
    if image.size != (width, height):
        ground = Image.new("RGB", (width, height), fill)
        ground.paste(image, (0, 0))
    ground = ground.copy() if ground is image else ground
    stencil = Image.fromarray(covered[: other.height, : other.width].astype(np.uint8) * np.uint8(255))
    ground.paste(other, (0, 0), stencil)

    boxes = objects.boxes.numpy().copy()
    kept = np.ones(len(boxes), bool)
    for i in np.flatnonzero((below & covered).any((1, 2))).tolist():
        before = int(below[i].sum())
        below[i] &= ~covered
        kept[i] = below[i].any() and below[i].sum() >= visible * before
        if kept[i]:
            boxes[i] = box_of(below[i])
            kept[i] = large_enough(boxes[i])
    places = torch.from_numpy(np.flatnonzero(kept))
    return ground, Instances(
        boxes=torch.cat([torch.from_numpy(boxes)[places], others.boxes[torch.from_numpy(chosen)]]),
        labels=torch.cat([objects.labels[places], others.labels[torch.from_numpy(chosen)]]),
        masks=torch.from_numpy(np.concatenate([below[kept], above]).astype(np.uint8)),
    )


def _grown(masks: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.bool_]:
    return np.pad(masks, ((0, 0), (0, height - masks.shape[1]), (0, width - masks.shape[2]))).astype(bool)
