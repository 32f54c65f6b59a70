"""Accuracy on corrupted images, and at other image sizes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transnext.data import ImageSource
from transnext.data.corruptions import CORRUPTIONS, SEVERITIES, CorruptedImages, check_corruption
from transnext.engine.evaluation import Evaluator
from transnext.models.macs import count_macs
from transnext.tasks.classification.build import Preprocessing
from transnext.tasks.classification.robustness import RobustnessResult
from transnext.tasks.classification.scales import (
    Mode,
    ScalePoint,
    ScaleResult,
    in_mode,
    modes_of,
    scaled_size,
    stride_of,
)

DEFAULT_SCALES = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Of the trained size."""


def measure_robustness(
    evaluator: Evaluator,
    source: ImageSource,
    *,
    split: str = "val",
    corruptions: Sequence[str] = (),
    seed: int = 0,
) -> RobustnessResult:
    """Measures the accuracy on a split, clean and under corruptions made on the fly at all severities.

    Args:
        evaluator: The classifier and how to run it.
        source: Images of the split.
        split: Its name.
        corruptions: Which; all 15 if empty.
        seed: Another seed gives other noise.

    Raises:
        ValueError: There is no such corruption, or no image could be read.
    """
    corruptions = tuple(dict.fromkeys(corruptions)) or CORRUPTIONS
    for name in corruptions:
        check_corruption(name)
    clean_images = evaluator.images(source)
    clean = evaluator.run(clean_images, split)
    top1 = np.empty((len(corruptions), len(SEVERITIES)))
    for i, corruption in enumerate(corruptions):
        for j, severity in enumerate(SEVERITIES):
            images = CorruptedImages(
                source,
                clean_images.transform,
                clean_images.min_side,
                mean=evaluator.classifier.preprocessing.mean,
                std=evaluator.classifier.preprocessing.std,
                corruption=corruption,
                severity=severity,
                seed=seed,
            )
            top1[i, j] = evaluator.run(images, split, title=f"{corruption} {severity}").top1
    return RobustnessResult(split=split, images=clean.num_images, clean=clean.top1, corruptions=corruptions, top1=top1)


def measure_scales(
    evaluator: Evaluator,
    source: ImageSource,
    *,
    split: str = "val",
    scales: Sequence[float] = DEFAULT_SCALES,
) -> ScaleResult:
    """Measures accuracy and cost at several image sizes, in every mode that the model has.

    Batches shrink as images grow, so that they need about the same memory.

    Args:
        evaluator: The classifier and how to run it; its image size is the trained one, at scale 1.
        source: Images of the split.
        split: Its name.
        scales: Sizes as multiples of the trained one, rounded to multiples of 32 pixels.

    Raises:
        ValueError: A scale is not positive, the model takes none of the sizes, or no image could be read.
    """
    for scale in scales:
        if not 0 < scale <= 32:
            raise ValueError(f"scale is {scale:g}: expected more than 0 and at most 32")
    preprocessing = evaluator.classifier.preprocessing
    trained = max(preprocessing.input_size[1:])
    stride = stride_of(evaluator.classifier.model)
    sizes = sorted({scaled_size(trained, scale, stride) for scale in scales})
    points: list[ScalePoint] = []
    failures: dict[int, str] = {}
    images = 0
    for mode in modes_of(evaluator.classifier.model):
        for size in sizes:
            sized = dataclasses.replace(preprocessing, input_size=(preprocessing.input_size[0], size, size))
            try:
                point, images = _point(evaluator, source, split, mode, sized, trained)
            except (AssertionError, RuntimeError) as error:  # as models of a fixed size say that they have one
                failures[size] = " ".join(str(error).split())[:120] or type(error).__name__
                continue
            points.append(point)
    if not points:
        size, reason = next(iter(failures.items()))
        raise ValueError(f"{evaluator.classifier.name} takes none of the sizes; at {size}: {reason}")
    return ScaleResult(
        split=split, images=images, trained_size=trained, points=tuple(points), failures=tuple(failures.items())
    )


def _point(
    evaluator: Evaluator,
    source: ImageSource,
    split: str,
    mode: Mode | None,
    preprocessing: Preprocessing,
    trained: int,
) -> tuple[ScalePoint, int]:
    size = preprocessing.input_size[1]
    model = evaluator.classifier.model
    with in_mode(model, mode):
        result = evaluator.run(
            evaluator.images(source, preprocessing),
            split,
            title=f"{size} pixels{'' if mode is None else f', {mode}'}",
            batch_size=max(1, int(evaluator.batch_size * min(1, (trained / size) ** 2))),
        )
        macs = count_macs(model, preprocessing.input_size)
    point = ScalePoint(
        size=size,
        mode=mode,
        top1=result.top1,
        top1_interval=result.top1_interval,
        images_per_second=result.images_per_second,
        macs=macs,
    )
    return point, result.num_images
