"""`transnext train DATA`."""

import signal
import sys
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import tyro

from transnext.cli.process import keep_freed_memory
from transnext.config import TrainConfig
from transnext.tasks.classification.config import ClassificationConfig
from transnext.tasks.recipes import recipe as named_recipe


def train(
    config: Annotated[TrainConfig[ClassificationConfig], tyro.conf.arg(name="")],
    recipe: str | None = None,
    resume: Annotated[str, tyro.conf.arg(metavar="auto|never|CHECKPOINT")] = "never",
    accept_changed: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[OPTION ...]")] = (),
) -> None:
    """Train a classifier, evaluate it on every split and write a report.

    Args:
        config: What to train, on what and how.
        recipe: Take the values of a recipe for the options that are not given; `transnext recipes` lists them.
        resume: Go on with the run in --output: auto from its newest whole checkpoint, or from the one at this path.
            Options that are not given are then those of the run.
        accept_changed: What may be others than the run was started with, for example data, epochs or lr.
    """
    run(config, resume, accept_changed)


def run(config: TrainConfig[Any], resume: str, accept_changed: Collection[str]) -> None:
    """Trains; a run that is interrupted ends the process with the status that shells expect."""
    from transnext.engine.trainer import train as run_training

    keep_freed_memory()
    result = run_training(config, resume=resume, accept_changed=accept_changed)
    if result.signal == signal.SIGINT:
        sys.exit(130)


def defaults(args: Sequence[str], task: str) -> TrainConfig[Any] | None:
    """The values of options that command-line arguments leave out; None for those of `TrainConfig`.

    They are those of the recipe that the arguments name, without its data, or of the run that they resume. They have to
    be known before the arguments are parsed, whose defaults they are.

    Args:
        args: The command, "train", and its arguments.
        task: Name of the task.

    Raises:
        ValueError: There is no such recipe, the run cannot be read, or it is one of another task.
    """
    name, resume, output = (_value_of(option, args) for option in ("--recipe", "--resume", "--output"))
    if name is not None:
        return named_recipe(name, data=tyro.MISSING, task=task)
    found = None
    if resume not in (None, "never"):
        from transnext.engine.resume import config_of_run, parse_resume  # imports PyTorch: --help need not wait for it
        from transnext.engine.run_folder import RunFolder

        found = config_of_run(parse_resume(resume), RunFolder(output or TrainConfig.output))
    if found is not None and found.task_name != task:
        raise ValueError(f"{output or TrainConfig.output} is a run of {found.task_name}, not of {task}")
    if found is None and task != "classification":
        return TrainConfig.of(task=task, data=tyro.MISSING)
    return found


def _value_of(option: str, args: Sequence[str]) -> str | None:
    value = None
    for i, arg in enumerate(args):
        if arg == option and i + 1 < len(args):
            value = args[i + 1]
        elif arg.startswith(f"{option}="):
            value = arg.removeprefix(f"{option}=")
    return value
