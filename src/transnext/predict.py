"""Images in, answers out, of any task."""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from PIL import Image

from transnext.choices import DEFAULT_MODEL
from transnext.data import Sample, Skipped, UnreadableImage, collate
from transnext.inputs import ImageLike, name_of, one_by_one, open_channels, open_shrunk
from transnext.limits import check_number
from transnext.loaded import load
from transnext.tasks.classification.answers import ImagePrediction
from transnext.tasks.task import Asked, Loaded

__all__ = ["Detector", "ImagePrediction", "Predictor", "Segmenter"]


class _Read(NamedTuple):
    """An image that could be read."""

    name: str
    picture: Any
    sample: Sample


def asked_about(
    loaded: Loaded,
    names: list[str],
    pictures: list[Image.Image],
    samples: Sequence[Sample],
    device: torch.device | str,
    batch_size: int | None = None,
) -> Asked:
    """Pictures as the task of a model takes them.

    Args:
        loaded: The model.
        names: What to call each.
        pictures: RGB, upright.
        samples: What the task made of each.
        device: Of the model.
        batch_size: See `Asked`.
    """
    batch = collate(samples, targets=list)
    return Asked(
        names=names,
        pictures=pictures,
        images=batch.images,
        sizes=batch.sizes,
        frames=batch.frames,
        inputs=loaded.task.inputs(batch.images.to(device), batch.sizes, loaded.preprocessing),
        batch_size=batch_size,
    )


class Predictor:
    """Asks a model about images.

        predictor = Predictor()                     # the bundled model
        predictor = Predictor("runs/flowers")       # a run of `transnext train`
        predictor = Predictor("flowers.onnx")       # or what `transnext export` made of it
        predictor("tulip.jpg")[0].classes[0]
        for result in predictor.stream("photos"):   # goes on after what cannot be read, and says why
            ...

    Args:
        model: A run folder, a checkpoint, an exported file (.onnx, .xml, .pt2), a model name with pretrained weights,
            or one that is `Loaded`.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        device: Where to compute.

    Raises:
        FileNotFoundError: There is no such file or folder, nor a model of that name.
        ValueError: The weights do not fit or cannot be had.
    """

    def __init__(
        self,
        model: str | Path | Loaded = DEFAULT_MODEL,
        *,
        image_size: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.loaded = load(model, image_size=image_size, device=device)
        self.device = torch.device(device)

    def __call__(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int | None = None,
        **options: Any,
    ) -> list[Any]:
        """The answer for one image or several.

        Args:
            images: One of these, or an iterable of them:

                - a path; a folder, for the images in it and below; a pattern such as `photos/*.jpg`; an http(s) URL
                - the bytes of an image file, or a file open for reading them
                - a PIL image of any mode
                - an array `[H, W]` or `[H, W, C]`, or `[B, H, W, C]`, or a tensor `[H, W]`, `[C, H, W]` or
                  `[B, C, H, W]`, of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels; uint8 (or other integers)
                  0..255, uint16 0..65535, bool, or floats 0..1, not normalised

                Transparency is put on white, and any size is brought to that of the model.
            batch_size: Images, or tiles, that go through the model at once; by default 32 of 224 pixels, fewer of
                larger ones.
            options: Of the task: a classifier takes `top_k`, how many classes to name (5), and `look`, to say also
                where the model looks from the image centre.

        Returns:
            An answer for each image, in order, of a classifier an `ImagePrediction`; none for none.

        Raises:
            FileNotFoundError: A file is not there.
            UnreadableImage: A file is not an image, or a damaged one.
            TypeError: Something is no image.
            ValueError: An array has another shape or range, or `look` is asked of an exported file, which does not give
                its attention.
        """
        self._check(batch_size, options)
        return list(self._stream(images, batch_size, options, True))

    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Answers batch by batch, and goes on after images that cannot be read.

        Args:
            images: As in a call; an iterable is read as far as it is needed.
            batch_size: As in a call.
            options: As in a call.

        Yields:
            For each image, in order, the answer or a `Skipped` with the reason why there is none.

        Raises:
            TypeError: Something is no image.
            ValueError: A folder has no images, or `look` is asked of an exported file.
        """
        self._check(batch_size, options)
        return self._stream(images, batch_size, options, False)

    def _check(self, batch_size: int | None, options: dict[str, Any]) -> None:
        check_number("batch_size", 1 if batch_size is None else batch_size, 1)
        self.loaded.task.check(self.loaded, **options)

    def _stream(
        self, images: ImageLike | Iterable[ImageLike], batch_size: int | None, options: dict[str, Any], strict: bool
    ) -> Iterator[Any]:
        task, preprocessing = self.loaded.task, self.loaded.preprocessing
        channels, reading = task.channels(preprocessing), task.reading(preprocessing, **options)
        usual = min(32, max(1, 32 * 224**2 // math.prod(preprocessing.input_size[1:])))
        at_once = 1 if reading.one_by_one else batch_size or usual
        numbered = enumerate(one_by_one(images))
        while part := list(itertools.islice(numbered, at_once)):
            read: list[_Read | Skipped] = []
            for place, image in part:
                name = name_of(image, place)
                try:
                    picture: Any
                    if channels is None:
                        picture, size = open_shrunk(image, reading.min_side)
                    else:
                        picture, size = open_channels(image, channels), None
                    read.append(_Read(name, picture, task.sample(picture, preprocessing, place, size)))
                except (OSError, ValueError) as error:
                    if strict:
                        raise
                    reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
                    read.append(Skipped(name, error.reason if isinstance(error, UnreadableImage) else reason))
            good = [item for item in read if not isinstance(item, Skipped)]
            predictions = self._by_place(good, options, batch_size)
            yield from (item if isinstance(item, Skipped) else predictions[item.sample.index] for item in read)

    def _by_place(self, read: Sequence[_Read], options: dict[str, Any], batch_size: int | None) -> dict[int, Any]:
        """Answers by the place of the image; a batch has images of one canvas, as networks may see their padding."""
        on_canvas: dict[tuple[int, ...], list[_Read]] = {}
        for item in read:
            on_canvas.setdefault(item.sample.canvas or item.sample.image.shape[1:], []).append(item)
        return {
            item.sample.index: answer
            for alike in on_canvas.values()
            for item, answer in zip(alike, self._predict(alike, options, batch_size), strict=True)
        }

    def _predict(self, read: Sequence[_Read], options: dict[str, Any], batch_size: int | None) -> list[Any]:
        with torch.inference_mode():
            asked = asked_about(
                self.loaded,
                [item.name for item in read],
                [item.picture for item in read],
                [item.sample for item in read],
                self.device,
                batch_size,
            )
            return self.loaded.task.answers(self.loaded, asked, **options)


class Detector(Predictor):
    """Asks a model which objects are in images, and where.

        detector = Detector("runs/boxes")            # a run of `transnext detect train`
        found = detector("street.jpg")[0]            # a `supervision.Detections`
        found.xyxy, found.confidence, found["class_name"], found.mask

    Answers are `supervision.Detections` in pixels of the upright picture. Options of a call: `threshold`, the least
    score, 0..1, by default that of the best F1 in validation; `classes`, names of those that are asked for; `masks`,
    False for boxes alone; `tile`, the side of squares in which large pictures are looked through, pixels, by default
    those that it was trained on, 0 for as a whole; `overlap`, the share of a tile that it has in common with the next.

    Args:
        model: A run folder, a checkpoint of ours or of the released code, an exported file, the name of a released
            detector (`maskrcnn-transnext-tiny-coco`), or one that is `Loaded`.
        image_size: As in `Predictor`.
        device: As in `Predictor`.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It is no detector, or its weights do not fit or cannot be had.
    """

    def __init__(
        self, model: str | Path | Loaded, *, image_size: int | None = None, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(model, image_size=image_size, device=device)
        if self.loaded.task.name != "detection":
            raise ValueError(f"{self.loaded.name} is a model of {self.loaded.task.name}, not a detector")


class Segmenter(Predictor):
    """Asks a model of which class every pixel of an image is.

        segmenter = Segmenter("runs/maps")           # a run of `transnext segment train`
        found = segmenter("street.jpg")[0]           # a `ClassMap`
        found.labels, found.mask("road"), found.polygons()
        found.draw(picture).save("classes.png")

    Answers are in pixels of the upright picture. Options of a call: `confidence`, to tell the probability of the class
    of each pixel, too.

    Args:
        model: A run folder, a checkpoint of ours or of the released code, an exported file, the name of a released
            segmenter (`upernet-transnext-tiny-ade`), or one that is `Loaded`.
        image_size: As in `Predictor`.
        device: As in `Predictor`.
        looking: How to look at pictures, as fields of `tasks.segmentation.looking.Looking`, if not as in training:
            `window` and `stride`, `scales` and `flip`, `bias_mode`.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It is no segmenter, its weights do not fit or cannot be had, or it cannot look so.
    """

    def __init__(
        self,
        model: str | Path | Loaded,
        *,
        image_size: int | None = None,
        device: str | torch.device = "cpu",
        **looking: Any,
    ) -> None:
        super().__init__(model, image_size=image_size, device=device)
        if self.loaded.task.name != "segmentation":
            raise ValueError(f"{self.loaded.name} is a model of {self.loaded.task.name}, not a segmenter")
        if looking:
            from transnext.tasks.segmentation.looking import looking_at

            self.loaded = looking_at(self.loaded, **looking)

    def panoptic(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int | None = None,
        thing_classes: Collection[str] | None = None,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
    ) -> list[Any]:
        """The segments of one image or several: objects, and areas of classes that have none. Of a Mask2Former.

        The rules are the published ones: a pixel goes to the query whose score times mask is largest there, if the
        mask is likely there; a query that keeps too little of its mask is left out.

        Args:
            images: As in a call.
            batch_size: As in a call.
            thing_classes: Names of the classes that have objects; by default those of the training data.
            threshold: Probability of its class that a query has to exceed, 0..1.
            mask_threshold: Probability of its mask from which on a pixel belongs to it, 0..1.
            overlap_mask_area_threshold: Part of its mask that a query has to keep, 0..1.

        Returns:
            A `PanopticMap` for each image: `ids`, int32 `[H, W]`, and `segments_info`, as COCO's files have them.

        Raises:
            ValueError: The segmenter tells no segments, it is not known which classes have objects, a number is out of
                range, or see a call.
        """
        return self(
            images,
            batch_size=batch_size,
            panoptic=True,
            thing_classes=thing_classes,
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
        )

    def large(
        self,
        source: str | Path | npt.NDArray[Any],
        *,
        output: str | Path | None = None,
        tile: int = 512,
        overlap: float = 0.25,
        batch_size: int = 4,
    ) -> Any:
        """The answer for a picture of any size, read from its file and looked at in tiles, which fade into one another.

        Its pixels are taken as they are, not brought to the size of training. Memory is that of a few tiles, of the
        scores of the rows that tiles have in common, and without `output` of the map, a byte for each pixel.

        Args:
            source: An image file, a TIFF or .npy, or an array `[H, W]` or `[H, W, channels]`, of 8 or 16 bits or floats
                in 0..1, with as many channels as the backbone takes.
            output: File to which the map is written as it comes: .tif with its place on the ground (needs rasterio),
                .png with a palette, or .npy. None to get it as an array.
            tile: Side of a tile, pixels, a multiple of 32.
            overlap: Share of a tile that it has in common with the next, 0..0.9.
            batch_size: Tiles that go through the model at once.

        Returns:
            A `ClassMap`; with `output` a `WrittenMap`: its file, and the pixels of each class.

        Raises:
            FileNotFoundError: There is no such file.
            TypeError: `source` is something else.
            UnreadableImage: It cannot be read.
            ValueError: A number is out of range, the picture has another number of channels, or the segmenter was
                opened to look in windows or several sizes, whose place tiles take.
        """
        from transnext.tasks.segmentation.asking import map_in_tiles

        return map_in_tiles(
            self.loaded,
            source,
            tile=tile,
            overlap=overlap,
            batch_size=batch_size,
            device=self.device,
            output=None if output is None else Path(output),
        )
