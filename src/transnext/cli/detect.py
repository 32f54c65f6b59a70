"""Find objects in images: train, evaluate and use detectors."""

from pathlib import Path
from typing import Annotated

import tyro

from transnext.cli.eval import Measuring, Options, measure
from transnext.cli.previewing import train_or_preview
from transnext.config import TrainConfig
from transnext.extras import require
from transnext.tasks.detection.config import DetectionConfig


def train(
    config: Annotated[TrainConfig[DetectionConfig], tyro.conf.arg(name="")],
    recipe: str | None = None,
    resume: Annotated[str, tyro.conf.arg(metavar="auto|never|CHECKPOINT")] = "never",
    accept_changed: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[OPTION ...]")] = (),
    preview: Path | None = None,
) -> None:
    """Train a detector, evaluate it on every split and write a report.

    DATA are images with boxes or outlines: COCO JSON, YOLO text files or Pascal VOC, found by what is there; or scenes,
    which are composed of the bundled drawings.

    Args:
        config: What to train, on what and how.
        recipe: Take the values of a recipe for the options that are not given; `transnext recipes` lists them.
        resume: Go on with the run in --output: auto from its newest whole checkpoint, or from the one at this path.
            Options that are not given are then those of the run.
        accept_changed: What may be others than the run was started with, for example data, epochs or lr.
        preview: Write a page of training images with their objects, as the network will see them first, and end.
    """
    train_or_preview(config, resume, accept_changed, preview)


def evaluate(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    options: Options = Measuring(),  # noqa: B008 - it is frozen
    tile: int | None = None,
    overlap: float = 0.2,
) -> None:
    """Measure a detector on a data set: COCO's numbers for boxes and outlines, and the best threshold.

    Args:
        model: A run folder, a checkpoint of ours or of the released code, or the name of a released detector.
        data: A folder, a COCO file, a data.yaml, or scenes.
        options: What is measured, and how.
        tile: Look through pictures in squares of this side, pixels, 0 for as a whole; by default as it was trained
            (--train-tiles).
        overlap: Share of a tile that it has in common with the next.
    """
    options.check()
    from transnext.engine.device import pick_device
    from transnext.predict import Detector
    from transnext.tasks.detection.looking import looking_at

    loaded = Detector(model, image_size=options.image_size, device=pick_device(options.device)).loaded
    loaded = looking_at(loaded, tile=tile, overlap=overlap, at_once=options.batch_size)
    measure(model, data, options, loaded=loaded)


def predict(
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")],
    model: str,
    threshold: float | None = None,
    classes: tuple[str, ...] | None = None,
    masks: bool = True,
    tile: int | None = None,
    overlap: float = 0.2,
    track: bool = False,
    image_size: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    save: Path | None = None,
    json_file: Path | None = None,
    coco_file: Path | None = None,
    image_ids: Path | None = None,
    coco_dataset: Path | None = None,
    csv_file: Path | None = None,
    yolo: Path | None = None,
    polygons: bool = False,
) -> None:
    """Find objects in images and videos.

    What cannot be read is listed at the end, with the reason; the exit status is 2 if nothing could be read.

    Args:
        images: Image files, videos, folders of images, patterns or http(s) URLs.
        model: A run folder, a checkpoint of ours or of the released code, an exported file, or the name of a released
            detector.
        threshold: Least score, 0..1; by default that of the best F1 in validation.
        classes: Only these classes.
        masks: Give outlines where the detector tells them; --no-masks for boxes alone.
        tile: Look through large pictures in squares of this side, pixels, 0 for as a whole; by default as the detector
            was trained (--train-tiles).
        overlap: Share of a tile that it has in common with the next.
        track: Follow objects through videos: each keeps its number.
        image_size: Side that images are brought to, pixels; the trained one by default.
        batch_size: Images, or tiles, in a forward pass.
        device: auto, cpu, cuda or mps.
        save: Write pictures and videos with what was found to this folder.
        json_file: Also write what was found to this file.
        coco_file: Also write it as a list of COCO results, with the category ids of the training data.
        image_ids: With --coco-file take the numbers of the images from this COCO annotation file.
        coco_dataset: Also write it as a COCO data set, outlines as polygons: what annotation tools open.
        csv_file: Also write a row for each object.
        yolo: Also write YOLO labels to this folder.
        polygons: With --yolo write outlines, not boxes.
    """
    require("transnext detect predict", "pycocotools", "supervision", extra="detect")
    from transnext.cli.detecting import Asked, detect

    detect(
        Asked(
            images=images,
            model=model,
            options={"threshold": threshold, "classes": classes, "masks": masks, "tile": tile, "overlap": overlap},
            track=track,
            image_size=image_size,
            batch_size=batch_size,
            device=device,
            save=save,
            json_file=json_file,
            coco_file=coco_file,
            image_ids=image_ids,
            coco_dataset=coco_dataset,
            csv_file=csv_file,
            yolo=yolo,
            polygons=polygons,
        )
    )


def check(
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    pixels: bool = True,
    json_file: Path | None = None,
) -> None:
    """List what is wrong with images and their objects (COCO, YOLO, Pascal VOC), and what training would do about it.

    Args:
        data: A folder, a COCO file or a data.yaml.
        pixels: Decode every image, which finds damaged and repeated ones; --no-pixels is quicker.
        json_file: Also write what was found to this file.
    """
    from transnext.cli.check import check as check_any

    check_any(data, pixels, "objects", json_file)
