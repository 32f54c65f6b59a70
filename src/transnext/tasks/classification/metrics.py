"""Accuracy of a classifier on a split, from its outputs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from transnext.data import Batch
from transnext.tasks.classification.calibration import calibration
from transnext.tasks.classification.intervals import bootstrap_interval
from transnext.tasks.classification.results import Prediction, SplitResult
from transnext.tasks.task import Meter


class Outputs(NamedTuple):
    """Answers of a model about `N` images.

    Attributes:
        logits: float32 `[N, classes]`, on the CPU, as are the others.
        targets: int64 `[N]`.
        indices: int64 `[N]`, places in the split.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor


class ClassificationMeter(Meter[torch.Tensor]):
    """Gathers logits and classes of a split.

    Args:
        class_names: Of all classes.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__()
        self.class_names = tuple(class_names)
        self._parts: list[Outputs] = []

    def add(self, raw: torch.Tensor, batch: Batch) -> None:
        """Takes logits `[B, classes]`."""
        self._parts.append(Outputs(raw.float().cpu(), batch.targets.cpu(), batch.indices.cpu()))

    def state(self) -> tuple[Outputs, list[tuple[str, str]]]:
        """Outputs for all images, and those that could not be read."""
        return self._outputs(), self.skipped

    def merge(self, states: Sequence[tuple[Outputs, list[tuple[str, str]]]]) -> None:
        """Takes those of all processes."""
        self._parts = [outputs for outputs, _ in states]
        self.skipped = [skipped for _, part in states for skipped in part]

    def result(
        self, split: str, name: Callable[[int], str] = str, images_per_second: float | None = None
    ) -> SplitResult:
        """See `Meter.result`."""
        return summarise(
            self._outputs(),
            self.skipped,
            split=split,
            name=name,
            class_names=self.class_names,
            images_per_second=images_per_second,
        )

    def _outputs(self) -> Outputs:
        if not self._parts:  # a process may have no image of the split: what it gathered still has the right shape
            nothing = torch.empty(0, dtype=torch.int64)
            return Outputs(torch.empty(0, len(self.class_names)), nothing, nothing)
        return Outputs(*map(torch.cat, zip(*self._parts, strict=True)))


def summarise(
    outputs: Outputs,
    skipped: list[tuple[str, str]],
    *,
    split: str = "val",
    name: Callable[[int], str] = str,
    class_names: Sequence[str] = (),
    images_per_second: float | None = None,
) -> SplitResult:
    """All that is to be known of the outputs of a split.

    Args:
        outputs: Logits and true classes of its images, in any order.
        skipped: Name and reason of images that could not be read.
        split: Name of the split.
        name: From the place of an image to its name.
        class_names: Of all classes, if they are known.
        images_per_second: Speed of the model, if it was measured.

    Raises:
        ValueError: There is no image.
    """
    if not len(outputs.targets):
        first, reason = skipped[0] if skipped else ("it", "it is empty")
        raise ValueError(f"no image of the split {split!r} could be read; the first: {first}: {reason}")
    indices, order = outputs.indices.sort()
    logits, target = outputs.logits[order].float(), outputs.targets[order]
    num_classes = logits.shape[1]
    probability, predicted = logits.softmax(-1).max(-1)
    finite = logits.isfinite().all(-1)
    # What is not a number is no answer, wherever its maximum is said to be: it counts as another class.
    predicted = predicted.where(finite, (target + 1) % num_classes)
    probability = probability.where(finite, 0)
    correct = predicted == target
    among_five = logits.topk(min(5, num_classes)).indices.eq(target[:, None]).any(-1) & finite
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
        skipped=skipped,
        class_names=tuple(class_names),
        notes=() if finite.all() else (f"{int((~finite).sum())} images had answers that are not finite: wrong ones",),
    )
