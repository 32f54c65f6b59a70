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

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from transnext.atomic import write_atomically
from transnext.config import GIVEN, TrainConfig
from transnext.tasks.task import Result

_LOCK_SECONDS = 2
"""Seconds to wait for the lock: readers of a run that was just killed may hold it for a moment."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Summary of a training run that has ended.

    Attributes:
        folder: The run folder.
        report: The page to look at, in the run folder.
        history: One mapping for each epoch.
        results: Accuracy on each split: of the best weights, or of the last ones if the run was interrupted.
        interrupted: Whether a signal ended it early; `train(config, resume="auto")` goes on.
        signal: That signal, or None.
    """

    folder: Path
    report: Path
    history: list[dict[str, Any]]
    results: list[Result]
    interrupted: bool
    signal: int | None


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

    def open(self, *, resume: bool) -> None:
        """Makes the folder, or takes up the run that is there, and keeps other processes out until `close`.

        Raises:
            ValueError: It holds a run that is not to be resumed, or another process trains in it.
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
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink()

    def write_config(self, config: TrainConfig, given: TrainConfig) -> None:
        """Writes the configuration, which has absolute paths, with the paths as they were given beside them."""
        write_atomically(self.config_file, config.to_json(given))

    def config(self, data: str | None = None) -> TrainConfig:
        """The configuration of the run, with absolute paths; see `with_absolute_paths`."""
        return self.with_absolute_paths(TrainConfig.load(self.config_file), data)

    def with_absolute_paths(self, config: TrainConfig, data: str | None = None) -> TrainConfig:
        """A configuration of this run with absolute paths.

        Older versions wrote paths as they were given: these start where the run was started, as far as the end of the
        folder's own path tells.

        Args:
            config: The configuration.
            data: Where the data are now; where they were by default.

        Raises:
            ValueError: It does not say where the data are.
        """
        if data is not None:
            config = config.but(data=config.but(data=data).with_absolute_paths().data)
        here, output = self.path.absolute().parts, Path(config.output).parts
        base = here[: len(here) - len(output)]
        if not Path(config.output).is_absolute() and base + output == here:
            return config.with_absolute_paths(Path(*base))
        if config.with_absolute_paths().data != config.data:
            raise ValueError(
                f"{self.path} calls its data {config.data!r} and does not say where: name them with --data"
            )
        return config.with_absolute_paths()

    def given(self, name: str) -> str | None:
        """A path of the configuration as it was given."""
        values = json.loads(self.config_file.read_text(encoding="utf-8"))
        path: str | None = values.get(GIVEN, {}).get(name, values[name])
        return path

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

    def write_results(self, results: Sequence[Result]) -> None:
        """Writes what splits gave as JSON."""
        write_atomically(self.results_file, json.dumps({result.split: result.to_dict() for result in results}) + "\n")

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
