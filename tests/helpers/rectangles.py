"""Small sets of coloured rectangles on grey, in COCO's format, and how to train on them in seconds."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from transnext.config import TrainConfig

COLOURS = {"green": (30, 200, 60), "red": (220, 40, 40)}
CATEGORY_IDS = {"green": 3, "red": 7}
SIZE = (80, 64)
"""Width and height."""


def rectangle_set(
    root: Path, *, train: int = 8, val: int = 4, outlines: bool = True, objects=(2, 1, 0), seed: int = 0
) -> Path:
    """Writes a set: image `i` of a split has `objects[i % len(objects)]` rectangles, and they take turns in colour."""
    rng = np.random.default_rng(seed)
    for split, count in {"train": train, "val": val}.items():
        if not count:
            continue
        (root / split).mkdir(parents=True)
        images, found = [], []
        for i in range(count):
            pixels = rng.integers(110, 140, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
            for k in range(objects[i % len(objects)]):
                name = list(COLOURS)[(i + k) % 2]
                w, h = rng.integers(16, 30, 2).tolist()
                x = int(rng.integers(0, 38 - w % 2 - 16)) if k % 2 == 0 else int(rng.integers(42, 81 - w))
                w = min(w, 40 - x) if k % 2 == 0 else w
                y = int(rng.integers(0, SIZE[1] - h))
                pixels[y : y + h, x : x + w] = COLOURS[name]
                outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                found.append(
                    {
                        "id": len(found) + 1,
                        "image_id": i + 1,
                        "category_id": CATEGORY_IDS[name],
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                        **({"segmentation": outline} if outlines else {}),
                    }
                )
            Image.fromarray(pixels).save(root / split / f"{i:03}.png")
            images.append({"id": i + 1, "file_name": f"{i:03}.png", "width": SIZE[0], "height": SIZE[1]})
        categories = [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()]
        text = json.dumps({"images": images, "annotations": found, "categories": categories})
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(text)
    return root


def rectangle_config(data: Path, output: Path, **values) -> TrainConfig:
    """A training of seconds."""
    small = {
        "model": "transnext_pico",
        "epochs": 1,
        "batch_size": 4,
        "image_size": 64,
        "workers": 0,
        "device": "cpu",
        "tracker": "none",
        "warmup_epochs": 0.0,
    }
    return TrainConfig.of(task="detection", data=str(data), output=str(output), **{**small, **values})
