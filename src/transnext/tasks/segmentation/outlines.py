"""Outlines of the regions of a map, along the edges of pixels."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from transnext.extras import require
from transnext.tasks.segmentation.net import IGNORED

Polygon = list[npt.NDArray[np.float64]]
"""Rings `[points, 2]`, x and y, each closed: the outer one, then holes."""


def polygons_of(labels: npt.NDArray[np.uint8]) -> Iterator[tuple[int, Polygon]]:
    """Yield the class and the polygon of each region: pixels of one class that have edges in common.

    They run along the edges of pixels, so that a region's polygon covers its pixels and nothing else, and neighbours
    fit without gaps; (0, 0) is the corner of the first pixel. Outer rings have a positive `x dy - y dx`, holes a
    negative; points are corners alone. Regions come in the order in which they end, from top to bottom.

    Args:
        labels: uint8 `[H, W]`: classes, and 255 for what has no polygon.

    Raises:
        ValueError: rasterio is missing.
    """
    require("outlines of regions", "rasterio", extra="segment")
    from rasterio.features import shapes

    for geometry, place in shapes(labels, mask=labels != IGNORED, connectivity=4):
        rings = [np.array(ring, np.float64) for ring in geometry["coordinates"]]
        yield int(place), [ring if (_area(ring) > 0) == (i == 0) else ring[::-1].copy() for i, ring in enumerate(rings)]


def pixels_of(polygon: Polygon) -> int:
    """How many pixels the region of a polygon of `polygons_of` has."""
    return round(sum(_area(ring) for ring in polygon))


def _area(ring: npt.NDArray[np.float64]) -> float:
    """Signed area of a closed ring."""
    (x, y), (u, v) = ring[:-1].T, ring[1:].T
    return float((x * v - u * y).sum() / 2)
