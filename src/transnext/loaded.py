"""A trained model from wherever it is, whatever its task."""

from pathlib import Path

import torch

from transnext.export import is_exported, open_exported
from transnext.models.checkpoint import read_tensors
from transnext.tasks.classification.loading import load_classifier
from transnext.tasks.detection.released import fetched, is_released_name, kind_of_released
from transnext.tasks.task import DEFAULT_TASK, Loaded, task_class


def load(model: str | Path | Loaded, *, image_size: int | None = None, device: str | torch.device = "cpu") -> Loaded:
    """A trained model, ready to be asked.

    Args:
        model: An exported file, a run folder, a checkpoint, a model name with pretrained weights, or a `Loaded`, which
            stays as it is.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        device: Where to put it; exported files stay on the CPU.

    Raises:
        FileNotFoundError: There is no such file or folder, nor a model of that name.
        ValueError: It cannot be read, or cannot be asked anything: it has no classes, for example.
    """
    loaded = opened(model, image_size=image_size, device=device)
    loaded.task.check(loaded)
    return loaded


def opened(model: str | Path | Loaded, *, image_size: int | None = None, device: str | torch.device = "cpu") -> Loaded:
    """A trained model as `load` gives it, which perhaps cannot be asked anything."""
    if isinstance(model, Loaded):
        return model
    if is_exported(model):
        return open_exported(model, image_size)
    path = Path(model) / "best.safetensors" if Path(model).is_dir() else Path(model)
    if is_released_name(path):
        path = fetched(str(path))
    name = _task_of(path)
    if name == DEFAULT_TASK:
        return load_classifier(model, image_size=image_size, device=device)
    return task_class(name).load(path, image_size=image_size, device=device)


def _task_of(path: Path) -> str:
    """Name of the task of a checkpoint; what does not say it, and is no released detector, is a classifier."""
    if not path.is_file():
        return DEFAULT_TASK
    tensors, metadata = read_tensors(path)
    if kind_of_released(tensors) is not None:
        return "detection"
    name: str = metadata.get("task", DEFAULT_TASK)
    return name
