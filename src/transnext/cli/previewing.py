"""Training images of a detector, to look at before training."""

from functools import partial
from pathlib import Path
from typing import Any

from transnext.config import TrainConfig
from transnext.data import collate
from transnext.engine.batching import divide_batch
from transnext.engine.build import open_task
from transnext.engine.loader import train_loader
from transnext.models.backbone import Backbone
from transnext.tasks.detection.preview import preview_page
from transnext.tasks.detection.task import Detection, preprocessing_for


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
    task, sources = open_task(config)
    assert isinstance(task, Detection)
    source = sources["train"]
    images = task.images(source, preprocessing_for(Backbone(config.model), config), config)
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
        return preview_page(loader.epoch(0), task.class_names, path)
    finally:
        loader.close()
