"""`transnext predict IMAGE ...`."""

import json
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from transnext.data import UnreadableImage, list_images
from transnext.data.image_files import OUTPUT_MARK
from transnext.engine.device import pick_device
from transnext.predict import ImagePrediction, Predictor
from transnext.tasks.classification.loading import DEFAULT_MODEL


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")],
    model: str = DEFAULT_MODEL,
    top_k: int = 3,
    image_size: int | None = None,
    device: str = "auto",
    look: Path | None = None,
    json_file: Path | None = None,
) -> None:
    """Say what images show.

    Args:
        images: Image files, or folders of them.
        model: A run folder, a checkpoint, an exported file (.onnx, .xml, .pt2), or the name of a model with pretrained
            weights.
        top_k: How many classes to name.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        device: auto, cpu, cuda or mps.
        look: Write pictures of where the model looks to this folder.
        json_file: Also write the predictions to this file.
    """
    files = _files(images)
    predictor = Predictor(model, image_size=image_size, device=pick_device(device))
    console = Console(soft_wrap=True, highlight=False)
    predictions: list[ImagePrediction] = []
    unreadable: list[UnreadableImage] = []
    for file in files:
        try:
            prediction = predictor(file, top_k=top_k, look=look is not None)[0]
        except UnreadableImage as error:
            unreadable.append(error)
            continue
        predictions.append(prediction)
        answer = "  ".join(f"{c} {p:.1%}" for c, p in zip(prediction.classes, prediction.probabilities, strict=True))
        console.print(f"{prediction.name}: {answer}", markup=False)
        if look is not None:
            console.print(f"  looks: {_save_look(look, file, prediction)}", markup=False)
    if json_file is not None:
        rows = [{"image": p.name, "classes": p.classes, "probabilities": p.probabilities} for p in predictions]
        json_file.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for problem in unreadable:
        Console(stderr=True, soft_wrap=True).print(f"skipped {problem}", style="yellow", markup=False)
    if unreadable and not predictions:
        raise ValueError(f"none of the {len(files)} images could be read")


def _files(paths: tuple[Path, ...]) -> list[Path]:
    if not paths:
        raise ValueError("no image is given: transnext predict IMAGE ...")
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = [Path(image) for image in list_images(path)]
            if not found:
                raise ValueError(f"{path} has no images in it")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"no file {path}")
    return files


def _save_look(folder: Path, file: Path, prediction: ImagePrediction) -> Path:
    from transnext.explain import overlay

    assert prediction.image is not None
    assert prediction.heat is not None
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / OUTPUT_MARK).touch()
    target = folder / f"{file.stem}-looks.png"
    overlay(prediction.image, prediction.heat, position=(0.5, 0.5)).save(target)
    return target
