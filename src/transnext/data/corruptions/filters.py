"""Filters and resampling that several corruptions share. Images are float64 `[H, W]` or `[H, W, C]`."""

import functools
from typing import Literal

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Border = Literal["edge", "symmetric", "reflect"]
"""As `numpy.pad` calls them: `symmetric` repeats the outermost pixel, `reflect` does not."""


def gaussian(image: Float, sigma: float, border: Border, truncate: float = 4.0) -> Float:
    """Gaussian blur.

    Args:
        image: What to blur.
        sigma: Standard deviation, pixels.
        border: What lies beyond the image.
        truncate: Where the Gaussian ends, in standard deviations.
    """
    rows = _gaussian_matrix(image.shape[0], sigma, border, truncate)
    columns = _gaussian_matrix(image.shape[1], sigma, border, truncate)
    return np.moveaxis(np.tensordot(columns, np.tensordot(rows, image, (1, 0)), (1, 1)), 0, 1)


@functools.lru_cache(maxsize=16)
def _gaussian_matrix(size: int, sigma: float, border: Border, truncate: float) -> Float:
    """The blur along an axis as a matrix `[size, size]`, which a Gaussian wider than the image fits as well."""
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    places = _inside(np.arange(size)[:, None] + offsets, size, border)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], places), weights / weights.sum())
    return matrix


def convolve(image: Float, kernel: Float, border: Border) -> Float:
    """Convolution of every channel with an odd square kernel, by FFT: `out[p] = sum over q of kernel[q] image[p - q]`.

    Args:
        image: `[H, W, C]`.
        kernel: `[2 r + 1, 2 r + 1]`.
        border: What lies beyond the image.
    """
    radius = len(kernel) // 2
    H, W = image.shape[:2]
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), border)
    size = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, size)[..., None]
    full = np.fft.irfft2(spectrum, size, axes=(0, 1))
    return full[2 * radius : 2 * radius + H, 2 * radius : 2 * radius + W]


def motion_kernel(radius: float, sigma: float, degrees: float) -> Float:
    """A streak to one side: half a Gaussian along a line of `2 radius` pixels from the centre on.

    Args:
        radius: Half the length, pixels.
        sigma: Standard deviation of the Gaussian, pixels.
        degrees: Direction, 0 to the right, positive downwards.
    """
    steps = np.arange(int(2 * radius) + 1)
    weights = np.exp(-0.5 * (steps / max(sigma, 1e-9)) ** 2)
    angle = np.deg2rad(degrees)
    half = len(steps)
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    rows, columns = half + steps * np.sin(angle), half + steps * np.cos(angle)
    # Points of the line between pixels are shared by the four around them.
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for i, share_i in ((0, 1 - (rows - top)), (1, rows - top)):
        for j, share_j in ((0, 1 - (columns - left)), (1, columns - left)):
            np.add.at(
                kernel, (np.minimum(top + i, 2 * half), np.minimum(left + j, 2 * half)), weights * share_i * share_j
            )
    return kernel / kernel.sum()


def sample(image: Float, rows: Float, columns: Float, border: Border) -> Float:
    """The image at places between pixels, bilinearly.

    Args:
        image: `[H, W, C]`.
        rows: Row of each place, `[h, w]`.
        columns: Column of each place, `[h, w]`.
        border: What lies beyond the image.

    Returns:
        `[h, w, C]`.
    """
    H, W = image.shape[:2]
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    r0, r1 = _inside(top, H, border), _inside(top + 1, H, border)
    c0, c1 = _inside(left, W, border), _inside(left + 1, W, border)
    upper = image[r0, c0] * (1 - right) + image[r0, c1] * right
    lower = image[r1, c0] * (1 - right) + image[r1, c1] * right
    return upper * (1 - down) + lower * down


def zoom(image: Float, factor: float) -> Float:
    """The middle of an image enlarged to the size of the whole, bilinearly.

    Args:
        image: `[H, W]` or `[H, W, C]`.
        factor: At least 1.
    """
    for axis in (0, 1):
        middle = (image.shape[axis] - 1) / 2
        places = middle + (np.arange(image.shape[axis]) - middle) / factor
        first = np.floor(places).astype(int)
        share = (places - first).reshape([-1 if i == axis else 1 for i in range(image.ndim)])
        after = np.minimum(first + 1, image.shape[axis] - 1)
        image = image.take(first, axis) * (1 - share) + image.take(after, axis) * share
    return image


def _inside(places: npt.NDArray[np.int64], size: int, border: Border) -> npt.NDArray[np.int64]:
    """Places that may lie beyond the image, led back to pixels of it."""
    if border == "edge" or size == 1:
        return places.clip(0, size - 1)
    period = 2 * size if border == "symmetric" else 2 * size - 2
    places = places % period
    return np.minimum(places, (2 * size - 1 if border == "symmetric" else period) - places)
