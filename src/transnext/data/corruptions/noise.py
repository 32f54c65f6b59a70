"""Noise: of the sensor, of the light, of the transmission.

Every corruption takes an image float64 `[H, W, 3]`, 0..1; the severity, 0 to 4; the shorter side / 224; and a
generator; and gives an image of the same shape, which may leave 0..1.
"""

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

SIGMA = (0.08, 0.12, 0.18, 0.26, 0.38)
PHOTONS = (60, 25, 12, 5, 3)
"""That a white pixel receives."""
REPLACED = (0.03, 0.06, 0.09, 0.17, 0.27)
"""Share of values that become 0 or 1."""


def gaussian_noise(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """Normal noise on every value."""
    return image + SIGMA[severity] * rng.standard_normal(image.shape)


def shot_noise(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """The Poisson noise of few photons."""
    photons = PHOTONS[severity]
    return rng.poisson(image * photons) / photons


def impulse_noise(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """Salt and pepper, in each channel for itself."""
    draw, share = rng.random(image.shape), REPLACED[severity]
    return np.where(draw < share / 2, 0.0, np.where(draw < share, 1.0, image))
