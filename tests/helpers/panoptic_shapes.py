"""A small COCO panoptic set: boxes of one class that touch one another on two areas without objects."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("box", "ground", "wall")
CATEGORIES = [{"id": 7, "name": "ground", "isthing": 0}, {"id": 2, "name": "box", "isthing": 1}]
CATEGORIES += [{"id": 90, "name": "wall", "isthing": 0}]
SIZE = (80, 64)
"""Width and height."""
GROUND, WALL, LEFT, RIGHT, GROUP = 70_001, 3, 5000, 12, 66_000
"""Numbers of segments."""
COLOURS = {GROUND: (110, 110, 110), WALL: (200, 190, 90), LEFT: (220, 40, 40), RIGHT: (30, 90, 220)}
COLOURS |= {GROUP: (220, 40, 220), 0: (0, 0, 0)}


def scene(rng: np.random.Generator, *, boxes: bool = True, group: bool = False) -> np.ndarray:
    """Numbers of segments `[H, W]`: a wall above ground, and before both two boxes side by side."""
    numbers = np.full(SIZE[::-1], GROUND, np.int64)
    numbers[: int(rng.integers(10, 20))] = WALL
    if boxes:
        x, y, width = int(rng.integers(4, 16)), int(rng.integers(22, 34)), int(rng.integers(14, 22))
        numbers[y : y + 24, x : x + width] = LEFT
        numbers[y : y + 24, x + width : x + 2 * width] = RIGHT
    if group:
        numbers[40:56, 62:76] = GROUP
    numbers[:, -2:] = 0
    return numbers


def panoptic_shapes(root: Path, *, seed: int = 0, **splits: int) -> Path:
    """Writes so many pictures of each split; in the last one there is no box, in the one before a group of boxes."""
    rng = np.random.default_rng(seed)
    label_of = {GROUND: 7, WALL: 90, LEFT: 2, RIGHT: 2, GROUP: 2}
    for split, count in (splits or {"train": 4, "val": 3}).items():
        folder = root / "annotations" / f"panoptic_{split}2017"
        folder.mkdir(parents=True)
        (root / f"{split}2017").mkdir()
        images, annotations = [], []
        for i in range(count):
            numbers = scene(rng, boxes=i + 1 < count or count == 1, group=i + 2 == count)
            pixels = np.zeros((*numbers.shape, 3))
            for number, colour in COLOURS.items():
                pixels[numbers == number] = colour
            pixels += rng.integers(-8, 9, pixels.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"{split}2017" / f"{split}{i}.png")
            ids = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], 2).astype(np.uint8)
            Image.fromarray(ids).save(folder / f"{i}.png")
            images.append({"id": i, "file_name": f"{split}{i}.png", "width": SIZE[0], "height": SIZE[1]})
            present = [number for number in np.unique(numbers).tolist() if number]
            segments = [{"id": n, "category_id": label_of[n], "iscrowd": int(n == GROUP)} for n in present]
            annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
        document = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations" / f"panoptic_{split}2017.json").write_text(json.dumps(document))
    return root
