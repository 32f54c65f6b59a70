"""Trackers, to which metrics go beside the run folder: TensorBoard, Weights & Biases or trackio, through accelerate."""

import importlib.util
from typing import Any

from accelerate import Accelerator

from transnext.config import TrainConfig
from transnext.engine.run_folder import RunFolder

PROJECT = "transnext"
"""Under which services list the runs."""


def require_tracker(tracker: str) -> None:
    """Refuses a tracker whose package is missing.

    Raises:
        ValueError: It is.
    """
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise ValueError(f'tracker is {tracker!r}, which is not installed: pip install "transnext[{tracker}]"')


def start_trackers(
    accelerator: Accelerator, config: TrainConfig, folder: RunFolder, *, run_id: str, epochs_done: int
) -> None:
    """Opens the tracker of a run, or opens it again, so that no epoch is in it twice.

    Args:
        accelerator: Made with `log_with` of the configuration.
        config: The configuration.
        folder: The run.
        run_id: Stays the same when the run goes on.
        epochs_done: What was logged after these epochs is void.
    """
    options: dict[str, Any] = {
        "tensorboard": {"purge_step": epochs_done + 1} if epochs_done else {},
        "wandb": {"id": run_id, "name": folder.path.name, "dir": str(folder.path), "resume": "allow"},
        "trackio": {"name": f"{folder.path.name}-{run_id}", "resume": "allow"},
    }
    if config.run.tracker == "tensorboard":
        accelerator.init_trackers("run", init_kwargs=options)
    elif config.run.tracker != "none":
        accelerator.init_trackers(PROJECT, config=config.options(), init_kwargs=options)
