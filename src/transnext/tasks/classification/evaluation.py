"""Accuracy of a classifier on a split."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from transnext.data import Batch, LabelledImages
from transnext.tasks.classification.results import Prediction, SplitResult


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
) -> SplitResult:
    """Evaluates a model on every image of a split once.

    Args:
        model: Gives logits `[B, classes]`; it is put into evaluation mode and left in the mode it was in.
        batches: The images of the split, in order.
        images: Where the batches come from, for classes and names.
        split: Name of the split, for the result.
        device: Where the model is.
        autocast_dtype: Dtype of autocast; None for none.
        on_batch: Called with the number of images after each batch.

    Raises:
        ValueError: No image of the split could be read.
    """
    was_training = model.training
    model.eval()
    num_classes = len(images.classes)
    logits: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    indices: list[int] = []
    skipped: list[tuple[str, str]] = []
    for batch in batches:
        skipped += batch.skipped
        if len(batch.images):
            with torch.autocast(torch.device(device).type, autocast_dtype, enabled=autocast_dtype is not None):
                output = model(batch.images.to(device))
            logits.append(output.float().cpu())
            targets.append(batch.targets.cpu())
            indices += batch.indices.tolist()
        if on_batch is not None:
            on_batch(len(batch.images))
    model.train(was_training)
    if not logits:
        name, reason = skipped[0] if skipped else ("it", "it is empty")
        raise ValueError(f"no image of the split {split!r} could be read; the first: {name}: {reason}")

    scores, target = torch.cat(logits), torch.cat(targets)
    probability, predicted = scores.softmax(-1).max(-1)
    among_five = scores.topk(min(5, num_classes)).indices.eq(target[:, None]).any(-1)
    confusion = torch.bincount(target * num_classes + predicted, minlength=num_classes**2).view(num_classes, -1)
    return SplitResult(
        split=split,
        top1=float((predicted == target).double().mean()),
        top5=float(among_five.double().mean()),
        loss=float(F.cross_entropy(scores, target)),
        confusion=np.asarray(confusion),
        predictions=[
            Prediction(index=i, name=images.source.name(i), target=t, predicted=p, probability=q)
            for i, t, p, q in zip(indices, target.tolist(), predicted.tolist(), probability.tolist(), strict=True)
        ],
        skipped=skipped,
    )
