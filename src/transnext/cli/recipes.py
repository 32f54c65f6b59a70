"""`transnext recipes [NAME]`."""

import sys
from inspect import getdoc
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from transnext.config import TrainConfig
from transnext.tasks.recipes import MODULES, recipe, recipes_of


def recipes(name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None) -> None:
    """List the recipes of `transnext [detect|segment] train --recipe NAME`, or show one with all its values.

    Args:
        name: The recipe to show; a list of all by default.
    """
    table = _list() if name is None else _values(name)
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)


def _list() -> Table:
    table = Table(title="Recipes")
    table.add_column("recipe", no_wrap=True)
    table.add_column("what for")
    table.add_column("model", no_wrap=True)
    for column in ("pixels", "epochs", "batch", "lr", "drop path"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in (name for task in MODULES for name in recipes_of(task)):
        config = recipe(name, "DATA")
        cells = (_image_size(config), config.epochs, config.batch_size, config.optim.lr, config.start.drop_path)
        table.add_row(name, _purpose(name), config.model, *map(_text, cells))
    return table


def _values(name: str) -> Table:
    config = recipe(name, "DATA").options()
    defaults = TrainConfig.of(task=config["task"], data="DATA").options()
    table = Table("option", "value", "without a recipe", title=f"{name}: {_purpose(name)}")
    for option, value in config.items():
        if option == "task":
            continue
        changed = value != defaults[option]
        flag = "DATA" if option == "data" else f"--{option.replace('_', '-')}"
        table.add_row(flag, _text(value), _text(defaults[option]) if changed else "", style="bold" if changed else None)
    return table


def _purpose(name: str) -> str:
    functions = {name: function for task in MODULES for name, function in recipes_of(task).items()}
    return (getdoc(functions[name]) or "").splitlines()[0].rstrip(".")


def _image_size(config: TrainConfig) -> int:
    if config.images.image_size is not None:
        return config.images.image_size
    import timm

    return timm.get_pretrained_cfg(config.model).input_size[-1]


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
