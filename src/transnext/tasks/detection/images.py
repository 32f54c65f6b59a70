"""Pictures with annotated objects as a detector is trained on them, how often, and asked about them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from transnext.config import TrainConfig
from transnext.data.instances import Annotation, InstanceBatch, Instances
from transnext.data.joint import canvas_of, place, place_padded, placed_size, reading_factor, to_bytes
from transnext.data.preprocessing import Preprocessing
from transnext.data.sample import Frame, LabelledImages, Sample, Skipped, Source
from transnext.tasks.detection.augment import Augmentation, objects_in
from transnext.tasks.detection.config import DetectionConfig
from transnext.tasks.detection.copy_paste import paste


class DetectionImages(LabelledImages):
    """Pictures with their objects; targets of the source are `Annotation`s.

    In evaluation a sample has all of the picture, its annotation as it is, in pixels of the picture, and a frame. In
    training it has a random view of the picture, and the `Instances` in it in pixels of the input. To be used with
    `collate(..., targets=collate_objects)`.

    Args:
        source: The pictures.
        preprocessing: What inputs look like, with a `crop_mode` that keeps all of a picture.
        training: How pictures are changed at random; None for evaluation.
        masks: Training has outlines, too.
        own_size: In evaluation pictures keep their size, to be looked through in tiles, and are in a batch alone.

    Raises:
        ValueError: Objects are to be pasted from other pictures, and there are no outlines.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        training: TrainConfig[DetectionConfig] | None = None,
        *,
        masks: bool = False,
        own_size: bool = False,
    ) -> None:
        self.own_size = own_size
        self.at_once = 1 if own_size else None
        self.preprocessing = preprocessing
        self.augmentation = None if training is None else Augmentation.of(training.task, training.images)
        self.masks = masks
        red, green, blue = (round(255 * value) for value in preprocessing.mean)
        self._fill = (red, green, blue)
        min_side: int | None = None if own_size else preprocessing.min_side()
        if self.augmentation is not None and training is not None:
            if self.augmentation.copy_paste and not masks:
                if training.task.copy_paste:
                    raise ValueError(
                        f"copy_paste is {training.task.copy_paste}, and objects are copied by their outlines, which "
                        "are not trained on: leave it out"
                    )
                self.augmentation = replace(self.augmentation, copy_paste=0.0)
            # Half of what evaluation leaves to spare goes to views that show a part larger.
            zoom = max(1.0, self.augmentation.zoom / 2)
            min_side = None if self.augmentation.tiles is not None else int(preprocessing.min_side() * zoom)
        super().__init__(source, partial(place_padded, preprocessing=preprocessing), min_side)

    def __getitem__(self, index: int) -> Sample | Skipped:
        index = range(len(self))[index]
        found = self._open(index)
        if isinstance(found, Skipped):
            return found
        picture, annotation = found
        if self.augmentation is None and self.own_size:
            return Sample(to_bytes(picture), annotation, index, Frame.unchanged((picture.height, picture.width)))
        if self.augmentation is None:
            return placed_sample(picture, self.preprocessing, index, annotation)
        shown, objects = self._view(picture, annotation, self.augmentation)
        if random.random() < self.augmentation.copy_paste:
            shown, objects = self._with_objects_of_another(shown, objects, self.augmentation)
        return self._sample(to_bytes(self.augmentation.recoloured(shown)), objects, index)

    def canvas(self, index: int) -> tuple[int, int] | None:
        """See `LabelledImages.canvas`."""
        if self.own_size:
            return None
        if self.preprocessing.crop_mode != "shortest":
            return None
        annotation: Annotation = self.source.target(index)
        return canvas_of(placed_size(annotation.size, self.preprocessing), self.preprocessing)

    def _open(self, index: int) -> tuple[Image.Image, Annotation] | Skipped:
        """A picture and its objects, or why there is none."""
        picture = self.read(index)
        if isinstance(picture, Skipped):
            return picture
        annotation: Annotation = self.source.target(index)
        try:
            reading_factor(annotation.size, (picture.height, picture.width))
        except ValueError as error:
            return Skipped(self.source.name(index), str(error))
        return picture, annotation

    def _view(
        self, picture: Image.Image, annotation: Annotation, augmentation: Augmentation
    ) -> tuple[Image.Image, Instances]:
        """A random view of a picture."""
        view = augmentation.view(annotation.size, annotation.boxes[~annotation.crowd], self.preprocessing)
        shown = view.of_picture(picture, annotation.size, self.preprocessing.interpolation, self._fill)
        return shown, objects_in(view, annotation, masks=self.masks, visible=augmentation.visible)

    def _with_objects_of_another(
        self, shown: Image.Image, objects: Instances, augmentation: Augmentation
    ) -> tuple[Image.Image, Instances]:
        """A view with objects of another picture; as it was if that cannot be read."""
        found = self._open(random.randrange(len(self)))
        if isinstance(found, Skipped):
            return shown, objects
        other, others = self._view(*found, augmentation)
        return paste(shown, objects, other, others, fill=self._fill, visible=augmentation.visible)

    def _sample(self, image: Tensor, target: Instances, index: int) -> Sample:
        canvas = canvas_of((image.shape[1], image.shape[2]), self.preprocessing)
        return Sample(image, target, index, canvas=canvas)


def placed_sample(
    picture: Image.Image,
    preprocessing: Preprocessing,
    index: int,
    annotation: Annotation | None = None,
    original: tuple[int, int] | None = None,
) -> Sample:
    """All of a picture as a network sees it, in evaluation or when it is asked.

    Args:
        picture: In mode `RGB`, perhaps shrunk when it was read.
        preprocessing: With a `crop_mode` that keeps all of a picture.
        index: Its place among the pictures.
        annotation: What is in it, which becomes the target as it is.
        original: `(H, W)` of the unshrunk picture where there is no annotation, which tells it; its own by default.
    """
    image, frame = place(picture, preprocessing, original if annotation is None else annotation.size)
    return Sample(image, annotation, index, frame, canvas_of((image.shape[1], image.shape[2]), preprocessing))


def collate_objects(targets: Sequence[Annotation | Instances]) -> InstanceBatch | list[Annotation]:
    """Collates targets of `DetectionImages`: those of training to one batch, annotations to a list."""
    objects = [target for target in targets if isinstance(target, Instances)]
    if len(objects) == len(targets):
        return InstanceBatch.of(objects)
    return [target for target in targets if isinstance(target, Annotation)]


def repeat_factors(labels_per_image: Sequence[npt.ArrayLike], threshold: float) -> npt.NDArray[np.float64]:
    """Rates at which images are to be drawn, relative to the others (repeat-factor sampling, Gupta et al. 2019).

    A class in a share `f` of the images has the factor `max(1, sqrt(threshold / f))`, an image the largest of its
    classes, and 1 if there is nothing in it.

    Args:
        labels_per_image: Classes of the objects in each image, in any number.
        threshold: Share of images below which a class is rare.

    Returns:
        float64 `[images]`, at least 1.
    """
    classes = [np.unique(np.asarray(labels, np.int64)) for labels in labels_per_image]
    factors = np.ones(len(classes))
    present = np.concatenate([*classes, np.zeros(0, np.int64)])
    if not len(present):
        return factors
    names, counts = np.unique(present, return_counts=True)
    by_class = np.maximum(1.0, np.sqrt(threshold * len(classes) / counts))
    for i, labels in enumerate(classes):
        factors[i] = by_class[np.searchsorted(names, labels)].max(initial=1.0)
    return factors
