"""`transnext predict IMAGE ...`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from transnext.atomic import check_writable, replacing, write_atomically
from transnext.choices import DEFAULT_MODEL
from transnext.cli.main import TASK_OF
from transnext.cli.pictures import existing_files, marked_folder, picture_files, tell_skipped

if TYPE_CHECKING:
    from transnext.predict import ImagePrediction

_TOP_K = 3
"""Classes that are named unless another number is asked for."""


def predict(
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")],
    model: str = DEFAULT_MODEL,
    top_k: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    look: Path | None = None,
    json_file: Path | None = None,
) -> None:
    """Say what images show.

    Images that cannot be read are listed at the end, with the reason; the exit status is 2 if none could be read.

    Args:
        images: Image files, folders of them, patterns or http(s) URLs.
        model: A run folder, a checkpoint, an exported file (.onnx, .xml, .pt2), or the name of a model with pretrained
            weights.
        top_k: How many classes to name; 3 by default.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        batch_size: Images in a forward pass; by default 32 of 224 pixels, fewer of larger ones.
        device: auto, cpu, cuda or mps.
        look: Write a picture of where the model looks for each image to this folder, in sub-folders as the images.
        json_file: Also write the predictions to this file.
    """
    if not images:
        raise ValueError("no image is given: transnext predict IMAGE ...")
    if json_file is not None:
        check_writable(json_file)
    if look is not None:
        check_writable(look, folder=True)

    from transnext.data import Skipped
    from transnext.engine.device import pick_device
    from transnext.predict import Predictor

    found = existing_files(images)
    files = [file for group in found for file in group]
    pictures = iter(() if look is None else picture_files(look, images, found, lambda _: "-looks.png"))
    predictor = Predictor(model, image_size=image_size, device=pick_device(device))
    task = predictor.loaded.task.name
    if group := next((group for group, of in TASK_OF.items() if of == task), None):
        raise ValueError(f"{model} is a model of {task}: use transnext {group} predict")
    options: dict[str, Any] = {} if look is None else {"look": True}
    if top_k is not None or predictor.loaded.class_names:
        options["top_k"] = _TOP_K if top_k is None else top_k
    console = Console(soft_wrap=True, highlight=False)
    rows = []
    skipped: list[Skipped] = []
    for result in predictor.stream(files, batch_size=batch_size, **options):
        picture = next(pictures, None)
        if isinstance(result, Skipped):
            skipped.append(result)
            continue
        console.print(f"{result.name}: {result.text()}", markup=False)
        if picture is not None:
            _draw(picture, result)
            console.print(f"  looks: {picture}", markup=False)
        rows.append(result.to_dict())
    if json_file is not None:
        write_atomically(json_file, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    tell_skipped(skipped)
    if skipped and not rows:
        raise ValueError(f"none of the {len(files)} images could be read")


def _draw(picture: Path, prediction: "ImagePrediction") -> None:
    from transnext.explain import overlay

    assert prediction.image is not None
    assert prediction.heat is not None
    marked_folder(picture.parent)
    with replacing(picture) as temporary:
        overlay(prediction.image, prediction.heat, position=(0.5, 0.5)).save(temporary, format="PNG")
