"""`transnext COMMAND ...`."""

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from rich.console import Console

from transnext.cli.bench import bench
from transnext.cli.convert import convert
from transnext.cli.eval import evaluate
from transnext.cli.export import export
from transnext.cli.info import info
from transnext.cli.models import models
from transnext.cli.predict import predict
from transnext.cli.recipes import recipes
from transnext.cli.report import report
from transnext.cli.train import recipe_defaults, train

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "export": export,
    "report": report,
    "models": models,
    "recipes": recipes,
    "info": info,
    "convert": convert,
    "bench": bench,
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command. Mistakes of the user end in one line on standard error and exit status 2.

    Args:
        args: Command-line arguments; those of the process by default.
    """
    # On a machine without a GPU PyTorch's data loader and accelerate say so at every start.
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    args = sys.argv[1:] if args is None else args
    try:
        defaults = recipe_defaults(args)
        commands, config = COMMANDS, [tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff]
        if defaults is not None:
            commands = {**COMMANDS, "train": functools.partial(train, config=defaults)}
            config.pop()  # what a recipe turns on can be turned off, as by --no-balanced
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="transnext",
            description="TransNeXt: train, evaluate, predict, and see where the model looks.",
            args=args,
            config=config,
        )
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(141)
    except (ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"transnext: {_one_line(error)}", style="red", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
