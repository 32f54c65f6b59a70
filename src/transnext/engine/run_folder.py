"""The folder of a training run and what is kept in it.

config.json        the full configuration
metrics.jsonl      a line for each epoch
tensorboard/       the same as events
last.safetensors   weights after the last epoch
best.safetensors   weights of the epoch with the best validation accuracy
state.pt           what it takes to go on: weights, optimiser, average, epoch
results.json       accuracy on each split, from `best`
skipped.txt        images that could not be read
report.html        all of it, to look at
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

from transnext.atomic import replacing
from transnext.engine.config import TrainConfig


class RunFolder:
    """Paths of a run and the files that hold its progress.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.state_file = self.path / "state.pt"
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.results_file = self.path / "results.json"
        self.skipped_file = self.path / "skipped.txt"
        self.report_file = self.path / "report.html"
        self.tensorboard = self.path / "tensorboard"

    def start(self, config: TrainConfig) -> None:
        """Makes the folder for a new run.

        Raises:
            ValueError: It already holds a run.
            OSError: It cannot be written.
        """
        if self.config_file.exists():
            raise ValueError(
                f"{self.path} already holds a run: add --resume to go on with it, or choose another --output"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_file, config.to_json())

    def resume(self, config: TrainConfig) -> dict[str, Any] | None:
        """Takes up the run that is there; its saved state, or None if there is none yet.

        Raises:
            ValueError: The run was of another model or other data, or its state cannot be read.
        """
        if not self.config_file.exists():
            self.start(config)
            return None
        old = TrainConfig.load(self.config_file)
        for name in ("data", "model", "image_size", "seed", "batch_size"):
            if getattr(old, name) != getattr(config, name):
                raise ValueError(
                    f"{self.path} was started with {name} {getattr(old, name)!r}, not {getattr(config, name)!r}: "
                    "give the same to resume it, or choose another --output"
                )
        write_atomically(self.config_file, config.to_json())
        return self.load_state()

    def load_state(self) -> dict[str, Any] | None:
        """What `save_state` saved last."""
        if not self.state_file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state_file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{self.state_file} cannot be read ({error}): remove it to start again") from None
        return state

    def save_state(self, state: dict[str, Any]) -> None:
        """Saves tensors and plain values, so that a crash leaves the old state or the new one."""
        with replacing(self.state_file) as temporary:
            torch.save(state, temporary)

    def history(self) -> list[dict[str, Any]]:
        """The epochs so far, as written by `append_metrics`."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    def truncate_metrics(self, epochs: int) -> None:
        """Forgets epochs after the first `epochs`, which are about to be repeated."""
        kept = [json.dumps(row) for row in self.history() if row["epoch"] <= epochs]
        write_atomically(self.metrics_file, "".join(line + "\n" for line in kept))

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds the line of one epoch."""
        row = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in row.items()}
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def write_skipped(self, skipped: dict[str, str]) -> None:
        """Lists images that could not be read, one line each: name, tab, reason."""
        if skipped:
            write_atomically(self.skipped_file, "".join(f"{name}\t{why}\n" for name, why in sorted(skipped.items())))


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a reader or a crash sees the old one or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
