"""Training images of a configuration, to look at before training."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from transnext.config import TrainConfig
from transnext.data import collate
from transnext.models.backbone import Backbone
from transnext.tasks.detection.preview import MAX_IMAGES, preview_page
from transnext.tasks.detection.task import Detection, preprocessing_for


def write_preview(config: TrainConfig[Any], path: Path) -> int:
    """Writes a page of training images, augmented as they will be, with their objects.

    Args:
        config: Of the run.
        path: The HTML file.

    Returns:
        How many images are on it.

    Raises:
        FileNotFoundError: The images are not there.
        ValueError: The configuration or the images do not allow it.
    """
    task, sources = Detection.open(config)
    preprocessing = preprocessing_for(Backbone(config.model), config)
    images = task.images(sources["train"], preprocessing, config)
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(images), generator=generator)[:MAX_IMAGES].tolist()
    batches = DataLoader(
        Subset(images, chosen), batch_size=8, collate_fn=partial(collate, targets=task.collate), generator=generator
    )
    return preview_page(batches, task.class_names, path)
