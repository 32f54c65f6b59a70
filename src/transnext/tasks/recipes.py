"""Training recipes by name, of all tasks."""

from importlib import import_module
from typing import Any

from transnext.config import TrainConfig

MODULES = {
    "classification": "transnext.tasks.classification.recipes",
    "detection": "transnext.tasks.detection.recipes",
    "segmentation": "transnext.tasks.segmentation.recipes",
}
"""The recipes of each task; imported when they are needed."""


OWN_DATA: dict[str, Any] = {
    "model": "transnext_tiny",
    "pretrained": True,
    "head_size": "small",
    "batch_size": 8,
    "lr": 5e-4,
    "backbone_lr": 0.25,
    "warmup_epochs": 2,
    "min_lr": 1e-6,
    "drop_path": 0.1,
    "ema": 0.998,
    "workers": 2,
}
"""Of recipes for own boxes and own maps."""
RELEASED: dict[str, Any] = {
    "pretrained": True,
    "head_size": "released",
    "fit": "shortest",
    "augment": "released",
    "hflip": 0.5,
    "batch_size": 16,
    "weight_decay": 0.05,
    "ema": 0.0,
    "workers": 4,
}
"""Of the released detectors and segmenters."""


def recipes_of(task: str) -> dict[str, Any]:
    """The recipes of a task by name: functions from the data, and a run folder, to a configuration."""
    found: dict[str, Any] = import_module(MODULES[task]).RECIPES
    return found


def recipe(name: str, data: str, output: str | None = None, task: str | None = None) -> TrainConfig[Any]:
    """The configuration of a named recipe.

    Args:
        name: Its name.
        data: As in `TrainConfig`.
        output: Run folder; `runs/` and the name by default.
        task: Name of the task, for recipes of that alone.

    Raises:
        ValueError: There is no such recipe.
    """
    found = {name: function for of in ([task] if task else MODULES) for name, function in recipes_of(of).items()}
    if name not in found:
        raise ValueError(f"no recipe is called {name!r}: choose one of {', '.join(found)}")
    config: TrainConfig[Any] = found[name](data) if output is None else found[name](data, output)
    return config
