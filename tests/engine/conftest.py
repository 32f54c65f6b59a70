from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transnext.config import TrainConfig

COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (220, 40, 40)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 3 x 10 small images whose class is their colour."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = np.clip(np.array(colour) + rng.integers(-30, 30, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig.of(
        data=str(photos),
        model="transnext_pico",
        output=str(tmp_path / "run"),
        epochs=2,
        batch_size=8,
        image_size=32,
        workers=0,
        device="cpu",
    )
