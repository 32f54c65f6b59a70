"""`transnext eval MODEL DATA`."""

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from transnext.atomic import check_writable, write_atomically
from transnext.limits import MAX_SEED, check_number
from transnext.version import __version__

if TYPE_CHECKING:
    from transnext.data import Source
    from transnext.engine.evaluation import Evaluator

FIGURES = (".png", ".svg", ".pdf")


def evaluate(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    splits: tuple[str, ...] = (),
    suite: Literal["imagenet"] | None = None,
    corruptions: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[NAME ...]")] = None,
    scales: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="[FACTOR ...]")] = None,
    image_size: int | None = None,
    flip: bool = False,
    batch_size: int = 128,
    workers: int = 1,
    device: str = "auto",
    val_fraction: float | None = None,
    seed: int | None = None,
    json_file: Path | None = None,
    figure: Path | None = None,
) -> None:
    """Measure the accuracy of a classifier: on a data set, under corruption, at other sizes, or on the ImageNet sets.

    Args:
        model: A run folder, a checkpoint, an exported file (.onnx, .xml, .pt2), or the name of a model with pretrained
            weights.
        data: A set by name (emoji), a folder of images, or, for --suite, the folder that holds the sets.
        splits: Which splits; all by default, with --corruptions and --scales the one that validates. A folder of
            classes is one split, "all", unless the model was trained on it.
        suite: Evaluate on ImageNet-1K, V2, A, R, Sketch, ReaL and C, as far as DATA holds them.
        corruptions: Corrupt the images at five severities in these ways; without names, in all 15.
        scales: Evaluate at these multiples of the trained image size; without numbers 0.5 1 1.5 2 3.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        flip: Average the probabilities of each image and its mirror image, which takes twice the time.
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        device: auto, cpu, cuda or mps.
        val_fraction: Share held out where the data come without splits; by default as in training, for the data that
            the model was trained on.
        seed: Decides what is held out, by default as in training, and what is random in corruptions.
        json_file: Also write the results, with confusion matrices and what they were measured with, to this file.
        figure: Draw the results of --corruptions or --scales to this file (png, svg or pdf).
    """
    asked = {"suite": suite, "corruptions": corruptions, "scales": scales}
    given = [f"--{name}" for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are given: ask for one of them at a time")
    if figure is not None and given not in (["--corruptions"], ["--scales"]):
        raise ValueError("--figure draws the results of --corruptions or --scales: add one of them")
    if scales is not None and image_size is not None:
        raise ValueError("--scales are multiples of the trained size: leave out --image-size")
    if val_fraction is not None:
        check_number("val_fraction", val_fraction, 0, 1)
    if seed is not None:
        check_number("seed", seed, 0, MAX_SEED)
    if figure is not None and figure.suffix not in FIGURES:
        raise ValueError(f"{figure} does not say how to draw: end it in {', '.join(FIGURES)}")
    for output in (json_file, figure):
        if output is not None:
            check_writable(output)

    from transnext.engine.evaluation import Evaluator

    evaluator = Evaluator(
        model,
        image_size=image_size,
        flip=flip,
        batch_size=batch_size,
        workers=workers,
        device=device,
        quiet=False,
    )
    val_fraction, seed = evaluator.splitting(data, splits, val_fraction, seed)
    draw: Callable[[Path], None] | None = None
    if suite is not None:
        values = _suite(evaluator, data)
    elif not given:
        values = _splits(evaluator, data, splits, val_fraction, seed)
    else:
        split, source = _one_split(evaluator, data, splits, val_fraction, seed)
        if corruptions is not None:
            values, draw = _corruptions(evaluator, source, split, corruptions, seed)
        else:
            values, draw = _scales(evaluator, source, split, scales)
    if json_file is not None:
        height, width = evaluator.loaded.preprocessing.input_size[1:]
        settings = {
            "transnext": __version__,
            "model": model,
            "data": data,
            "image_size": [height, width],
            "flip": flip,
            "val_fraction": val_fraction,
            "seed": seed,
        }
        write_atomically(json_file, json.dumps({"settings": settings, **values}) + "\n")
    if figure is not None and draw is not None:
        draw(figure)


def _splits(
    evaluator: "Evaluator", data: str, splits: tuple[str, ...], val_fraction: float, seed: int
) -> dict[str, Any]:
    from transnext.tasks.table import results_table

    results = evaluator.run_splits(data, splits, val_fraction=val_fraction, seed=seed)
    console = Console()
    console.print(results_table(results))
    _print_skipped(console, (skipped for r in results for skipped in r.skipped))
    return {"splits": {result.split: result.to_dict() for result in results}}


def _suite(evaluator: "Evaluator", data: str) -> dict[str, Any]:
    from transnext.studies.corruptions import robustness_table
    from transnext.studies.imagenet import evaluate_imagenet, suite_as_dict, suite_table

    found = evaluate_imagenet(evaluator, data)
    console = Console()
    if found.corruptions is not None:
        console.print(robustness_table(found.corruptions))
    console.print(suite_table(found))
    if found.missing:
        absent = "; ".join(f"{name} ({why})" for name, why in found.missing)
        console.print(f"Left out: {absent}.", markup=False, soft_wrap=True)
    _print_skipped(console, found.skipped)
    return suite_as_dict(found)


def _corruptions(
    evaluator: "Evaluator", source: "Source", split: str, corruptions: tuple[str, ...], seed: int
) -> tuple[dict[str, Any], Callable[[Path], None]]:
    from transnext.studies.corruptions import measure_robustness, robustness_as_dict, robustness_line, robustness_table
    from transnext.studies.figures import draw_robustness

    robustness = measure_robustness(evaluator, source, split=split, corruptions=corruptions, seed=seed)
    console = Console()
    console.print(robustness_table(robustness))
    console.print(robustness_line(robustness), markup=False, soft_wrap=True)
    return robustness_as_dict(robustness), partial(draw_robustness, robustness)


def _scales(
    evaluator: "Evaluator", source: "Source", split: str, scales: tuple[float, ...] | None
) -> tuple[dict[str, Any], Callable[[Path], None]]:
    from transnext.studies.figures import draw_scales
    from transnext.studies.sizes import DEFAULT_SCALES, measure_scales, scales_as_dict, scales_table

    scaled = measure_scales(evaluator, source, split=split, scales=scales or DEFAULT_SCALES)
    console = Console()
    console.print(scales_table(scaled))
    for size, reason in scaled.failures:
        console.print(f"At {size} pixels: {reason}", markup=False, soft_wrap=True)
    return scales_as_dict(scaled), partial(draw_scales, scaled)


def _one_split(
    evaluator: "Evaluator", data: str, splits: tuple[str, ...], val_fraction: float, seed: int
) -> tuple[str, "Source"]:
    from transnext.engine.evaluation import check_splits, held_out_split

    sources = evaluator.open(data, val_fraction, seed)
    check_splits(sources, splits, data)
    if len(splits) > 1:
        raise ValueError(f"{len(splits)} splits are given: --corruptions and --scales take one")
    split = splits[0] if splits else held_out_split(sources)
    return split, sources[split]


def _print_skipped(console: Console, skipped: Iterable[tuple[str, str]]) -> None:
    for name, reason in sorted(set(skipped)):
        console.print(f"skipped {name}: {reason}", markup=False, soft_wrap=True)
