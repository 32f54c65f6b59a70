"""Random changes of training pictures and of their maps.

Everything is drawn from the generators of Python and PyTorch, which are set for each image: it is a function of the
image's seed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from transnext.config import ImageConfig
from transnext.data.joint import View, placed_size
from transnext.data.preprocessing import Preprocessing
from transnext.tasks.segmentation.config import SegmentationConfig
from transnext.tasks.segmentation.net import IGNORED
from transnext.tasks.views import random_part, recoloured

SCALES = (0.5, 2.0)
"""Random scales of the released training, relative to evaluation."""
_TRIES = 10
_SAMPLED = 64
"""Rows and columns of a crop at which it is looked whether one class has too much of it."""
# Mask2Former's training: short sides from 256 to 1024 for one of 512 in evaluation.
_MASK2FORMER_SIDES = tuple(int(512 * tenth / 10) / 512 for tenth in range(5, 21))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to pictures at random. All defaults together do nothing.

    Attributes:
        hflip: Probability that a picture is mirrored.
        scales: Smallest and largest scale relative to that in evaluation.
        sides: Scales of the short side, one of which is taken while the long side stays limited; in place of `scales`.
        crop: Side of the square that larger pictures are cut to, pixels; None for what `canvas` says.
        max_share: Crops in which one class has more of the labelled pixels are drawn anew, 0..1.
        colour: Strength of random brightness, contrast and saturation, 0..1.
        distort: Photometric distortion (Liu et al. 2016), in place of `colour`.
    """

    hflip: float = 0.0
    scales: tuple[float, float] = (1.0, 1.0)
    sides: tuple[float, ...] = ()
    crop: int | None = None
    max_share: float = 1.0
    colour: float = 0.0
    distort: bool = False

    @classmethod
    def of(cls, task: SegmentationConfig, images: ImageConfig) -> Augmentation:
        """What the options of a training run ask for."""
        if task.augment == "none":
            return cls() if task.jitter is None else cls(scales=task.jitter)
        cut = {"hflip": images.hflip, "crop": task.crop, "max_share": task.max_class_share}
        if task.augment == "light":
            return cls(scales=task.jitter or SCALES, colour=task.color_jitter, **cut)  # type: ignore[arg-type]
        # A range of scales takes the place of Mask2Former's sides.
        sides = _MASK2FORMER_SIDES if task.segmenter == "mask2former" and task.jitter is None else ()
        distort = task.color_jitter > 0
        return cls(scales=task.jitter or SCALES, sides=sides, distort=distort, **cut)  # type: ignore[arg-type]

    @property
    def zoom(self) -> float:
        """How many times larger than in evaluation a part of a picture may be shown."""
        return max(1.0, self.scales[1], *self.sides)

    def canvas(self, preprocessing: Preprocessing) -> tuple[int, int] | None:
        """`(H, W)` that all training inputs have: the crop, or what evaluation has, in mode "shortest" a square of the
        short side; None if they have none in common.
        """
        if self.crop is not None:
            return self.crop, self.crop
        if preprocessing.crop_mode != "shortest":
            return preprocessing.input_size[1:]
        side = min(preprocessing.input_size[1:])
        return None if self.scales == (1.0, 1.0) and not self.sides else (side, side)

    def view(self, labels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> View:
        """A random view of a picture, no larger than the canvas.

        Args:
            labels: Its map `[H, W]`.
            preprocessing: What inputs look like in evaluation.
        """
        size = (labels.shape[0], labels.shape[1])
        if self.sides:
            scaled = placed_size(size, preprocessing, random.choice(self.sides))
        else:
            height, width = placed_size(size, preprocessing)
            scale = random.uniform(*self.scales)
            scaled = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        limit = self.canvas(preprocessing) or scaled
        region = (0.0, 0.0, float(size[1]), float(size[0]))
        view = random_part(region, scaled, limit)
        for _ in range(_TRIES):
            if self.max_share >= 1 or view.size == scaled or _share_of_largest(view, labels) <= self.max_share:
                break
            view = random_part(region, scaled, limit)
        return replace(view, mirrored=random.random() < self.hflip)

    def recoloured(self, image: Image.Image) -> Image.Image:
        """The image with random colours."""
        return recoloured(image, self.colour, self.distort)


def _share_of_largest(view: View, labels: npt.NDArray[np.uint8]) -> float:
    """Share of the labelled pixels of a view that the class with most of them has; 1 if there are none."""
    x0, y0, x1, y1 = view.source
    rows = _places(y0, y1, labels.shape[0])
    columns = _places(x0, x1, labels.shape[1])
    seen = labels[rows[:, None], columns]
    counts = np.bincount(seen[seen != IGNORED], minlength=1)
    return float(counts.max() / counts.sum()) if counts.sum() else 1.0


def _places(low: float, high: float, length: int) -> npt.NDArray[np.int64]:
    count = max(1, min(_SAMPLED, math.ceil(high - low)))
    places = low + (np.arange(count) + 0.5) * (high - low) / count
    return np.clip(places.astype(np.int64), 0, length - 1)
