"""`transnext eval MODEL DATA`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from transnext.atomic import check_writable, write_atomically
from transnext.limits import MAX_SEED, check_number
from transnext.version import __version__

if TYPE_CHECKING:
    from transnext.engine.evaluation import Evaluator
    from transnext.tasks.task import Loaded


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What of the data is measured, and how."""

    splits: tuple[str, ...] = ()
    """Which splits; all by default. Data without any are one, "all", unless the model was trained on them."""
    image_size: int | None = None
    """Side that images are brought to, pixels; the trained one by default."""
    batch_size: int | None = None
    """Images in a forward pass; by default 8, 128 for classifiers of 224 pixels, 1 where each is looked at often."""
    workers: int = 1
    """Processes that read images."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    val_fraction: float | None = None
    """Share held out where the data come without splits; by default as in training, for the data that the model was
    trained on."""
    seed: int | None = None
    """Decides what is held out; by default as in training."""
    json_file: Path | None = None
    """Also write the results, those of each class, the confusion and what they were measured with, to this file."""

    def check(self) -> None:
        """Refuses what cannot be meant, before the work.

        Raises:
            ValueError: A number is out of range.
            OSError: The file cannot be written.
        """
        check_splitting(self.val_fraction, self.seed)
        if self.json_file is not None:
            check_writable(self.json_file)


Options = Annotated[Measuring, tyro.conf.arg(name="")]
"""Of each command that measures."""


def evaluate(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    options: Options = Measuring(),
    flip: bool = False,
) -> None:
    """Measure the accuracy of a classifier on a data set.

    `transnext study` measures it under corruption, at other image sizes and on the sets of ImageNet.

    Args:
        model: A run folder, a checkpoint, an exported file (.onnx, .xml, .pt2), or the name of a model with pretrained
            weights.
        data: A set by name (emoji), or a folder of images.
        options: What is measured, and how.
        flip: Average the probabilities of each image and its mirror image, which takes twice the time.
    """
    options.check()
    measure(model, data, options, flip=flip)


def measure(model: str, data: str, options: Measuring, *, loaded: "Loaded | None" = None, flip: bool = False) -> None:
    """Evaluates a model of any task, prints a table, and writes the results if that is asked for.

    Args:
        model: As in `evaluate`.
        data: Images with what is to be found in them.
        options: What is measured, and how.
        loaded: The model, if it is open, at its image size.
        flip: See `evaluate`.
    """
    from transnext.engine.evaluation import Evaluator
    from transnext.tasks.table import results_table

    evaluator = Evaluator(
        loaded or model,
        image_size=None if loaded else options.image_size,
        flip=flip,
        batch_size=options.batch_size,
        workers=options.workers,
        device=options.device,
        quiet=False,
    )
    val_fraction, seed = evaluator.splitting(data, options.splits, options.val_fraction, options.seed)
    results = evaluator.run_splits(data, options.splits, val_fraction=val_fraction, seed=seed)
    console = Console()
    console.print(results_table(results))
    for result in results:
        for note in getattr(result, "notes", ()):
            console.print(f"{result.split}: {note}", markup=False, soft_wrap=True)
    print_skipped(console, (skipped for r in results for skipped in r.skipped))
    if options.json_file is not None:
        settings = {"model": model, "data": data, "flip": flip, "val_fraction": val_fraction, "seed": seed}
        write_json(options.json_file, evaluator, settings, {"splits": {r.split: r.to_dict() for r in results}})


def check_splitting(val_fraction: float | None, seed: int | None) -> None:
    """Refuses shares and seeds that cannot be meant.

    Raises:
        ValueError: One is out of range.
    """
    if val_fraction is not None:
        check_number("val_fraction", val_fraction, 0, 1)
    if seed is not None:
        check_number("seed", seed, 0, MAX_SEED)


def write_json(file: Path, evaluator: "Evaluator", settings: dict[str, Any], values: dict[str, Any]) -> None:
    """Writes results and what they were measured with.

    Args:
        file: The file.
        evaluator: What measured them.
        settings: What it was asked for.
        values: The results.
    """
    height, width = evaluator.loaded.preprocessing.input_size[1:]
    settings = {"transnext": __version__, **settings, "image_size": [height, width]}
    write_atomically(file, json.dumps({"settings": settings, **values}) + "\n")


def print_skipped(console: Console, skipped: Iterable[tuple[str, str]]) -> None:
    """Prints names of images that could not be read, and why."""
    for name, reason in sorted(set(skipped)):
        console.print(f"skipped {name}: {reason}", markup=False, soft_wrap=True)
