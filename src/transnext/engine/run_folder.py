"""The folder of a training run and what is kept in it.

config.json        the full configuration
metrics.jsonl      a line for each epoch
tensorboard/       the same as events
last.safetensors   weights after the last epoch
best.safetensors   weights of the epoch with the best validation accuracy
checkpoints/       what it takes to go on, see `transnext.engine.checkpoints`
results.json       accuracy on each split, from `best`
skipped.txt        images that could not be read
nan_batch.txt      images of the update whose loss was not finite, if that ended the run
report.html        all of it, to look at
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from transnext.atomic import write_atomically
from transnext.engine.config import TrainConfig

_LOCK_SECONDS = 2
"""How long to wait for the lock: readers of a run that was just killed may hold it for a moment."""

_FIXED = (
    "data",
    "model",
    "image_size",
    "seed",
    "batch_size",
    "repeats",
    "balanced",
    "val_fraction",
    "freeze_stages",
    "layer_decay",
)
"""What must stay the same when a run goes on: else its images, its weights or its order would be others."""


class RunFolder:
    """Paths of a run and the files that hold its progress.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.results_file = self.path / "results.json"
        self.skipped_file = self.path / "skipped.txt"
        self.nan_file = self.path / "nan_batch.txt"
        self.report_file = self.path / "report.html"
        self.tensorboard = self.path / "tensorboard"
        self._lock = FileLock(self.path / ".lock")

    def open(self, config: TrainConfig, *, resume: bool) -> None:
        """Makes the folder, or takes up the run that is there, and keeps other processes out until `close`.

        Raises:
            ValueError: It holds a run that is not to be resumed or was of another kind, or another process trains in
                it.
            OSError: It cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise ValueError(
                f"another process trains in {self.path}: wait for it, or choose another --output"
            ) from None
        except OSError as error:
            raise type(error)(
                f"cannot write to {self.path}: {error.strerror or error}; choose another --output"
            ) from None
        if not resume and (self.config_file.exists() or self.checkpoints.exists()):
            raise ValueError(
                f"{self.path} already holds a run: add --resume auto to go on with it, or choose another --output"
            )
        if self.config_file.exists():
            self.check(dataclasses.asdict(TrainConfig.load(self.config_file)), config)
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink()
        write_atomically(self.config_file, config.to_json())

    def check(self, old: Mapping[str, Any], new: TrainConfig) -> None:
        """Refuses to go on with a run of another kind.

        Args:
            old: The configuration that it was started with, by field.
            new: That which it is to go on with.

        Raises:
            ValueError: The configurations differ in what must not change.
        """
        for name in _FIXED:
            if old[name] != getattr(new, name):
                raise ValueError(
                    f"{self.path} was started with {name} {old[name]!r}, not {getattr(new, name)!r}: "
                    "give the same to resume it, or choose another --output"
                )

    def close(self) -> None:
        """Lets other processes in."""
        self._lock.release()

    def history(self) -> list[dict[str, Any]]:
        """The epochs so far."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    def write_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes the lines of all epochs."""
        write_atomically(self.metrics_file, "".join(json.dumps(_finite(row)) + "\n" for row in rows))

    def write_skipped(self, skipped: Mapping[str, str]) -> None:
        """Lists images that could not be read, one line each: name, tab, reason."""
        if skipped:
            write_atomically(self.skipped_file, "".join(f"{name}\t{why}\n" for name, why in sorted(skipped.items())))

    def write_nan_batch(self, names: Sequence[str]) -> None:
        """Lists the images of an update whose loss was not finite, one line each."""
        write_atomically(self.nan_file, "".join(f"{name}\n" for name in names))


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without NaN and infinity, which JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
