"""Images in, classes out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from transnext.data import read_image, to_rgb
from transnext.export import ExportedModel, open_classifier
from transnext.tasks.classification.loading import DEFAULT_MODEL, Classifier

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """The answer for one image.

    Attributes:
        name: Path of the image, or "image" and its place in the call.
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

    Args:
        model: A run folder, a checkpoint, an exported file (.onnx, .xml, .pt2), a model name with pretrained weights,
            or a loaded `Classifier`.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        device: Where to compute.

    Raises:
        FileNotFoundError: There is no such file or folder, nor a model of that name.
        ValueError: The weights do not fit or cannot be had.
    """

    def __init__(
        self,
        model: str | Path | Classifier = DEFAULT_MODEL,
        *,
        image_size: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.classifier = open_classifier(model, image_size=image_size, device=device)
        self.device = torch.device(device)
        self._transform = self.classifier.preprocessing.transform()

    def __call__(
        self, images: ImageLike | Sequence[ImageLike], *, top_k: int = 5, look: bool = False, batch_size: int = 32
    ) -> list[ImagePrediction]:
        """Classifies one image or several.

        Args:
            images: Paths, PIL images of any mode, or uint8 arrays HWC or HW, 0..255.
            top_k: How many classes to name.
            look: Also say where the model looks from the image centre.
            batch_size: Images that go through the model at once.

        Raises:
            FileNotFoundError: A file is not there.
            UnreadableImage: A file is not an image, or a damaged one.
            ValueError: `look` is asked of an exported file, which does not give its attention.
        """
        if look and isinstance(self.classifier.model, ExportedModel):
            raise ValueError(
                f"{self.classifier.name} does not give its attention: ask the checkpoint that it was made from"
            )
        if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray)):
            images = [images]
        results: list[ImagePrediction] = []
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            names = [str(x) if isinstance(x, (str, os.PathLike)) else f"image {start + i}" for i, x in enumerate(part)]
            results += self._predict([self._open(x) for x in part], names, top_k, look)
        return results

    def _open(self, image: ImageLike) -> Image.Image:
        if isinstance(image, (str, os.PathLike)):
            return read_image(image, self.classifier.preprocessing.min_side())
        return to_rgb(Image.fromarray(image) if isinstance(image, np.ndarray) else image)

    def _predict(self, images: list[Image.Image], names: list[str], top_k: int, look: bool) -> list[ImagePrediction]:
        inputs = torch.stack([self._transform(image) for image in images]).to(self.device)
        with torch.inference_mode():
            probabilities = self.classifier.model(inputs).float().softmax(-1)
        values, places = probabilities.topk(min(top_k, probabilities.shape[-1]))
        heats: list[np.ndarray | None] = [None] * len(images)
        seen: list[Image.Image | None] = [None] * len(images)
        if look:
            from transnext.explain import where_it_looks  # imports matplotlib

            heats = list(where_it_looks(self.classifier.model, inputs).cpu().numpy())
            seen = [self._as_image(x) for x in inputs]
        return [
            ImagePrediction(
                name=name,
                classes=[self.classifier.class_names[i] for i in place],
                probabilities=value,
                heat=heat,
                image=image,
            )
            for name, place, value, heat, image in zip(
                names, places.tolist(), values.tolist(), heats, seen, strict=True
            )
        ]

    def _as_image(self, x: torch.Tensor) -> Image.Image:
        preprocessing = self.classifier.preprocessing
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        pixels = ((x * std + mean).clamp(0, 1) * 255).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
