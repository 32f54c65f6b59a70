"""A trained model from wherever it is, whatever its task."""

from pathlib import Path

import torch

from transnext.export import is_exported, open_exported
from transnext.tasks.opening import open_trained
from transnext.tasks.task import Loaded


def load(model: str | Path | Loaded, *, image_size: int | None = None, device: str | torch.device = "cpu") -> Loaded:
    """A trained model, ready to be asked.

    Args:
        model: An exported file, a run folder, a checkpoint, a hub folder of a detector, a model name with pretrained
            weights, or a `Loaded`, which stays as it is.
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
    return open_trained(model, image_size=image_size, device=device)
