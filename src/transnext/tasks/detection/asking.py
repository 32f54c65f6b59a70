"""Asking a detector about pictures, whole or in tiles."""

from collections.abc import Sequence
from typing import Any

from transnext.data.joint import to_bytes
from transnext.data.sample import Frame
from transnext.tasks.detection.answers import ObjectsFound, objects
from transnext.tasks.detection.looking import OVERLAP, Looking
from transnext.tasks.task import Asked, Loaded


def answers(
    loaded: Loaded,
    asked: Asked,
    threshold: float,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    tile: int | None = None,
    overlap: float = OVERLAP,
) -> list[ObjectsFound]:
    """Objects in each picture.

    Args:
        loaded: The detector.
        asked: The pictures.
        threshold: Least score, 0..1.
        classes: Names of those that are asked for; all by default.
        masks: Give outlines where the detector tells them.
        tile: Side of the squares in which a picture is looked through, pixels; as in training by default, 0 for as a
            whole.
        overlap: Share of a tile that it has in common with the next.
    """
    task: Any = loaded.task
    looking = Looking(
        tile=task.how.tile if tile is None else tile,
        overlap=overlap,
        at_once=asked.batch_size or task.how.at_once,
    )
    if not looking.tile:
        found, frames = task.raw(loaded.model, asked.inputs, asked.sizes), asked.frames
    else:
        device = asked.inputs.device
        wholes = [to_bytes(picture) for picture in asked.pictures]
        found = [looking.found(loaded.model, whole, loaded.preprocessing, device, threshold, masks) for whole in wholes]
        frames = [Frame.unchanged((picture.height, picture.width)) for picture in asked.pictures]
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
