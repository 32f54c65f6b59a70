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
