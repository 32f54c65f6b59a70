"""Pictures with maps of classes as a segmenter is trained on them and asked about them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.config import TrainConfig
from transnext.data.channels import Channels, Picture
from transnext.data.images import UnreadableImage
from transnext.data.joint import canvas_of, place, place_padded, placed_size, reading_factor, to_tensor
from transnext.data.preprocessing import Preprocessing
from transnext.data.sample import Frame, LabelledImages, Sample, Skipped, Source
from transnext.data.segmentation.maps import GROUP, LabelMap, classes_of, joined
from transnext.tasks.segmentation.augment import Augmentation
from transnext.tasks.segmentation.config import SegmentationConfig
from transnext.tasks.segmentation.net import IGNORED

Map = npt.NDArray[np.uint8] | npt.NDArray[np.int32]
"""Of classes, or of segments."""


class MapImages(LabelledImages):
    """Pictures with their maps; targets of the source are `LabelMap`s, which are decoded here.

    In evaluation a sample has all of the picture, its map as it is, a NumPy array uint8 `[H, W]` of the picture, and a
    frame. In training it has a random view of the picture, and the map of that, a tensor uint8 `[h, w]` of the canvas.
    Maps of segments are int32 (`transnext.data.segmentation.maps.SEGMENT`); in training groups of objects are ignored.
    To be used with `collate(..., targets=collate_maps)`.

    Args:
        source: The pictures.
        preprocessing: What inputs look like, with a `crop_mode` that keeps all of a picture.
        training: How pictures are changed at random; None for evaluation.
        things: Classes that have objects, for maps of segments where the data tell them; None for maps of classes.
        own_size: In evaluation pictures keep their size, for a network that is asked in several.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        training: TrainConfig[SegmentationConfig] | None = None,
        things: Collection[int] | None = None,
        *,
        own_size: bool = False,
    ) -> None:
        self.own_size = own_size
        self.preprocessing = preprocessing
        self.things = things
        self.augmentation = None if training is None else Augmentation.of(training.task, training.images)
        mean = preprocessing.mean
        self._fill = mean if preprocessing.numbers else tuple(round(255 * value) for value in mean)
        # Half of what evaluation leaves to spare goes to views that show a part larger.
        zoom = 1.0 if self.augmentation is None else max(1.0, self.augmentation.zoom / 2)
        min_side = None if own_size else int(preprocessing.min_side() * zoom)
        super().__init__(source, partial(place_padded, preprocessing=preprocessing), min_side)

    def __getitem__(self, index: int) -> Sample | Skipped:
        index = range(len(self))[index]
        picture = self.read(index)
        if isinstance(picture, Skipped):
            return picture
        try:
            labels = read_map(self.source.target(index), self.things)
            reading_factor((labels.shape[0], labels.shape[1]), (picture.height, picture.width))
        except UnreadableImage as error:
            return Skipped(self.source.name(index), f"its label file: {error.reason}")
        except FileNotFoundError:
            return Skipped(self.source.name(index), "its label file is gone")
        except ValueError as error:
            return Skipped(self.source.name(index), str(error))
        if self.augmentation is None and self.own_size:
            return own_sample(picture, index, labels)
        if self.augmentation is None:
            return placed_sample(picture, self.preprocessing, index, labels)
        return self._training_sample(picture, labels, index, self.augmentation)

    def canvas(self, index: int) -> tuple[int, int] | None:
        """See `LabelledImages.canvas`."""
        if self.own_size or self.preprocessing.crop_mode != "shortest":
            return None
        return canvas_of(placed_size(self.source.target(index).size, self.preprocessing), self.preprocessing)

    def _training_sample(self, picture: Picture, labels: Map, index: int, augmentation: Augmentation) -> Sample:
        if labels.dtype == np.int32:
            labels = np.where(labels & GROUP, np.int32(IGNORED), labels)
        view = augmentation.view(classes_of(labels), self.preprocessing)
        original = (labels.shape[0], labels.shape[1])
        shown = view.of_picture(picture, original, self.preprocessing.interpolation, self._fill)
        canvas = augmentation.canvas(self.preprocessing) or canvas_of(view.size, self.preprocessing)
        # Colours are those of RGB: numbers stay as they are.
        image = to_tensor(shown if isinstance(shown, Channels) else augmentation.recoloured(shown))
        return Sample(image, map_on_canvas(torch.from_numpy(view.of_map(labels)), canvas), index, canvas=canvas)


def read_map(target: LabelMap, things: Collection[int] | None = None) -> Map:
    """A map of segments, if there are any, or of classes.

    Args:
        target: What is read.
        things: Classes that have objects; None for a map of classes in any case.

    Raises:
        UnreadableImage: See `LabelMap.read`.
        FileNotFoundError: See there.
    """
    segments = None if things is None else target.segments()
    return target.read() if segments is None or things is None else joined(segments, things)


def placed_sample(
    picture: Picture,
    preprocessing: Preprocessing,
    index: int,
    labels: Map | None = None,
    original: tuple[int, int] | None = None,
) -> Sample:
    """All of a picture as a network sees it, in evaluation or when it is asked.

    Args:
        picture: In mode `RGB`, perhaps shrunk when it was read, or numbers.
        preprocessing: With a `crop_mode` that keeps all of a picture.
        index: Its place among the pictures.
        labels: Its map, `[H, W]` of the unshrunk picture, which becomes the target as it is.
        original: `(H, W)` of the unshrunk picture where there is no map, which tells it; its own by default.
    """
    size = original if labels is None else (labels.shape[0], labels.shape[1])
    image, frame = place(picture, preprocessing, size)
    return Sample(image, labels, index, frame, canvas_of((image.shape[1], image.shape[2]), preprocessing))


def own_sample(picture: Picture, index: int, labels: Map | None = None) -> Sample:
    """A picture as it is, unshrunk, for a network that is asked about it in several sizes; see `placed_sample`."""
    return Sample(to_tensor(picture), labels, index, Frame.unchanged((picture.height, picture.width)))


def collate_maps(targets: Sequence[Any]) -> Tensor | list[Map]:
    """Collates targets of `MapImages`: those of training to one batch, `[B, H, W]`, others to a list."""
    if not targets or not all(isinstance(target, Tensor) for target in targets):
        return list(targets)
    height, width = (max(side) for side in zip(*(target.shape for target in targets), strict=True))
    return torch.stack([map_on_canvas(target, (height, width)) for target in targets])


def map_on_canvas(maps: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Maps `[..., h, w]` of a canvas `(H, W)`, `IGNORED` at the bottom and on the right.

    Raises:
        ValueError: They are larger.
    """
    bottom, right = canvas[0] - maps.shape[-2], canvas[1] - maps.shape[-1]
    if bottom < 0 or right < 0:
        raise ValueError(f"maps of {maps.shape[-2]}x{maps.shape[-1]} pixels on a canvas of {canvas[0]}x{canvas[1]}")
    return F.pad(maps, (0, right, 0, bottom), value=IGNORED) if bottom or right else maps
