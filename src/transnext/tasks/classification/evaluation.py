"""Accuracy of a classifier on a split."""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from transnext.data import Batch, LabelledImages
from transnext.tasks.classification.calibration import calibration
from transnext.tasks.classification.intervals import bootstrap_interval
from transnext.tasks.classification.results import Prediction, SplitResult


class Outputs(NamedTuple):
    """What a model says about `N` images.

    Attributes:
        logits: float32 `[N, classes]`, on the CPU, as are the others.
        targets: int64 `[N]`.
        indices: int64 `[N]`, places in the split.
        skipped: Name and reason of images that could not be read.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    skipped: list[tuple[str, str]]


Gather = Callable[[Outputs], Outputs]
"""Puts together the outputs of all processes, each of which saw other images of the split."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    images: LabelledImages,
    *,
    split: str = "val",
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    on_batch: Callable[[int], None] | None = None,
    gather: Gather | None = None,
) -> SplitResult:
    """Evaluates a model on every image of a split once.

    Args:
        model: Gives logits `[B, classes]`; it is put into evaluation mode and left in the mode it was in.
        batches: The images of the split, in any order.
        images: Where the batches come from, for classes and names.
        split: Name of the split, for the result.
        device: Where the model is.
        autocast_dtype: Dtype of autocast; None for none.
        on_batch: Called with the number of images after each batch.
        gather: Called once with the outputs of this process, to give those of all; it must not repeat an image.

    Raises:
        ValueError: No image of the split could be read.
    """
    was_training = model.training
    model.eval()
    device = torch.device(device)
    # A process may have no image of the split: what it gathers still has the right shape.
    logits = [torch.empty(0, len(images.classes))]
    targets, indices = ([torch.empty(0, dtype=torch.int64)] for _ in range(2))
    skipped: list[tuple[str, str]] = []
    rates: list[float] = []
    for batch in batches:
        skipped += batch.skipped
        if len(batch.images):
            start = time.perf_counter()
            with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
                output = model(batch.images.to(device)).float().cpu()
            rates.append(len(batch.images) / (time.perf_counter() - start))
            logits.append(output)
            targets.append(batch.targets.cpu())
            indices.append(batch.indices.cpu())
        if on_batch is not None:
            on_batch(len(batch.images))
    model.train(was_training)
    outputs = Outputs(torch.cat(logits), torch.cat(targets), torch.cat(indices), skipped)
    if gather is not None:
        outputs = gather(outputs)
    speed = statistics.median(rates) if rates else None
    return summarise(outputs, split=split, name=images.source.name, images_per_second=speed)


def summarise(
    outputs: Outputs,
    *,
    split: str = "val",
    name: Callable[[int], str] = str,
    images_per_second: float | None = None,
) -> SplitResult:
    """All that is to be known of the outputs of a split.

    Args:
        outputs: Logits and true classes of its images, in any order.
        split: Name of the split.
        name: From the place of an image to its name.
        images_per_second: Speed of the model, if it was measured.

    Raises:
        ValueError: There is no image.
    """
    if not len(outputs.targets):
        first, reason = outputs.skipped[0] if outputs.skipped else ("it", "it is empty")
        raise ValueError(f"no image of the split {split!r} could be read; the first: {first}: {reason}")
    indices, order = outputs.indices.sort()
    logits, target = outputs.logits[order].float(), outputs.targets[order]
    num_classes = logits.shape[1]
    probability, predicted = logits.softmax(-1).max(-1)
    correct = predicted == target
    among_five = logits.topk(min(5, num_classes)).indices.eq(target[:, None]).any(-1)
    confusion = torch.bincount(target * num_classes + predicted, minlength=num_classes**2).view(num_classes, -1)
    return SplitResult(
        split=split,
        top1=float(correct.double().mean()),
        top1_interval=bootstrap_interval(int(correct.sum()), len(target)),
        top5=float(among_five.double().mean()),
        loss=float(F.cross_entropy(logits, target)),
        calibration=calibration(probability.numpy(), correct.numpy()),
        confusion=np.asarray(confusion),
        images_per_second=images_per_second,
        predictions=[
            Prediction(index=i, name=name(i), target=t, predicted=p, probability=q)
            for i, t, p, q in zip(
                indices.tolist(), target.tolist(), predicted.tolist(), probability.tolist(), strict=True
            )
        ],
        skipped=outputs.skipped,
    )
