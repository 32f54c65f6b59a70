"""Training images of a task, to look at before training."""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from transnext.atomic import check_writable
from transnext.cli.train import run
from transnext.config import TrainConfig


def train_or_preview(
    config: TrainConfig[Any], resume: str, accept_changed: Collection[str], preview: Path | None
) -> None:
    """Trains, or writes a page of what would be trained on.

    Args:
        config: Of the run.
        resume: See `transnext train`.
        accept_changed: See `transnext train`.
        preview: The HTML file of the page; None to train.
    """
    if preview is None:
        run(config, resume, accept_changed)
        return
    check_writable(preview)
    number = write_preview(config, preview)
    Console(soft_wrap=True, highlight=False).print(f"{number} training pictures: {preview}", markup=False)


def write_preview(config: TrainConfig[Any], path: Path) -> int:
    """Writes a page of the first training images of a run, in the order and augmented as they will be.

    Args:
        config: Of the run.
        path: The HTML file.

    Returns:
        How many images are on it.

    Raises:
        FileNotFoundError: The images are not there.
        ValueError: The configuration or the images do not allow it.
    """
    from transnext.data import collate
    from transnext.engine.batching import divide_batch
    from transnext.engine.build import open_task
    from transnext.engine.loader import train_loader
    from transnext.models.backbone import Backbone

    task, sources = open_task(config)
    source = sources["train"]
    images = task.images(source, task.preprocessing(Backbone(config.model), config), config)
    loader = train_loader(
        images,
        batch_size=divide_batch(config, len(images), 1).micro_batch_size,
        seed=config.seed,
        workers=config.images.workers,
        timeout=config.images.worker_timeout,
        repeats=config.images.repeats,
        draw_weights=task.draw_weights(source, config),
        collate=partial(collate, targets=task.collate),
    )
    try:
        return task.preview(loader.epoch(0), path)
    finally:
        loader.close()
