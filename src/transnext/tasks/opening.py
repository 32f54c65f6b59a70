"""Trained models of any task from checkpoints, run folders, hub folders and names."""

from pathlib import Path

import torch

from transnext.models.checkpoint import read_tensors
from transnext.tasks.classification.loading import load_classifier
from transnext.tasks.released import fetched, is_released_name, task_of_released
from transnext.tasks.task import DEFAULT_TASK, Loaded, task_class

HUB_WEIGHTS = "model.safetensors"
"""The weights in a hub folder; where it is one of a task other than classification, a checkpoint of ours."""


def open_trained(model: str | Path, *, image_size: int | None = None, device: str | torch.device = "cpu") -> Loaded:
    """A trained model of whatever task; it may be a backbone that cannot be asked anything.

    Args:
        model: A run folder, a folder that `transnext export --format hf` made of another model than a classifier, a
            checkpoint, or a model name with pretrained weights.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        device: Where to put it.

    Raises:
        FileNotFoundError: There is no such file or folder, nor a model of that name.
        ValueError: It cannot be read.
    """
    path = _weights_of(Path(model))
    if is_released_name(path):
        path = fetched(str(path))
    name = _task_of(path)
    if name == DEFAULT_TASK:
        return load_classifier(model, image_size=image_size, device=device)
    return task_class(name).load(path, image_size=image_size, device=device)


def _weights_of(path: Path) -> Path:
    """The file with the weights, of a folder that of a run or of the hub."""
    if not path.is_dir():
        return path
    best = path / "best.safetensors"
    return best if best.exists() else path / HUB_WEIGHTS


def _task_of(path: Path) -> str:
    """Name of the task of a checkpoint; what does not say it, and is none that was released, is a classifier."""
    if not path.is_file():
        return DEFAULT_TASK
    tensors, metadata = read_tensors(path)
    return task_of_released(tensors) or str(metadata.get("task", DEFAULT_TASK))
