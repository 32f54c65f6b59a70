"""A small set whose maps can be learned: coloured rectangles on grey, the class of a pixel being its colour."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transnext.config import TrainConfig

NAMES = ("ground", "green", "red")
COLOURS = ((125, 125, 125), (30, 200, 60), (220, 40, 40))
SIZE = (80, 64)
"""Width and height."""


def coloured_set(root: Path, *, train: int = 6, val: int = 3, seed: int = 0) -> Path:
    """Writes pictures and label files with a class file; a strip of each map is ignored."""
    rng = np.random.default_rng(seed)
    for split, count in {"train": train, "val": val}.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            labels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
            for label in (1, 2):
                x, y = int(rng.integers(0, 48)), int(rng.integers(0, 32))
                labels[y : y + 28, x : x + 28] = label
            pixels = np.array(COLOURS)[labels] + rng.integers(-8, 9, (*labels.shape, 3))
            labels[:, -3:] = 255
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / split / f"{split}{i}.png")
            Image.fromarray(labels).save(root / "labels" / split / f"{split}{i}.png")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


def coloured_config(data: Path, output: Path | str, **options: Any) -> TrainConfig[Any]:
    """Trains for seconds."""
    values = {
        "model": "transnext_pico.emoji",
        "pretrained": True,
        "image_size": 64,
        "epochs": 2,
        "batch_size": 3,
        "lr": 2e-3,
        "augment": "none",
        "workers": 0,
        "device": "cpu",
        "tracker": "none",
        **options,
    }
    return TrainConfig.of(task="segmentation", data=str(data), output=str(output), **values)
