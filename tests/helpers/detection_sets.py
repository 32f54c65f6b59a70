"""Small data sets with annotated objects, and their parts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(path: Path, size=(40, 30), orientation: int = 1, seed: int = 0, **options) -> Path:
    """Writes an image of `size` = width, height as stored, with an orientation of EXIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def coco_image(ident, name, size=(40, 30), **more) -> dict:
    return {"id": ident, "file_name": name, "width": size[0], "height": size[1], **more}


def coco_object(ident, image, category=1, box=(2, 3, 10, 8), **more) -> dict:
    return {"id": ident, "image_id": image, "category_id": category, "bbox": list(box), "iscrowd": 0, **more}


def coco_file(path: Path, images, annotations, categories=((1, "cat"), (7, "dog"))) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    named = [{"id": i, "name": name} for i, name in categories]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": named}))
    return path


def coco_set(root: Path, **splits: int) -> Path:
    """A COCO set with so many images of each split, in a folder each: image i has i % 3 objects."""
    for number, (split, count) in enumerate(splits.items()):
        images, objects = [], []
        for i in range(count):
            picture(root / split / f"{i:03}.png", seed=1000 * number + i)
            images.append(coco_image(i + 10, f"{i:03}.png"))
            for k in range(i % 3):
                objects.append(coco_object(len(objects), i + 10, (1, 7)[k], (2 + i % 5, 3 + k, 10, 8)))
        coco_file(root / "annotations" / f"instances_{split}.json", images, objects)
    return root


def square(x: float, y: float, side: float = 6) -> list[float]:
    """A polygon."""
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def voc_file(path: Path, name: str, boxes, size=(40, 30), **more: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        f"<object><name>{label}</name>{''.join(f'<{k}>{v}</{k}>' for k, v in more.items() if k != 'database')}<bndbox>"
        f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, x0, y0, x1, y1 in boxes
    )
    path.write_text(
        f"<annotation><filename>{name}</filename><source><database>{more.get('database', 'mine')}</database></source>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>{objects}</annotation>"
    )
    return path


def voc_set(root: Path, **splits: int) -> Path:
    """A Pascal VOC set with so many images of each split."""
    (root / "ImageSets" / "Main").mkdir(parents=True)
    number = 0
    for split, count in splits.items():
        names = []
        for _ in range(count):
            name = f"im{number:03}"
            picture(root / "JPEGImages" / f"{name}.png", seed=number)
            voc_file(
                root / "Annotations" / f"{name}.xml", f"{name}.png", [("dog", 1, 2, 11, 12), ("cat", 5, 5, 40, 30)]
            )
            names.append(name)
            number += 1
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
    return root


def yolo_set(root: Path, labels: str = "0 0.5 0.5 0.25 0.2\n1 0.1 0.1 0.2 0.2\n", **splits: int) -> Path:
    """A YOLO set with so many images of each split, all with the same labels; the last has no label file."""
    for number, (split, count) in enumerate(splits.items()):
        (root / "labels" / split).mkdir(parents=True)
        for i in range(count):
            picture(root / "images" / split / f"{i}.png", seed=1000 * number + i)
            if i < count - 1 or count == 1:
                (root / "labels" / split / f"{i}.txt").write_text(labels)
    lines = [f"{split}: images/{split}" for split in splits]
    (root / "data.yaml").write_text("\n".join(["path: .", *lines, "names: [cat, dog]", "nc: 2"]))
    return root


def raises(error, *words: str):
    """An error of one line with some words in this order."""
    return pytest.raises(error, match="^[^\n]*" + ".*".join(map(re.escape, words)) + "[^\n]*$")


def lengths(sources) -> dict[str, int]:
    """How many images each split has."""
    return {name: len(source) for name, source in sources.items()}
