"""Images in, classes out."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from transnext.choices import DEFAULT_MODEL
from transnext.data import Skipped, UnreadableImage
from transnext.data.preprocessing import picture
from transnext.export import ExportedModel, open_classifier
from transnext.inputs import ImageLike, name_of, one_by_one, open_image
from transnext.limits import check_number
from transnext.tasks.task import Loaded


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """The answer for one image.

    Attributes:
        name: Path or address of the image, or "image" and its place in the call.
        classes: Names of the likeliest classes, likeliest first.
        probabilities: Their probabilities, 0..1.
        heat: Where the model looks, float32 `[H, W]`, 0..1, at the size of `image`; None if not asked for.
        image: The image as the model saw it, RGB; None if `heat` was not asked for.
    """

    name: str
    classes: list[str]
    probabilities: list[float]
    heat: np.ndarray | None = field(default=None, repr=False)
    image: Image.Image | None = field(default=None, repr=False)


class Predictor:
    """Classifies images.

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
        self.classifier = open_classifier(model, image_size=image_size, device=device)
        self.device = torch.device(device)
        self._transform = self.classifier.preprocessing.transform()
        self._normalise = self.classifier.preprocessing.normalise(self.device)

    def __call__(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        top_k: int = 5,
        look: bool = False,
        batch_size: int | None = None,
    ) -> list[ImagePrediction]:
        """Classifies one image or several.

        Args:
            images: One of these, or an iterable of them:

                - a path; a folder, for the images in it and below; a pattern such as `photos/*.jpg`; an http(s) URL
                - the bytes of an image file, or a file open for reading them
                - a PIL image of any mode
                - an array `[H, W]` or `[H, W, C]`, or `[B, H, W, C]`, or a tensor `[H, W]`, `[C, H, W]` or
                  `[B, C, H, W]`, of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels; uint8 (or other integers)
                  0..255, uint16 0..65535, bool, or floats 0..1, not normalised

                Transparency is put on white, and any size is brought to that of the model.
            top_k: How many classes to name.
            look: Also say where the model looks from the image centre.
            batch_size: Images that go through the model at once; by default 32 of 224 pixels, fewer of larger ones.

        Returns:
            An answer for each image, in order; none for none.

        Raises:
            FileNotFoundError: A file is not there.
            UnreadableImage: A file is not an image, or a damaged one.
            TypeError: Something is no image.
            ValueError: An array has another shape or range, or `look` is asked of an exported file, which does not give
                its attention.
        """
        self._check(top_k, look, batch_size)
        return [r for r in self._stream(images, top_k, look, batch_size, True) if isinstance(r, ImagePrediction)]

    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        top_k: int = 5,
        look: bool = False,
        batch_size: int | None = None,
    ) -> Iterator[ImagePrediction | Skipped]:
        """Classifies images batch by batch, and goes on after those that cannot be read.

        Args:
            images: As in a call; an iterable is read as far as it is needed.
            top_k: As in a call.
            look: As in a call.
            batch_size: As in a call.

        Yields:
            For each image, in order, the answer or a `Skipped` with the reason why there is none.

        Raises:
            TypeError: Something is no image.
            ValueError: A folder has no images, or `look` is asked of an exported file.
        """
        self._check(top_k, look, batch_size)
        return self._stream(images, top_k, look, batch_size, False)

    def _check(self, top_k: int, look: bool, batch_size: int | None) -> None:
        check_number("top_k", top_k, 1)
        check_number("batch_size", 1 if batch_size is None else batch_size, 1)
        if look and isinstance(self.classifier.model, ExportedModel):
            raise ValueError(
                f"{self.classifier.name} does not give its attention: ask the checkpoint that it was made from"
            )

    def _stream(
        self, images: ImageLike | Iterable[ImageLike], top_k: int, look: bool, batch_size: int | None, strict: bool
    ) -> Iterator[ImagePrediction | Skipped]:
        preprocessing = self.classifier.preprocessing
        if batch_size is None:
            batch_size = min(32, max(1, 32 * 224**2 // math.prod(preprocessing.input_size[1:])))
        numbered = enumerate(one_by_one(images))
        while part := list(itertools.islice(numbered, batch_size)):
            read: list[tuple[str, torch.Tensor] | Skipped] = []
            for place, image in part:
                name = name_of(image, place)
                try:
                    read.append((name, self._transform(open_image(image, preprocessing.min_side()))))
                except (OSError, ValueError) as error:
                    if strict:
                        raise
                    reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
                    read.append(Skipped(name, error.reason if isinstance(error, UnreadableImage) else reason))
            good = [item for item in read if not isinstance(item, Skipped)]
            predictions = iter(self._predict(good, top_k, look) if good else ())
            yield from (item if isinstance(item, Skipped) else next(predictions) for item in read)

    def _predict(self, named: Sequence[tuple[str, torch.Tensor]], top_k: int, look: bool) -> list[ImagePrediction]:
        images = torch.stack([x for _, x in named])
        inputs = self._normalise(images.to(self.device))
        with torch.inference_mode():
            probabilities = self.classifier.model(inputs).float().softmax(-1)
        values, places = probabilities.topk(min(top_k, probabilities.shape[-1]))
        heats: list[np.ndarray | None] = [None] * len(named)
        seen: list[Image.Image | None] = [None] * len(named)
        if look:
            from transnext.explain import where_it_looks  # imports matplotlib

            heats = list(where_it_looks(self.classifier.model, inputs).cpu().numpy())
            seen = [picture(x) for x in images]
        return [
            ImagePrediction(
                name=name,
                classes=[self.classifier.class_names[i] for i in place],
                probabilities=value,
                heat=heat,
                image=image,
            )
            for (name, _), place, value, heat, image in zip(
                named, places.tolist(), values.tolist(), heats, seen, strict=True
            )
        ]
