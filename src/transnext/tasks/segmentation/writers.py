"""Maps as files, whole or not there at all: areas of classes as a table, polygons as GeoJSON, masks as a COCO data set.

Each is a context manager that gives a function to be called with one map after the other, so that maps need not be
kept; if the block fails, nothing is written. Maps are uint8 `[H, W]`: classes, and 255 for what is left out.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transnext.atomic import replacing
from transnext.data.names import printable
from transnext.tasks.segmentation.net import IGNORED
from transnext.tasks.segmentation.outlines import pixels_of, polygons_of

Map = npt.NDArray[np.uint8]
Add = Callable[[str, Map], None]
"""Takes the path or name of a picture, and its map."""


@contextmanager
def area_table(path: str | Path, classes: Sequence[str]) -> Iterator[Add]:
    """Writes a row for each class in each picture: image, class, pixels, share of the picture.

    Args:
        path: CSV file.
        classes: Names of all classes; those that are not in a picture have a row of 0.
    """
    with replacing(path) as temporary, _text(temporary) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "class", "pixels", "share"])

        def add(name: str, labels: Map) -> None:
            counts = np.bincount(labels.reshape(-1), minlength=256).tolist()
            _check(counts, classes, name)
            for place, label in enumerate(classes):
                rows.writerow([name, label, counts[place], f"{counts[place] / max(1, labels.size):.6f}"])

        yield add


@contextmanager
def geojson(
    path: str | Path,
    classes: Sequence[str],
    *,
    transform: Sequence[float] = (1, 0, 0, 0, 1, 0),
    least_pixels: float = 1.0,
    leave_out: Sequence[str] = (),
) -> Iterator[Add]:
    """Writes a polygon, with holes, for each region of one class, along the edges of its pixels; see `polygons_of`.

    Args:
        path: GeoJSON file.
        classes: Names of all classes.
        transform: a, b, c, d, e, f, as rasterio has them: coordinates are `a x + b y + c`, `d x + e y + f`; by default
            pixels, in which y goes down.
        least_pixels: Regions of fewer pixels are left out.
        leave_out: Classes without polygons, for example a background.

    Raises:
        ValueError: The transform is not six numbers, there is no such class, or rasterio is missing.
    """
    if len(transform) != 6:
        raise ValueError(f"transform has {len(transform)} numbers: expected 6, a x + b y + c and d x + e y + f")
    a, b, c, d, e, f = transform
    for name in leave_out:
        if name not in classes:
            raise ValueError(f"there is no class {name!r} to leave out")
    matrix, shift = np.array([[a, d], [b, e]], np.float64), np.array([c, f], np.float64)
    turned = a * e - b * d < 0
    written = 0
    with replacing(path) as temporary, _text(temporary) as file:
        file.write('{"type": "FeatureCollection", "features": [')

        def add(name: str, labels: Map) -> None:
            nonlocal written
            _check(np.bincount(labels.reshape(-1), minlength=256).tolist(), classes, name)
            for place, polygon in polygons_of(labels):
                pixels = pixels_of(polygon)
                if classes[place] in leave_out or pixels < least_pixels:
                    continue
                # Outer rings go against the clock, as GeoJSON wants them where y goes up.
                rings = [(ring @ matrix + shift)[:: -1 if turned else 1].tolist() for ring in polygon]
                feature = {
                    "type": "Feature",
                    "properties": {"image": printable(name), "class": classes[place], "pixels": pixels},
                    "geometry": {"type": "Polygon", "coordinates": rings},
                }
                file.write((",\n" if written else "\n") + json.dumps(feature, ensure_ascii=False))
                written += 1

        yield add
        file.write("\n]}\n")


@contextmanager
def coco_masks(path: str | Path, classes: Sequence[str], *, category_ids: Sequence[int] | None = None) -> Iterator[Add]:
    """Writes a COCO data set in which each class of a picture is one annotation, its mask as run lengths.

    Args:
        path: JSON file.
        classes: Names of all classes.
        category_ids: Number of each class; by default from 1.
    """
    from pycocotools import mask as run_lengths

    ids = list(range(1, len(classes) + 1)) if category_ids is None else list(category_ids)
    categories = [{"id": number, "name": name} for number, name in zip(ids, classes, strict=True)]
    images: list[dict[str, Any]] = []
    written = 0
    with replacing(path) as temporary, _text(temporary) as file:
        file.write(f'{{"categories": {json.dumps(categories, ensure_ascii=False)},\n"annotations": [')

        def add(name: str, labels: Map) -> None:
            nonlocal written
            counts = np.bincount(labels.reshape(-1), minlength=256).tolist()
            _check(counts, classes, name)
            height, width = labels.shape
            images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
            for place in range(len(classes)):
                if not counts[place]:
                    continue
                mask = run_lengths.encode(np.asfortranarray(labels == place, dtype=np.uint8))
                row = {
                    "id": written + 1,
                    "image_id": len(images),
                    "category_id": ids[place],
                    "bbox": run_lengths.toBbox(mask).tolist(),
                    "area": counts[place],
                    "iscrowd": 0,
                    "segmentation": {"size": [height, width], "counts": mask["counts"].decode("ascii")},
                }
                file.write((",\n" if written else "\n") + json.dumps(row))
                written += 1

        yield add
        file.write(f'\n],\n"images": {json.dumps(images, ensure_ascii=False)}}}\n')


def _check(counts: Sequence[int], classes: Sequence[str], name: str) -> None:
    unknown = [place for place in range(len(classes), IGNORED) if counts[place]]
    if unknown:
        raise ValueError(f"the map of {printable(name)} has class {unknown[0]}, and there are {len(classes)} classes")


def _text(path: Path) -> Any:
    # What file names hold that is not Unicode becomes a backslash escape, as in `atomic.write_atomically`.
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
