"""Answers of a classifier about an image."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from transnext.data.preprocessing import picture
from transnext.limits import check_number
from transnext.tasks.task import Asked, Loaded


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

    def text(self) -> str:
        """The classes in a line."""
        return "  ".join(f"{c} {p:.1%}" for c, p in zip(self.classes, self.probabilities, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"image": self.name, "classes": self.classes, "probabilities": self.probabilities}


def check_classifier(loaded: Loaded, top_k: int = 5, look: bool = False) -> None:
    """Refuses a model without classes, or with others than it names, and options that it does not have.

    Raises:
        ValueError: It cannot be asked, or not that.
    """
    names, outputs = len(loaded.class_names), getattr(loaded.model, "num_classes", None)
    if names == 0:
        raise ValueError(
            f"{loaded.name} has no classifier, only a backbone: `transnext train` with it as --checkpoint gives it "
            "one, `transnext export --features-only` gives its maps"
        )
    if outputs not in (None, names):
        raise ValueError(f"{loaded.name} names {names} classes, but its classifier has {outputs}")
    check_number("top_k", top_k, 1)
    if look and getattr(loaded.model, "is_exported", False):
        raise ValueError(f"{loaded.name} does not give its attention: ask the checkpoint that it was made from")


def classify(loaded: Loaded, asked: Asked, top_k: int = 5, look: bool = False) -> list[ImagePrediction]:
    """The likeliest classes of each image.

    Args:
        loaded: The classifier.
        asked: The images.
        top_k: How many classes to name.
        look: Also say where the model looks from the image centre.
    """
    probabilities = loaded.model(asked.inputs).float().softmax(-1)
    values, places = probabilities.topk(min(top_k, probabilities.shape[-1]))
    seen: list[dict[str, Any]] = [{} for _ in asked.names]
    if look:
        from transnext.explain import where_it_looks  # imports matplotlib

        heats = where_it_looks(loaded.model, asked.inputs).cpu().numpy()
        seen = [{"heat": heat, "image": picture(x)} for heat, x in zip(heats, asked.images, strict=True)]
    return [
        ImagePrediction(name=name, classes=[loaded.class_names[i] for i in place], probabilities=value, **more)
        for name, place, value, more in zip(asked.names, places.tolist(), values.tolist(), seen, strict=True)
    ]
