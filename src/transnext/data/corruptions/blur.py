"""Blur: out of focus, through frosted glass, of a moving camera, of approaching. Arguments as in `noise`."""

import numpy as np
import numpy.typing as npt

from transnext.data.corruptions.filters import convolve, gaussian, motion_kernel, sample, zoom

Float = npt.NDArray[np.float64]

DISK_RADIUS = (3, 4, 6, 8, 10)
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
"""Standard deviation of the blur before and after, largest displacement, and how many times pixels are displaced."""
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
"""Radius and standard deviation of the streak."""
ZOOM = ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03))
"""Number of zooms, from 1 on, and the step between them."""
SUBPIXELS = 8
"""Along each axis of a pixel at the rim of the disk."""


def defocus_blur(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """A disk in place of every point."""
    return convolve(image, _disk(DISK_RADIUS[severity] * scale), "reflect")


def _disk(radius: float) -> Float:
    """Share of each pixel that a disk covers, `[2 r + 1, 2 r + 1]`, summing to 1."""
    half = int(np.ceil(radius))
    fine = (np.arange((2 * half + 1) * SUBPIXELS) + 0.5) / SUBPIXELS - half - 0.5
    # A pixel belongs to the disk of the definition when its centre does: half a pixel more than its area at the rim.
    inside = fine[:, None] ** 2 + fine**2 <= max(radius + 0.05, 0.5) ** 2
    covered = inside.reshape(2 * half + 1, SUBPIXELS, 2 * half + 1, SUBPIXELS).mean((1, 3))
    return covered / covered.sum()


def glass_blur(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """Pixels displaced at random among their neighbours, between two light blurs."""
    sigma, reach, times = GLASS[severity]
    H, W = image.shape[:2]
    image = gaussian(image, sigma * scale, "edge")
    sources = np.arange(H * W).tolist()
    for _ in range(times):
        # The definition draws from -reach..reach - 1, and goes from the end of the image to its start. One after the
        # other: what a pixel takes may itself have come from elsewhere.
        down, right = rng.integers(-reach, reach, (2, H, W))
        places = np.arange(H * W).reshape(H, W)
        moving = (slice(H - reach, reach, -1), slice(W - reach, reach, -1))
        taken = (places + down * W + right)[moving]
        for place, source in zip(places[moving].ravel().tolist(), taken.ravel().tolist(), strict=True):
            sources[place] = sources[source]
    rows, columns = np.mgrid[0:H, 0:W].astype(np.float64)
    from_rows, from_columns = np.divmod(np.array(sources).reshape(H, W), W)
    image = sample(image, rows + scale * (from_rows - rows), columns + scale * (from_columns - columns), "edge")
    return gaussian(image, sigma * scale, "edge")


def motion_blur(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """A camera that moved to the right, up to 45 degrees up or down."""
    radius, sigma = MOTION[severity]
    return convolve(image, motion_kernel(radius * scale, sigma * scale, rng.uniform(-45, 45)), "edge")


def zoom_blur(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """A camera that comes closer while the shutter is open."""
    count, step = ZOOM[severity]
    total = image.copy()
    for i in range(count):
        total += zoom(image, 1 + i * step)
    return total / (count + 1)
