"""Small data sets with maps of classes."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.detection_sets import picture

SIZE = (40, 30)
"""Width and height."""


def patches(values=(0, 1, 2), size=SIZE, seed: int = 0) -> np.ndarray:
    """A map of stripes and noise with all values, uint8 or larger `[H, W]`."""
    generator = np.random.default_rng(seed)
    chosen = np.array(values)[generator.integers(0, len(values), (size[1], size[0]))]
    chosen[: len(values), 0] = values
    return chosen.astype(np.uint8 if max(values) < 256 else np.uint16)


def label_file(path: Path, values=(0, 1, 2), size=SIZE, seed: int = 0, palette=None, **options) -> np.ndarray:
    """Writes a label file, and returns what is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = values if isinstance(values, np.ndarray) else patches(values, size, seed)
    image = Image.fromarray(labels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path, **options)
    return labels


def map_set(
    root: Path, values=(0, 1, 2), names=("sky", "cat", "dog"), images="images", labels="labels", **splits
) -> Path:
    """Pictures and label files, so many of each split, with a class file if there are names."""
    splits = splits or {"train": 4, "val": 2}
    number = 0
    for split, count in splits.items():
        for _ in range(count):
            picture(root / "images" / split / f"im{number}.jpg", SIZE, seed=number)
            label_file(root / "labels" / split / f"im{number}.png", values, seed=number)
            number += 1
    if names:
        (root / "classes.txt").write_text("\n".join(names) + "\n")
    return root


def panoptic_set(root: Path, count: int = 3) -> Path:
    """A COCO panoptic set of two classes, with a group and pixels of nothing."""
    categories = [{"id": 3, "name": "sky", "color": [0, 0, 255]}, {"id": 9, "name": "cat", "color": [255, 0, 0]}]
    images, annotations = [], []
    for i in range(count):
        picture(root / "val2017" / f"{i:03}.jpg", SIZE, seed=i)
        numbers = np.zeros((SIZE[1], SIZE[0]), np.int64)
        numbers[:10], numbers[10:20], numbers[20:25] = 70_000 + i, 5, 300
        rgb = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], 2).astype(np.uint8)
        file = root / "annotations" / "panoptic_val2017" / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(file)
        images.append({"id": i, "file_name": f"{i:03}.jpg", "width": SIZE[0], "height": SIZE[1]})
        segments = [(70_000 + i, 3, 0), (5, 9, 0), (300, 9, 1)]
        annotations.append(
            {
                "image_id": i,
                "file_name": f"{i:03}.png",
                "segments_info": [{"id": n, "category_id": c, "iscrowd": g, "area": 1} for n, c, g in segments],
            }
        )
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(document))
    return root
