"""`transnext COMMAND ...`."""

import ast
import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from transnext.cli.process import let_threads_sleep
from transnext.version import __version__

COMMANDS = ("train", "eval", "study", "predict", "export", "report", "models", "recipes", "info", "convert", "bench")
"""Each is the function of its name in the module of its name; `eval` is called `evaluate`."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command. Mistakes of the user end in one line on standard error and exit status 2.

    Args:
        args: Command-line arguments; those of the process by default.
    """
    let_threads_sleep()
    # On a machine without a GPU PyTorch's data loader and accelerate say so at every start.
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    for stream in (sys.stdout, sys.stderr):  # a name that cannot be shown there is shown with escapes
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = sys.argv[1:] if args is None else args
    try:
        _run(args)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(141)
    except (ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"transnext: {_one_line(error)}", style="red", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(args: Sequence[str]) -> None:
    config: list[Any] = [tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff]
    if args and args[0] in COMMANDS:
        # Only the command that is called is imported: PyTorch takes seconds.
        command = _function(args[0])
        if args[0] == "train":
            from transnext.cli.train import recipe_defaults

            defaults = recipe_defaults(args)
            if defaults is not None:
                command = functools.partial(command, config=defaults)
                config.pop()  # what a recipe turns on can be turned off, as by --no-balanced
        tyro.cli(command, prog=f"transnext {args[0]}", args=args[1:], config=config)
    elif args and args[0] == "--version":
        print(f"transnext {__version__}")
    else:
        whole = any(arg.startswith("--tyro-") for arg in args)  # completion of a shell lists all options
        tyro.extras.subcommand_cli_from_dict(
            {name: _function(name) if whole else _stand_in(name) for name in COMMANDS},
            prog="transnext",
            description="TransNeXt: train, evaluate, predict, and see where the model looks.",
            args=args,
            config=config,
        )


def _name(command: str) -> str:
    return {"eval": "evaluate"}.get(command, command)


def _function(command: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(f"transnext.cli.{command}"), _name(command))
    return function


def _stand_in(command: str) -> Callable[[], None]:
    """A function with the description of a command, read from its source, and nothing else of it."""
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    found = next(x for x in ast.parse(source).body if isinstance(x, ast.FunctionDef) and x.name == _name(command))

    def stand_in() -> None:
        pass

    stand_in.__doc__ = (ast.get_docstring(found) or "").partition("\n")[0]
    return stand_in


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
