"""How far a run is: what is summed up within an epoch, what is known after each, and how both are said."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from transnext.data import ImageSource
from transnext.engine.batching import Batching
from transnext.engine.update import UpdateResult
from transnext.tasks.classification.build import Preprocessing

DATA_BOUND = 0.2
"""Share of the time spent waiting for images above which it is said."""


@dataclass
class EpochTotals:
    """Sums over the part of an epoch that is done; see `UpdateResult`.

    Attributes:
        updates: Updates done, those that were left out too.
        images: Images that were trained on.
        loss_sum: Sum of their losses.
        correct: How many of them were recognised.
        nan_updates: Updates that were left out because something was not finite.
        lr: Learning rate of the last update.
        seconds: Time they took.
        waiting: Part of it during which the main process waited for images.
    """

    updates: int = 0
    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    nan_updates: int = 0
    lr: float = 0.0
    seconds: float = 0.0
    waiting: float = 0.0

    def add(self, result: UpdateResult) -> None:
        """Counts an update."""
        self.updates += 1
        if result.not_finite:
            self.nan_updates += 1
        else:
            self.images += result.images
            self.loss_sum += result.loss_sum
            self.correct += result.correct

    def row(self) -> dict[str, float]:
        """The metrics of the epoch."""
        return {
            "lr": self.lr,
            "train_loss": self.loss_sum / self.images,
            "train_accuracy": self.correct / self.images,
            "nan_updates": self.nan_updates,
            "images_per_second": self.images / self.seconds,
            "waiting": self.waiting / self.seconds,
        }


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: Whole epochs done, with their evaluation.
        totals: The epoch that is under way.
        best_top1: Best validation accuracy, 0..1; -1 before the first.
        best_epoch: After how many epochs it was reached.
        history: One row for each epoch.
        skipped: Name and reason of images that could not be read.
        run_id: Name of the run for trackers.
    """

    epoch: int = 0
    totals: EpochTotals = field(default_factory=EpochTotals)
    best_top1: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        """From what `dataclasses.asdict` gives."""
        return cls(**{**values, "totals": EpochTotals(**values["totals"])})


def run_lines(
    name: str, model: nn.Module, preprocessing: Preprocessing, splits: Mapping[str, ImageSource], batching: Batching
) -> list[str]:
    """What is said before the first epoch: of the model, the images, and how a batch is divided."""
    parameters = sum(p.numel() for p in model.parameters())
    _, rows, cols = preprocessing.input_size
    sizes = ", ".join(f"{split} {len(source)}" for split, source in splits.items())
    classes = len(next(iter(splits.values())).classes)
    lines = [f"{name}, {parameters / 1e6:.2f} M parameters, {rows}x{cols} pixels, {classes} classes; images: {sizes}"]
    if batching.processes > 1 or batching.accumulation > 1:
        lines.append(
            f"{batching.batch_size} images in an update: {batching.processes} processes x "
            f"{batching.accumulation} x {batching.micro_batch_size}"
        )
    return lines


def update_figures(totals: EpochTotals) -> str:
    """What is shown beside the bar of an epoch."""
    if not totals.images:
        return ""
    row = totals.row()
    waiting = _waiting(row)
    return (
        f"loss {row['train_loss']:.3f}  acc {row['train_accuracy']:.1%}  {row['images_per_second']:.0f} img/s" + waiting
    )


def _waiting(row: dict[str, Any]) -> str:
    return f"  data-bound: {row['waiting']:.0%} waiting" if row["waiting"] > DATA_BOUND else ""


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """What is said after an epoch, of its row in the history."""
    val = f"  val {row['val_top1']:.1%} (loss {row['val_loss']:.3f})" if "val_top1" in row else ""
    left_out = f"  {row['nan_updates']} updates left out (not finite)" if row["nan_updates"] else ""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  train {row['train_accuracy']:.1%} (loss {row['train_loss']:.3f}){val}  "
        f"{row['images_per_second']:.0f} img/s  {row['seconds']:.0f} s{_waiting(row)}{left_out}"
    )
