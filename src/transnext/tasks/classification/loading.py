"""A trained classifier from wherever it is: a run folder, a checkpoint, or released weights by name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from transnext.choices import DEFAULT_MODEL
from transnext.data.preprocessing import Preprocessing
from transnext.errors import one_line
from transnext.models import TransNeXt
from transnext.models.checkpoint import model_from_checkpoint, read_checkpoint
from transnext.models.variants import create
from transnext.tasks.classification.align import imagenet_descriptions
from transnext.tasks.classification.task import Classification
from transnext.tasks.task import Loaded


def loaded_classifier(model: nn.Module, class_names: Sequence[str], preprocessing: Preprocessing, name: str) -> Loaded:
    """A model ready to classify.

    Args:
        model: Gives logits `[B, classes]`, in evaluation mode.
        class_names: What the classes are called.
        preprocessing: What its images must look like.
        name: Where it came from, for messages.
    """
    task = Classification(metadata={"class_names": list(class_names)})
    return Loaded(model=model, task=task, preprocessing=preprocessing, name=name)


def load_classifier(
    model: str | Path = DEFAULT_MODEL,
    *,
    image_size: int | None = None,
    device: str | torch.device = "cpu",
    architecture: str | None = None,
) -> Loaded:
    """Loads a trained classifier.

    Args:
        model: A run folder, a checkpoint written by training, or a model name with pretrained weights
            (`transnext_tiny`, `transnext_pico.emoji`).
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        device: Where to put it.
        architecture: Name of the model in a checkpoint, for one that does not say it.

    Raises:
        FileNotFoundError: There is no such file or folder, nor a model of that name.
        ValueError: The file is not a checkpoint of a classifier, or the weights cannot be had.
    """
    path = Path(model)
    if path.is_dir():
        path = path / "best.safetensors"
        if not path.exists():
            raise FileNotFoundError(f"{model} is not a run folder: it has no best.safetensors")
    if path.is_file():
        return _from_checkpoint(path, image_size, device, architecture)
    if path.suffix in (".safetensors", ".pth", ".pt") or len(path.parts) > 1:
        raise FileNotFoundError(f"no file or folder {model}")
    return _pretrained(str(model), image_size, device)


def _from_checkpoint(
    path: Path, image_size: int | None, device: str | torch.device, architecture: str | None
) -> Loaded:
    metadata: dict[str, Any] = read_checkpoint(path).metadata
    model = model_from_checkpoint(path, architecture).to(device).eval()
    trained = metadata.get("preprocessing")
    preprocessing = Preprocessing.of_model(model) if trained is None else Preprocessing.from_mapping(trained)
    names = metadata.get("class_names") or _names(model)
    classifier = loaded_classifier(model, names, preprocessing, str(path))
    return classifier if image_size is None else _at_size(classifier, image_size)


def _pretrained(name: str, image_size: int | None, device: str | torch.device) -> Loaded:
    if not timm.is_model(name.split(".")[0]):
        raise FileNotFoundError(
            f"{name!r} is neither a run folder, nor a checkpoint, nor a model: `transnext models` lists those"
        )
    model = create(name, {}, pretrained=True).to(device).eval()
    preprocessing = Preprocessing.of_model(model)
    classifier = loaded_classifier(model, _names(model), preprocessing, name)
    return classifier if image_size is None else _at_size(classifier, image_size)


def _at_size(classifier: Loaded, image_size: int) -> Loaded:
    """The classifier for images of another size, which models of other families may not take."""
    preprocessing = classifier.preprocessing.resized(image_size)
    if not isinstance(classifier.model, TransNeXt) and preprocessing != classifier.preprocessing:
        device = next(classifier.model.parameters()).device
        try:
            with torch.inference_mode():
                classifier.model(torch.zeros(1, *preprocessing.input_size, device=device))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"{classifier.name} takes no images of {image_size} pixels: {one_line(error)}") from None
    return replace(classifier, preprocessing=preprocessing)


def _names(model: nn.Module) -> list[str]:
    num_classes: int = model.num_classes  # type: ignore[assignment]
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    if len(config.get("label_names") or ()) == num_classes > 0:
        return list(config["label_names"])
    if num_classes == 1000:
        return imagenet_descriptions()
    return [f"class {i}" for i in range(num_classes)]
