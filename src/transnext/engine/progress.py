"""Progress of a run: the sums of an epoch, the history of epochs, and the lines about both."""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from transnext.config import TrainConfig
from transnext.data import Source
from transnext.data.preprocessing import Preprocessing
from transnext.engine.batching import Batching
from transnext.engine.update import UpdateResult
from transnext.report.text import rate
from transnext.tasks.task import Result

DATA_BOUND = 0.2
"""Share of the time spent waiting for images above which it is said."""
_METRICS_SHOWN = _NAMES_SHOWN = 3
_LEFT_OUT = 0.05
"""Share of the training images that an epoch may leave out unsaid."""


@dataclass
class EpochTotals:
    """Sums over the part of an epoch that is done; see `UpdateResult`.

    Attributes:
        updates: Updates done, those that were left out too.
        images: Images that were trained on.
        weight: What the sums below are sums over.
        parts: Sums of the losses by name.
        seen: More sums by name.
        nan_updates: Updates that were left out because something was not finite.
        lr: Learning rate of the last update.
        seconds: Time they took.
        waiting: Part of it during which the main process waited for images.
    """

    updates: int = 0
    images: int = 0
    weight: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
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
            self.weight += result.weight
            for mine, new in ((self.parts, result.parts), (self.seen, result.seen)):
                for name, value in new.items():
                    mine[name] = mine.get(name, 0.0) + value

    def row(self) -> dict[str, float]:
        """The metrics of the epoch."""
        return {
            "lr": self.lr,
            "train_loss": sum(self.parts.values()) / self.weight,
            **{f"train_{name}": value / self.weight for name, value in {**self.parts, **self.seen}.items()},
            "nan_updates": self.nan_updates,
            "images_per_second": self.images / self.seconds,
            "waiting": self.waiting / self.seconds,
        }


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        epoch: Whole epochs done, with their evaluation.
        totals: The epoch that is under way.
        best_score: Best score on the validation images; -inf before the first.
        best_epoch: After how many epochs it was reached.
        history: One row for each epoch.
        skipped: Name and reason of images that could not be read.
        run_id: Name of the run for trackers.
    """

    epoch: int = 0
    totals: EpochTotals = field(default_factory=EpochTotals)
    best_score: float = -math.inf
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        """From what `dataclasses.asdict` gives; older versions knew classification alone."""
        totals = dict(values["totals"])
        if "loss_sum" in totals:
            totals["parts"], totals["seen"] = {"loss": totals.pop("loss_sum")}, {"accuracy": totals.pop("correct")}
            totals["weight"] = float(totals["images"])
        values = {"best_score" if name == "best_top1" else name: value for name, value in values.items()}
        return cls(**{**values, "totals": EpochTotals(**totals)})

    def is_finished(self, config: TrainConfig) -> bool:
        """True if all epochs are done, or so many without a better score that patience is out."""
        patience = config.run.patience
        return self.epoch >= config.epochs or (patience > 0 and self.epoch - self.best_epoch >= patience)

    def where(self, config: TrainConfig, updates_per_epoch: int) -> str:
        """Epochs and updates done, for messages."""
        within = f" and {self.totals.updates} of {updates_per_epoch} updates" if self.totals.updates else ""
        return f"after {self.epoch} of {config.epochs} epochs{within}"


def run_lines(
    name: str,
    model: nn.Module,
    preprocessing: Preprocessing,
    splits: Mapping[str, Source],
    batching: Batching,
    updates_per_epoch: int,
) -> list[str]:
    """Lines before the first epoch: the model, the images, how a batch is divided, and what an epoch leaves out."""
    parameters = sum(p.numel() for p in model.parameters())
    _, rows, cols = preprocessing.input_size
    sizes = ", ".join(f"{split} {len(source)}" for split, source in splits.items())
    classes = getattr(next(iter(splits.values())), "classes", ())
    of_classes = f", {len(classes)} classes" if classes else ""
    lines = [f"{name}, {parameters / 1e6:.2f} M parameters, {rows}x{cols} pixels{of_classes}; images: {sizes}"]
    if batching.processes > 1 or batching.accumulation > 1:
        lines.append(
            f"{batching.batch_size} images in an update: {batching.processes} processes x "
            f"{batching.accumulation} x {batching.micro_batch_size}"
        )
    seen, there = updates_per_epoch * batching.batch_size, len(splits["train"])
    if seen < (1 - _LEFT_OUT) * there:
        lines.append(
            f"{seen} of {there} training images are seen in an epoch, others in the next: what is left over is less "
            "than a batch, and a smaller --batch-size leaves less"
        )
    return lines


def not_finite_message(
    result: UpdateResult, update: int, progress: Progress, names: Sequence[str], file: Path, last_good: Path
) -> str:
    """Message that ends a run whose loss or gradient was not finite.

    Args:
        result: The update.
        update: Its number in the run, from 0.
        progress: Of the run.
        names: Its images.
        file: Where all their names are.
        last_good: The checkpoint before it.
    """
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    return (
        f"the {result.not_finite} of update {update + 1} (epoch {progress.epoch + 1}) is not finite, with the "
        f"{len(names)} images {shown} (all in {file}): lower --lr, raise --warmup-epochs, or leave such updates out "
        f"with --nan skip; the last good checkpoint is {last_good}"
    )


def update_figures(totals: EpochTotals) -> str:
    """Figures beside the bar of an epoch."""
    if not totals.images:
        return ""
    row = totals.row()
    return f"{_training(row, list(totals.seen))}  {rate(row['images_per_second'])} img/s{_waiting(row)}"


def _training(row: Mapping[str, Any], seen: Sequence[str]) -> str:
    return "  ".join([f"loss {row['train_loss']:.3f}", *(f"{name} {row[f'train_{name}']:.1%}" for name in seen)])


def _waiting(row: Mapping[str, Any]) -> str:
    return f"  data-bound: {row['waiting']:.0%} waiting" if row["waiting"] > DATA_BOUND else ""


def epoch_line(row: Mapping[str, Any], epochs: int, totals: EpochTotals, val: Result | None) -> str:
    """One line about an epoch.

    Args:
        row: Its row in the history.
        epochs: Epochs of the run.
        totals: Its sums.
        val: What the validation images gave, if there are such.
    """
    metrics = [] if val is None else [f"{m.title} {m.text()}" for m in list(val.metrics.values())[:_METRICS_SHOWN]]
    judged = f"  val {' '.join(metrics)}" if metrics else ""
    left_out = f"  {row['nan_updates']} updates left out (not finite)" if row["nan_updates"] else ""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  train {_training(row, list(totals.seen))}{judged}  "
        f"{rate(row['images_per_second'])} img/s  {row['seconds']:.0f} s{_waiting(row)}{left_out}"
    )
