"""Answers of segmenters as files, whole or not there at all: areas as a table, polygons as GeoJSON, masks as COCO data.

Each is a context manager that gives a function to be called with one answer after the other, so that maps need not be
kept; if the block fails, nothing is written.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transnext.atomic import replacing
from transnext.data.names import printable
from transnext.errors import one_line
from transnext.tasks.segmentation.answers import ClassMap, Shares
from transnext.tasks.segmentation.outlines import Polygon, pixels_of, polygons_of

_GROUND = "EPSG:4326"
"""Longitude and latitude, degrees: what GeoJSON is in (RFC 7946)."""
_DIGITS = 9
"""After the point of a degree: .1 mm on the ground."""
_STEP = 64
"""Pixels after which a straight edge has another point: on a map it is straight, between two longitudes it is not."""
_TOGETHER = 1000
"""Polygons that are brought to the ground at once."""
_Region = tuple[int, int, Polygon]
"""Class, pixels and outline."""


@contextmanager
def area_table(path: str | Path, classes: Sequence[str]) -> Iterator[Callable[[Shares], None]]:
    """Writes a row for each class in each picture: image, class, pixels, share of the picture.

    Args:
        path: CSV file.
        classes: Names of all classes; those that are not in a picture have a row of 0.
    """
    with replacing(path) as temporary, _text(temporary) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "class", "pixels", "share"])

        def add(found: Shares) -> None:
            total = max(1, found.size[0] * found.size[1])
            for label, count in zip(classes, found.pixels.tolist(), strict=True):
                rows.writerow([found.name, label, count, f"{count / total:.6f}"])

        yield add


def on_ground(profile: dict[str, Any]) -> bool:
    """Whether a profile of `ClassMap` tells a place on the ground: a coordinate system of the earth and a transform."""
    crs = profile.get("crs")
    return crs is not None and (crs.is_projected or crs.is_geographic) and not profile["transform"].is_identity


@contextmanager
def geojson(
    path: str | Path, classes: Sequence[str], *, least_pixels: float = 1.0, leave_out: Sequence[str] = ()
) -> Iterator[Callable[[ClassMap], None]]:
    """Writes a polygon, with holes, for each region of one class, along the edges of its pixels; see `polygons_of`.

    Coordinates are longitude and latitude where the answers say where their pictures lie on the ground, else pixels, in
    which y goes down; the property `coordinates` says which.

    Args:
        path: GeoJSON file.
        classes: Names of all classes.
        least_pixels: Regions of fewer pixels are left out.
        leave_out: Classes without polygons, for example a background.

    Raises:
        ValueError: There is no such class, or rasterio is missing; or, as of the function, only some pictures lie on
            the ground, or one outside of what its coordinate system is for.
    """
    for name in leave_out:
        if name not in classes:
            raise ValueError(f"there is no class {name!r} to leave out")
    written = 0
    first: tuple[str, bool] | None = None
    with replacing(path) as temporary, _text(temporary) as file:
        file.write('{"type": "FeatureCollection", "features": [')

        def add(found: ClassMap) -> None:
            nonlocal written, first
            placed = on_ground(found.profile)
            first = (found.name, placed) if first is None else first
            if first[1] != placed:
                raise ValueError(not_together(*((found.name, first[0]) if placed else (first[0], found.name))))
            if len(found.pixels) != len(classes):
                raise ValueError(f"{printable(found.name)} has {len(found.pixels)} classes, expected {len(classes)}")
            regions = (
                (place, pixels, polygon)
                for place, polygon in polygons_of(found.labels)
                if classes[place] not in leave_out and (pixels := pixels_of(polygon)) >= least_pixels
            )
            for place, pixels, geometry in _placed(regions, found) if placed else _in_pixels(regions):
                properties = {
                    "image": printable(found.name),
                    "class": classes[place],
                    "pixels": pixels,
                    "coordinates": "longitude, latitude" if placed else "pixels",
                }
                feature = {"type": "Feature", "properties": properties, "geometry": geometry}
                file.write((",\n" if written else "\n") + json.dumps(feature, ensure_ascii=False, allow_nan=False))
                written += 1

        yield add
        file.write("\n]}\n")


@contextmanager
def coco_masks(
    path: str | Path, classes: Sequence[str], *, category_ids: Sequence[int] | None = None
) -> Iterator[Callable[[ClassMap], None]]:
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

        def add(found: ClassMap) -> None:
            nonlocal written
            height, width = found.size
            images.append({"id": len(images) + 1, "file_name": found.name, "height": height, "width": width})
            for place, pixels in enumerate(found.pixels.tolist()):
                if not pixels:
                    continue
                mask = run_lengths.encode(np.asfortranarray(found.labels == place, dtype=np.uint8))
                row = {
                    "id": written + 1,
                    "image_id": len(images),
                    "category_id": ids[place],
                    "bbox": run_lengths.toBbox(mask).tolist(),
                    "area": pixels,
                    "iscrowd": 0,
                    "segmentation": {"size": [height, width], "counts": mask["counts"].decode("ascii")},
                }
                file.write((",\n" if written else "\n") + json.dumps(row))
                written += 1

        yield add
        file.write(f'\n],\n"images": {json.dumps(images, ensure_ascii=False)}}}\n')


def not_together(placed: str, other: str) -> str:
    """Says that outlines of two pictures, of which one lies on the ground, do not go into one file."""
    return (
        f"{printable(placed)} lies on the ground and {printable(other)} does not: their outlines have no coordinates "
        "in common, give them one after the other"
    )


def _in_pixels(regions: Iterable[_Region]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    for place, pixels, polygon in regions:
        # Outer rings go against the clock, as GeoJSON wants them where y goes up.
        yield place, pixels, {"type": "Polygon", "coordinates": [ring.tolist() for ring in polygon]}


def _placed(regions: Iterator[_Region], found: ClassMap) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Class, pixels and geometry of regions on the ground."""
    from rasterio.warp import transform_geom

    a, b, c, d, e, f = tuple(found.profile["transform"])[:6]
    matrix, shift = np.array([[a, d], [b, e]], np.float64), np.array([c, f], np.float64)
    turned = a * e - b * d < 0
    while some := list(islice(regions, _TOGETHER)):
        drawn = [
            {
                "type": "Polygon",
                "coordinates": [(_stepped(ring) @ matrix + shift)[:: -1 if turned else 1].tolist() for ring in polygon],
            }
            for _, _, polygon in some
        ]
        try:
            geometries = transform_geom(
                found.profile["crs"], _GROUND, drawn, antimeridian_cutting=True, precision=_DIGITS
            )
        except Exception as error:  # those of the library below rasterio have no public name
            raise ValueError(
                f"{printable(found.name)}: its coordinates cannot be told as longitude and latitude, {one_line(error)}"
            ) from None
        for (place, pixels, _), geometry in zip(some, geometries, strict=True):
            yield place, pixels, _unbroken(geometry)


def _unbroken(geometry: dict[str, Any]) -> dict[str, Any]:
    """A polygon that does not jump from 180 to -180 degrees: thin ones, which the library does not cut there, go on."""
    if geometry["type"] != "Polygon":
        return geometry
    longitudes = [point[0] for point in geometry["coordinates"][0]]
    if max(longitudes) - min(longitudes) <= 180:
        return geometry
    rings = [[(x + 360 if x < 0 else x, y) for x, y in ring] for ring in geometry["coordinates"]]
    return {"type": "Polygon", "coordinates": rings}


def _stepped(ring: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A closed ring of edges along rows and columns with a point every `_STEP` pixels or less."""
    edges = np.diff(ring, axis=0)
    steps = np.ceil(np.abs(edges).sum(1) / _STEP).astype(np.int64)
    nth = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
    between = np.repeat(ring[:-1], steps, 0) + np.repeat(edges / steps[:, None], steps, 0) * nth[:, None]
    return np.concatenate([between, ring[-1:]])


def _text(path: Path) -> Any:
    # What file names hold that is not Unicode becomes a backslash escape, as in `atomic.write_atomically`.
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
