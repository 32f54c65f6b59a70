"""Asking a detector about pictures, whole or in tiles."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from transnext.data.joint import to_bytes
from transnext.data.preprocessing import picture
from transnext.data.sample import Frame, collate
from transnext.tasks.detection.answers import ObjectsFound, objects
from transnext.tasks.detection.images import placed_sample
from transnext.tasks.detection.net import Found
from transnext.tasks.detection.tiles import detect_in_tiles
from transnext.tasks.task import Asked, Loaded

_TILES_AT_ONCE = 8


def answers(
    loaded: Loaded,
    asked: Asked,
    threshold: float,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    tile: int | None = None,
    overlap: float = 0.2,
) -> list[ObjectsFound]:
    """Objects in each picture.

    Args:
        loaded: The detector.
        asked: The pictures.
        threshold: Least score, 0..1.
        classes: Names of those that are asked for; all by default.
        masks: Give outlines where the detector tells them.
        tile: Side of the squares in which a picture is looked through, pixels; as a whole by default.
        overlap: Share of a tile that it has in common with the next.
    """
    task = loaded.task
    if tile is None:
        found, frames = task.raw(loaded.model, asked.inputs, asked.sizes), asked.frames
    else:
        found, frames = [], []
        for whole_picture in asked.pictures:
            whole = to_bytes(whole_picture)
            found.append(
                detect_in_tiles(
                    lambda crops: _of_crops(loaded, crops, asked.inputs.device, masks),
                    whole,
                    tile,
                    overlap=overlap,
                    batch_size=asked.batch_size or _TILES_AT_ONCE,
                    threshold=threshold,
                )
            )
            size = (whole_picture.height, whole_picture.width)
            frames.append(Frame(original=size, to_original=torch.eye(3, dtype=torch.float64)[:2]))
    canvas = (asked.inputs.shape[2], asked.inputs.shape[3])
    answered = []
    for one, frame, name in zip(found, frames, asked.names, strict=True):
        assert frame is not None
        answered.append(
            objects(
                one,
                frame,
                name,
                loaded.class_names,
                threshold=threshold,
                keep_classes=classes,
                with_masks=masks,
                canvas=canvas,
            )
        )
    return answered


def _of_crops(loaded: Loaded, crops: list[Tensor], device: torch.device, masks: bool = True) -> list[Found]:
    """Objects of each crop, uint8 `[3, h, w]`, in its pixels, found by a model on a device, perhaps without masks."""
    task, preprocessing = loaded.task, loaded.preprocessing
    samples = [placed_sample(picture(crop), preprocessing, i) for i, crop in enumerate(crops)]
    batch = collate(samples, targets=list)
    found = task.raw(loaded.model, task.inputs(batch.images.to(device), batch.sizes, preprocessing), batch.sizes)
    return [
        _in_crop(one if masks else replace(one, masks=None), frame)
        for one, frame in zip(found, batch.frames, strict=True)
    ]


def _in_crop(found: Found, frame: Frame | None) -> Found:
    assert frame is not None
    matrix = frame.to_original
    scale, shift = matrix[:, :2].diagonal().repeat(2), matrix[:, 2].repeat(2)
    return replace(found, boxes=(found.boxes.double().cpu() * scale + shift).float())
