"""`transnext eval MODEL DATA`."""

import json
from collections.abc import Iterable
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


def evaluate(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    splits: tuple[str, ...] = (),
    image_size: int | None = None,
    flip: bool = False,
    batch_size: int | None = None,
    workers: int = 1,
    device: str = "auto",
    val_fraction: float | None = None,
    seed: int | None = None,
    json_file: Path | None = None,
) -> None:
    """Measure the accuracy of a classifier on a data set.

    `transnext study` measures it under corruption, at other image sizes and on the sets of ImageNet.

    Args:
        model: A run folder, a checkpoint, an exported file (.onnx, .xml, .pt2), or the name of a model with pretrained
            weights.
        data: A set by name (emoji), or a folder of images.
        splits: Which splits; all by default. A folder of classes is one split, "all", unless the model was trained on
            it.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        flip: Average the probabilities of each image and its mirror image, which takes twice the time.
        batch_size: Images in a forward pass; by default 128 of 224 pixels, fewer of larger ones.
        workers: Processes that read images.
        device: auto, cpu, cuda or mps.
        val_fraction: Share held out where the data come without splits; by default as in training, for the data that
            the model was trained on.
        seed: Decides what is held out; by default as in training.
        json_file: Also write the results, with confusion matrices and what they were measured with, to this file.
    """
    check_splitting(val_fraction, seed)
    if json_file is not None:
        check_writable(json_file)

    measure(
        model,
        data,
        splits,
        image_size=image_size,
        flip=flip,
        batch_size=batch_size,
        workers=workers,
        device=device,
        val_fraction=val_fraction,
        seed=seed,
        json_file=json_file,
    )


def measure(
    model: str,
    data: str,
    splits: tuple[str, ...],
    *,
    loaded: "Loaded | None" = None,
    image_size: int | None = None,
    flip: bool = False,
    batch_size: int | None = None,
    workers: int = 1,
    device: str = "auto",
    val_fraction: float | None = None,
    seed: int | None = None,
    json_file: Path | None = None,
) -> None:
    """Evaluates a model of any task, prints a table, and writes the results if that is asked for.

    Args:
        model: As in `evaluate`, and so are the others.
        data: Images with what is to be found in them.
        splits: Which.
        loaded: The model, if it is open.
        image_size: See `evaluate`.
        flip: See `evaluate`.
        batch_size: See `evaluate`.
        workers: See `evaluate`.
        device: See `evaluate`.
        val_fraction: See `evaluate`.
        seed: See `evaluate`.
        json_file: See `evaluate`.
    """
    from transnext.engine.evaluation import Evaluator
    from transnext.tasks.table import results_table

    evaluator = Evaluator(
        loaded or model,
        image_size=image_size,
        flip=flip,
        batch_size=batch_size,
        workers=workers,
        device=device,
        quiet=False,
    )
    val_fraction, seed = evaluator.splitting(data, splits, val_fraction, seed)
    results = evaluator.run_splits(data, splits, val_fraction=val_fraction, seed=seed)
    console = Console()
    console.print(results_table(results))
    print_skipped(console, (skipped for r in results for skipped in r.skipped))
    if json_file is not None:
        settings = {"model": model, "data": data, "flip": flip, "val_fraction": val_fraction, "seed": seed}
        write_json(json_file, evaluator, settings, {"splits": {r.split: r.to_dict() for r in results}})


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
