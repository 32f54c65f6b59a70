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

COMMANDS = (
    "train",
    "eval",
    "study",
    "explain",
    "predict",
    "export",
    "web",
    "report",
    "models",
    "recipes",
    "check",
    "info",
    "convert",
    "bench",
)
"""Each is the function of its name in the module of its name; `eval` is called `evaluate`."""
GROUPS = {
    "detect": {"train": "detect", "eval": "detect", "predict": "detect", "check": "detect"},
    "segment": {"train": "segment", "eval": "segment", "predict": "segment", "check": "segment"},
    "demo": {"detect": "demo"},
}
"""Commands that have commands of their own, and the module of each."""
TASK_OF = {"detect": "detection", "segment": "segmentation"}
"""Task of a group of commands."""


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
    group = args[0] if args and args[0] in GROUPS else None
    modules = {name: name for name in COMMANDS} if group is None else GROUPS[group]
    prog, args = ("transnext", args) if group is None else (f"transnext {group}", args[1:])
    if args and args[0] in modules:
        # Only the command that is called is imported: PyTorch takes seconds.
        command = _function(args[0], modules[args[0]])
        if args[0] == "train":
            from transnext.cli.train import defaults

            values = defaults(args, "classification" if group is None else TASK_OF[group])
            if values is not None:
                command = functools.partial(command, config=values)
                config.pop()  # what a recipe turns on can be turned off, as by --no-balanced
        tyro.cli(command, prog=f"{prog} {args[0]}", args=args[1:], config=config)
    elif group is None and args and args[0] == "--version":
        print(f"transnext {__version__}")
    else:
        whole = any(arg.startswith("--tyro-") for arg in args)  # completion of a shell lists all options
        commands = {name: (_function if whole else _stand_in)(name, module) for name, module in modules.items()}
        description = "TransNeXt: train, evaluate, predict, and see where the model looks."
        if group is None:
            commands |= {name: _described(_documentation(name)) for name in GROUPS}
        else:
            description = _documentation(group)
        tyro.extras.subcommand_cli_from_dict(commands, prog=prog, description=description, args=args, config=config)


def _name(command: str) -> str:
    return {"eval": "evaluate"}.get(command, command)


def _function(command: str, module: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(f"transnext.cli.{module}"), _name(command))
    return function


def _stand_in(command: str, module: str) -> Callable[..., Any]:
    """A function with the description of a command, read from its source, and nothing else of it."""
    return _described(_documentation(module, _name(command)))


def _described(description: str) -> Callable[[], None]:
    def stand_in() -> None:
        pass

    stand_in.__doc__ = description
    return stand_in


def _documentation(module: str, function: str | None = None) -> str:
    """The first line of the docstring of a command, or of a module of commands, without importing it."""
    node: Any = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    if function is not None:
        node = next(x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == function)
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
