"""`transnext eval MODEL DATA`."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from transnext.engine.evaluation import evaluate as run_evaluation
from transnext.tasks.classification.summary import results_table, write_results


def evaluate(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    splits: tuple[str, ...] = (),
    image_size: int | None = None,
    batch_size: int = 128,
    workers: int = 1,
    device: str = "auto",
    val_fraction: float = 0.2,
    seed: int = 0,
    json_file: Path | None = None,
) -> None:
    """Measure the accuracy of a classifier.

    Args:
        model: A run folder, a checkpoint, or the name of a model with pretrained weights.
        data: A bundled set (emoji) or a folder of images.
        splits: Which splits; all by default.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        device: auto, cpu, cuda or mps.
        val_fraction: Share held out where the data come without val/; as in training.
        seed: Decides what is held out; as in training.
        json_file: Also write the results, with confusion matrices, to this file.
    """
    results = run_evaluation(
        model,
        data,
        splits=splits,
        image_size=image_size,
        batch_size=batch_size,
        workers=workers,
        device=device,
        val_fraction=val_fraction,
        seed=seed,
        quiet=False,
    )
    console = Console()
    console.print(results_table(results))
    for name, reason in sorted({skipped for r in results for skipped in r.skipped}):
        console.print(f"skipped {name}: {reason}", markup=False, soft_wrap=True)
    if json_file is not None:
        write_results(json_file, results)
