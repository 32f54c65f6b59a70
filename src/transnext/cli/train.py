"""`transnext train DATA`."""

import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from transnext.cli.allocator import keep_freed_memory
from transnext.engine.config import TrainConfig
from transnext.engine.recipes import recipe as named_recipe


def train(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")],
    recipe: str | None = None,
    resume: Annotated[str, tyro.conf.arg(metavar="auto|never|CHECKPOINT")] = "never",
) -> None:
    """Train a classifier, evaluate it on every split and write a report.

    Args:
        config: What to train, on what and how.
        recipe: Take the values of a recipe for the options that are not given; `transnext recipes` lists them.
        resume: Go on with the run in --output: auto from its newest whole checkpoint, or from the one at this path.
    """
    from transnext.engine.trainer import train as run_training

    keep_freed_memory()
    result = run_training(config, resume=resume)
    if result.signal == signal.SIGINT:
        sys.exit(130)


def recipe_defaults(args: Sequence[str]) -> TrainConfig | None:
    """The configuration of the recipe that command-line arguments name, without its data; None if they name none.

    Its values have to be known before the arguments are parsed, whose defaults they are.

    Raises:
        ValueError: There is no such recipe.
    """
    name = None
    for i, arg in enumerate(args):
        if arg == "--recipe" and i + 1 < len(args):
            name = args[i + 1]
        elif arg.startswith("--recipe="):
            name = arg.removeprefix("--recipe=")
    return None if name is None or args[0] != "train" else named_recipe(name, data=tyro.MISSING)
