"""Weather: snow, frost, fog, glare. Arguments as in `noise`."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from transnext.data.corruptions.filters import convolve, motion_kernel, zoom

Float = npt.NDArray[np.float64]

SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
"""Mean and standard deviation of the noise, size of its grain, what is less is no flake, radius and standard deviation
of the streaks, and how much of the image's own brightness stays."""
FROST = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
"""Weight of the image and of the frost."""
FROST_COLOURS = ((0.31, 0.58, 0.65), (0.79, 0.80, 0.84), (0.79, 0.80, 0.84), (0.54, 0.60, 0.65), (0.44, 0.48, 0.53))
"""Mean RGB of the five photographs that ImageNet-C draws from (the sixth is never drawn; two are alike)."""
FROST_CONTRAST = 0.11
"""Standard deviation of the brightness of the photographs within a crop of 224 pixels, about."""
FROST_DECAY = 1.5
FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
"""Strength, and by what the amplitude of the clouds falls from one octave to the next (its square root)."""
MAX_FLAKE_PIXELS = 1 << 20
BRIGHTER = (0.1, 0.2, 0.3, 0.4, 0.5)
LUMA = np.array([0.299, 0.587, 0.114])


def snow(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """Flakes blown across a whitened image."""
    mean, deviation, grain, threshold, radius, sigma, kept = SNOW[severity]
    H, W = image.shape[:2]
    # Flakes smaller than a pixel are drawn on a finer grid, on which they have their size, and averaged.
    detail = max(1.0, min(1 / scale, math.sqrt(MAX_FLAKE_PIXELS / (H * W))))
    flakes = zoom(rng.normal(mean, deviation, (round(H * detail), round(W * detail))), max(1.0, grain * scale * detail))
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
    streak = motion_kernel(radius * scale * detail, sigma * scale * detail, rng.uniform(-135, -45))
    flakes = convolve(flakes[..., None], streak, "edge")
    if detail > 1:
        coarse = Image.fromarray(flakes[..., 0].astype(np.float32)).resize((W, H), Image.Resampling.BOX)
        flakes = np.asarray(coarse, np.float64)[..., None]
    whitened = np.maximum(image, 1.5 * (image @ LUMA)[..., None] + 0.5)
    return kept * image + (1 - kept) * whitened + flakes + flakes[::-1, ::-1]


def frost(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """Ice on a window.

    ImageNet-C blends in photographs. This draws veins and grains of ice instead, ridges of a fractal, in the mean
    colours and with the contrast of those photographs; the weights are the published ones.
    """
    H, W = image.shape[:2]
    ridges = [1 - np.abs(2 * fractal(max(H, W), FROST_DECAY, rng)[:H, :W] - 1) for _ in range(2)]
    veins = ridges[0] ** 2 + ridges[1] ** 2
    deviation = veins.std()
    relief = (veins - veins.mean()) / (deviation if deviation > 1e-9 else 1.0)
    ice = np.array(FROST_COLOURS[rng.integers(len(FROST_COLOURS))]) + FROST_CONTRAST * relief[..., None]
    weight, frost_weight = FROST[severity]
    return weight * image + frost_weight * ice.clip(0, 1)


def fog(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """Clouds in front of everything, and less contrast behind them."""
    strength, decay = FOG[severity]
    H, W = image.shape[:2]
    brightest = image.max()
    clouds = fractal(max(H, W), decay, rng)[:H, :W, None]
    return (image + strength * clouds) * brightest / (brightest + strength)


def brightness(image: Float, severity: int, scale: float, rng: np.random.Generator) -> Float:
    """More value, at the same hue and saturation."""
    value = image.max(axis=2, keepdims=True)
    brighter = np.minimum(value + BRIGHTER[severity], 1)
    # Equal hue and saturation mean equal ratios of the channels.
    return np.where(value > 0, image * (brighter / np.maximum(value, 1e-9)), brighter)


def fractal(side: int, decay: float, rng: np.random.Generator) -> Float:
    """A height map by the diamond-square algorithm on a torus.

    Args:
        side: Least number of rows and columns, pixels.
        decay: Amplitudes fall by its square when the step is halved.
        rng: What is random.

    Returns:
        `[n, n]`, 0..1, `n` the power of two from `side` on.
    """
    n = 1 << max(side - 1, 1).bit_length()
    heights = np.zeros((n, n))
    step, amplitude = n, 1.0
    while step > 1:
        half = step // 2
        corners = heights[::step, ::step]
        centres = (corners + np.roll(corners, -1, 0) + np.roll(corners, -1, 1) + np.roll(corners, (-1, -1), (0, 1))) / 4
        centres = centres + amplitude * rng.uniform(-1, 1, centres.shape)
        heights[half::step, half::step] = centres
        # The middle of each side lies between two corners and two centres.
        across = (corners + np.roll(corners, -1, 1) + centres + np.roll(centres, 1, 0)) / 4
        along = (corners + np.roll(corners, -1, 0) + centres + np.roll(centres, 1, 1)) / 4
        heights[::step, half::step] = across + amplitude * rng.uniform(-1, 1, across.shape)
        heights[half::step, ::step] = along + amplitude * rng.uniform(-1, 1, along.shape)
        step, amplitude = half, amplitude / decay**2
    heights -= heights.min()
    return heights / heights.max()
