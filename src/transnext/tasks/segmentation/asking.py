"""Asking a segmenter about pictures."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transnext.data.windowed import Normaliser, open_windowed, place_of
from transnext.limits import check_number
from transnext.tasks.segmentation.answers import ClassMap, WrittenMap, class_counts
from transnext.tasks.segmentation.large import BATCH, Bands, bands_of, check_map_file, grid_for, map_of, write_map
from transnext.tasks.segmentation.looking import Looking
from transnext.tasks.segmentation.panoptic import PanopticMap, checked_things
from transnext.tasks.segmentation.placing import Rows, resize_scores
from transnext.tasks.task import Asked, Loaded

THRESHOLDS = ("threshold", "mask_threshold", "overlap_mask_area_threshold")
"""Options of panoptic answers, 0..1; see `mask2former.panoptic.panoptic`."""


def check_options(loaded: Loaded, options: dict[str, Any]) -> None:
    """Refuses options that answers do not have, or that this segmenter does not.

    Raises:
        ValueError: It does so.
    """
    own = (*THRESHOLDS, "thing_classes")
    if unknown := options.keys() - {"confidence", "panoptic", *own}:
        raise ValueError(f"answers of a segmenter have no options {', '.join(sorted(unknown))}")
    if not options.get("panoptic"):
        if given := [name for name in own if options.get(name) is not None]:
            raise ValueError(f"{given[0]} is {options[given[0]]}: it goes with panoptic answers")
        return
    if options.get("confidence"):
        raise ValueError("panoptic answers tell the score of each segment: leave out confidence")
    if not hasattr(loaded.model, "predict"):
        kind = getattr(loaded.model, "segmenter", "an exported file")
        raise ValueError(
            f"{loaded.name} tells no segments ({kind}): panoptic answers are those of mask2former, not exported"
        )
    task: Any = loaded.task
    if not task.how.once:
        raise ValueError(
            "panoptic answers look at a picture once, as a whole: leave out scales and flip, give window 0"
        )
    for name in THRESHOLDS:
        if options.get(name) is not None:
            check_number(name, options[name], 0, 1)
    things_of(loaded, options.get("thing_classes"))


def things_of(loaded: Loaded, given: Collection[str] | None = None) -> list[str]:
    """Names of the classes of a segmenter that have objects.

    Args:
        loaded: The segmenter.
        given: Those that are asked for; None for what its checkpoint says.

    Raises:
        ValueError: It does not say, or there is no such class.
    """
    things = loaded.task.metadata.get("thing_classes") if given is None else given
    if things is None:
        raise ValueError(
            f"{loaded.name} does not say which classes have objects: give thing_classes, those names, or none of them "
            "where all of a class is one segment"
        )
    return checked_things(things, loaded.class_names)


def answers(
    loaded: Loaded, asked: Asked, confidence: bool = False, panoptic: bool = False, **segments: Any
) -> list[ClassMap] | list[PanopticMap]:
    """The class of every pixel of each picture, or its segments.

    Args:
        loaded: The segmenter.
        asked: The pictures.
        confidence: Tell the probability of that class, too.
        panoptic: Tell segments.
        segments: `thing_classes` and `THRESHOLDS`, where they are to be others.

    Raises:
        ValueError: The outputs are not finite.
    """
    if panoptic:
        return _panoptic_answers(loaded, asked, **segments)
    task: Any = loaded.task
    canvas = (asked.inputs.shape[2], asked.inputs.shape[3])
    scores = task.scores(loaded.model, asked.inputs, asked.sizes)
    found = []
    for one, size, frame, name in zip(scores, asked.sizes.tolist(), asked.frames, asked.names, strict=True):
        assert frame is not None
        rows = one
        if isinstance(one, Tensor):
            _check_finite(one, name)
            rows = resize_scores(one, canvas, (size[0], size[1]), frame.original)
        labels, certain = _placed(rows, frame.original, loaded, confidence, name)
        found.append(
            ClassMap(
                name=name,
                labels=labels,
                class_names=loaded.class_names,
                colours=task.metadata.get("class_colours"),
                confidence=certain,
                profile=place_of(name, frame.original),
            )
        )
    return found


def _panoptic_answers(
    loaded: Loaded, asked: Asked, thing_classes: Collection[str] | None = None, **thresholds: float | None
) -> list[PanopticMap]:
    from transnext.tasks.segmentation.mask2former.panoptic import panoptic

    things = things_of(loaded, thing_classes)
    net: Any = loaded.model
    found = panoptic(
        net,
        asked.inputs,
        asked.sizes,
        originals=[frame.original for frame in asked.frames if frame is not None],
        fuse=[place for place, name in enumerate(loaded.class_names) if name not in things],
        **{name: value for name, value in thresholds.items() if value is not None},
    )
    return [
        PanopticMap(
            name=name,
            ids=one.ids.cpu().numpy(),
            segments=one.segments,
            class_names=loaded.class_names,
            thing_classes=things,
            colours=loaded.task.metadata.get("class_colours"),
            category_ids=loaded.task.metadata.get("category_ids"),
        )
        for name, one in zip(asked.names, found, strict=True)
    ]


def map_in_tiles(
    loaded: Loaded,
    source: str | Path | npt.NDArray[Any],
    *,
    tile: int,
    overlap: float,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
    output: Path | None = None,
) -> ClassMap | WrittenMap:
    """The class of every pixel of a picture of any size, which is read and looked at in tiles.

    Pixels are taken as they are: neither the picture nor a tile is brought to the size of training. It may have 16 bits
    and as many channels as the backbone takes.

    Args:
        loaded: The segmenter.
        source: An image file, TIFF or .npy, or an array `[H, W]` or `[H, W, channels]`, of which parts are read.
        tile: Side of a tile, pixels, a multiple of 32.
        overlap: Share of a tile that it has in common with the next, 0..0.9.
        batch_size: Tiles that are asked about at once.
        device: Where the segmenter is.
        output: File to which the map is written as it comes, see `write_map`; None for a map in memory.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableImage: It cannot be read.
        TypeError: `source` is something else.
        ValueError: A number is out of range, the picture has another number of channels, scores are not finite, or the
            segmenter is to look in windows, several sizes or mirrored.
    """
    looking: Looking | None = getattr(loaded.task, "looking", None)
    if looking is not None and replace(looking, bias_mode=None, bias_size=None) not in (
        Looking(),
        Looking.trained(loaded.task.metadata),
    ):
        raise ValueError(
            "in tiles a picture is looked at once, as it is: open the segmenter without window, stride, scales and flip"
        )
    if output is not None:
        check_map_file(output)
    preprocessing = loaded.preprocessing
    channels = preprocessing.input_size[0]
    if len(preprocessing.mean) != channels:
        raise ValueError(
            f"the model takes {channels} channels, and mean and std of {len(preprocessing.mean)} are known: "
            f"give its preprocessing those of all {channels}"
        )
    with open_windowed(source, channels) as picture:
        normalise = Normaliser(picture, preprocessing.mean, preprocessing.std)
        grid = grid_for(picture.size, tile, overlap)
        bands = bands_of(loaded.model, picture, normalise, grid, batch_size=batch_size, device=device)
        colours, classes = loaded.task.metadata.get("class_colours"), loaded.class_names
        if output is None:
            labels = map_of(bands, picture.size)
            return ClassMap(
                name=picture.name, labels=labels, class_names=classes, colours=colours, profile=picture.profile()
            )
        counts = np.zeros(256, np.int64)

        def counted() -> Bands:
            for rows, part in bands:
                counts[:] += class_counts(part)
                yield rows, part

        write_map(output, counted(), picture.size, classes=len(classes), colours=colours, profile=picture.profile())
        return WrittenMap(
            name=picture.name, path=output, size=picture.size, class_names=classes, pixels=counts[: len(classes)]
        )


def _placed(
    rows: Rows, original: tuple[int, int], loaded: Loaded, confidence: bool, name: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16] | None]:
    """Likeliest classes of the pixels of a picture, and how likely they are.

    Raises:
        ValueError: Scores are not finite.
    """
    labels = np.empty(original, np.uint8)
    certain = np.empty(original, np.float16) if confidence else None
    # Sums of masks are shares of a whole that is not 1; logits become probabilities by softmax.
    sums = getattr(loaded.model, "segmenter", "upernet") == "mask2former"
    for part, scores in rows:
        best, places = scores.max(0)
        _check_finite(best, name)
        labels[part] = places.to(torch.uint8).cpu().numpy()
        if certain is not None:
            sure = best / scores.sum(0).clamp(min=1e-12) if sums else (best - scores.logsumexp(0)).exp()
            certain[part] = sure.cpu().numpy()
    return labels, certain


def _check_finite(scores: Tensor, name: str) -> None:
    if not torch.isfinite(scores).all():
        raise ValueError(f"what the model says of {name} is not finite: its weights are not usable")
