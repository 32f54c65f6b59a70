"""Corruptions by software: contrast, warping, pixels, compression. Arguments as in `noise`."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from transnext.data.corruptions.filters import gaussian, sample

Float = npt.NDArray[np.float64]

CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
ELASTIC = ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88))
"""Strength of the displacements, standard deviation of their blur, and by how much three corners move at most."""
PIXELS = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Of a side, that are left."""
QUALITY = (25, 18, 15, 10, 7)


def contrast(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """Everything closer to the mean of its channel."""
    mean = image.mean(axis=(0, 1))
    return mean + CONTRAST[severity] * (image - mean)


def elastic_transform(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """A random affine map, then small regions stretched or shrunk.

    As published, severities 1 and 2 are mostly the affine map and 3 to 5 mostly the stretching: 3 is milder than 2.
    """
    strength, sigma, reach = (value * scale for value in ELASTIC[severity])
    # The blur averages fewer displacements where it is narrower, and leaves them larger.
    strength *= scale
    H, W = image.shape[:2]
    rows, columns = np.mgrid[0:H, 0:W].astype(np.float64)
    back = _affine(H, W, reach, rng)
    from_rows, from_columns = np.tensordot(back, np.stack([rows, columns, np.ones((H, W))]), 1)
    moved = sample(image, from_rows, from_columns, "reflect")
    down, right = (strength * gaussian(rng.uniform(-1, 1, (H, W)), sigma, "symmetric", truncate=3) for _ in range(2))
    return sample(moved, rows + down, columns + right, "symmetric")


def _affine(H: int, W: int, reach: float, rng: np.random.Generator) -> Float:
    """Map from a pixel to its source, `[2, 3]` applied to `(row, column, 1)`, when three corners of a square move."""
    centre, third = np.array([H // 2, W // 2]), max(min(H, W) // 3, 1)
    corners = centre + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = np.column_stack([corners + rng.uniform(-reach, reach, (3, 2)), np.ones(3)])
    # Corners that come to lie on a line have no map back; the least-squares one is as good as any.
    solution: Float = np.linalg.lstsq(moved, corners, rcond=None)[0].T
    return solution


def pixelate(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """Fewer pixels, shown as large ones."""
    pixels = _as_bytes(image)
    small = (max(1, int(pixels.width * PIXELS[severity])), max(1, int(pixels.height * PIXELS[severity])))
    reduced = pixels.resize(small, Image.Resampling.BOX)
    return np.asarray(reduced.resize(pixels.size, Image.Resampling.BOX)) / 255


def jpeg_compression(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """A JPEG file of low quality."""
    file = io.BytesIO()
    _as_bytes(image).save(file, "JPEG", quality=QUALITY[severity])
    return np.asarray(Image.open(file)) / 255


def _as_bytes(image: Float) -> Image.Image:
    return Image.fromarray((255 * image).round().astype(np.uint8))
