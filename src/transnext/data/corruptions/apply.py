"""A corruption by its name, of an image or of a data set."""

import difflib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from transnext.data.corruptions import blur, digital, noise, weather
from transnext.data.sample import LabelledImages, Sample, Skipped, Source
from transnext.data.transforms import Transform

Float = npt.NDArray[np.float64]
Corruption = Callable[[Float, int, float, np.random.Generator], Float]

TRAINED_SIDE = 224
"""Side of the images that the parameters are for, pixels."""

_FUNCTIONS: dict[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
CORRUPTIONS = tuple(_FUNCTIONS)
"""Names, in the order of the paper: noise, blur, weather, digital."""
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(
    image: npt.NDArray[np.uint8], corruption: str, severity: int, *, seed: int = 0, index: int = 0
) -> npt.NDArray[np.uint8]:
    """Corrupts an image.

    Args:
        image: uint8 `[H, W, 3]`, RGB, 0..255, of any size.
        corruption: One of `CORRUPTIONS`.
        severity: 1 (mild) to 5.
        seed: With `index`, `corruption` and `severity`, decides all that is random.
        index: Place of the image in its set.

    Returns:
        uint8 `[H, W, 3]`, a new array.

    Raises:
        ValueError: The image is something else, or there is no such corruption or severity.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"the image is {image.dtype} {list(image.shape)}: expected uint8 [H, W, 3], RGB, not empty")
    check_corruption(corruption)
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity}: expected 1 to 5")
    rng = np.random.default_rng((seed, index, CORRUPTIONS.index(corruption), severity))
    scale = min(image.shape[:2]) / TRAINED_SIDE
    result = _FUNCTIONS[corruption](image / 255.0, severity - 1, scale, rng)
    return (255 * result.clip(0, 1)).round().astype(np.uint8)


def check_corruption(name: str) -> None:
    """Makes sure that there is a corruption of that name.

    Raises:
        ValueError: There is none; a similar one is suggested.
    """
    if name not in CORRUPTIONS:
        close = difflib.get_close_matches(name, CORRUPTIONS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(CORRUPTIONS)}"
        raise ValueError(f"no corruption is called {name!r}: {hint}")


class CorruptedImages(LabelledImages):
    """Labelled images, corrupted as the model would see them: after resizing and cropping.

    Args:
        source: The images.
        transform: From an RGB image to a uint8 tensor `[3, H, W]`, deterministic.
        min_side: As in `LabelledImages`.
        corruption: One of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Another seed gives other noise.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        min_side: int | None,
        *,
        corruption: str,
        severity: int,
        seed: int = 0,
    ) -> None:
        super().__init__(source, transform, min_side)
        self.corruption = corruption
        self.severity = severity
        self.seed = seed

    def __getitem__(self, index: int) -> Sample | Skipped:
        sample = super().__getitem__(index)
        if isinstance(sample, Skipped):
            return sample
        pixels = sample.image.permute(1, 2, 0).numpy()
        corrupted = corrupt(pixels, self.corruption, self.severity, seed=self.seed, index=sample.index)
        return replace(sample, image=torch.from_numpy(corrupted).permute(2, 0, 1))
