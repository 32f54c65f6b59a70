"""Name the class of every pixel: train, evaluate and use segmenters."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from transnext.atomic import check_writable, write_atomically
from transnext.cli.eval import Measuring, Options, measure
from transnext.cli.previewing import train_or_preview
from transnext.config import TrainConfig
from transnext.tasks.segmentation.config import SegmentationConfig


@dataclass(frozen=True, kw_only=True)
class Ways:
    """How pictures are looked at."""

    window: int | None = None
    """Look at pictures in squares of this side, pixels of the scaled picture; 0 to see them whole; by default as in
    training."""
    window_stride: int | None = None
    """From one window to the next, pixels; two thirds of a window by default."""
    scales: tuple[float, ...] = ()
    """Look at pictures in these sizes, relative to the one of --image-size; 1 by default."""
    flip: bool = False
    """Look at the mirror images, too."""
    bias_mode: Literal["interpolate", "extrapolate"] | None = None
    """How the position bias follows the size of images; by default as in training."""
    bias_size: int | None = None
    """With --bias-mode interpolate, the image side from which the bias is resized, pixels."""

    def given(self) -> dict[str, Any]:
        """Options of `Segmenter` about how to look at pictures; none if it is as in training."""
        asked = {**asdict(self), "stride": self.window_stride, "scales": self.scales or None, "flip": self.flip or None}
        return {name: value for name, value in asked.items() if value is not None and name != "window_stride"}


Looks = Annotated[Ways, tyro.conf.arg(name="")]


def train(
    config: Annotated[TrainConfig[SegmentationConfig], tyro.conf.arg(name="")],
    recipe: str | None = None,
    resume: Annotated[str, tyro.conf.arg(metavar="auto|never|CHECKPOINT")] = "never",
    accept_changed: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[OPTION ...]")] = (),
    preview: Path | None = None,
) -> None:
    """Train a segmenter, evaluate it on every split and write a report.

    DATA are pictures with maps of classes: folders of pictures and label files (ADE20K is one), Cityscapes, COCO
    panoptic, or the outlines of COCO instances, found by what is there.

    Args:
        config: What to train, on what and how.
        recipe: Take the values of a recipe for the options that are not given; `transnext recipes` lists them.
        resume: Go on with the run in --output: auto from its newest whole checkpoint, or from the one at this path.
            Options that are not given are then those of the run.
        accept_changed: What may be others than the run was started with, for example data, epochs or lr.
        preview: Write a page of training pictures with their maps, as the network will see them first, and end.
    """
    train_or_preview(config, resume, accept_changed, preview)


def evaluate(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    options: Options = Measuring(),  # noqa: B008 - it is frozen
    looking: Looks = Ways(),
    reduce_zero_label: bool | None = None,
) -> None:
    """Measure a segmenter on a data set: mIoU, accuracy, Dice and borders, in pixels of the pictures.

    Args:
        model: A run folder, a checkpoint of ours or of the released code, or the name of a released segmenter.
        data: A folder, or a COCO file.
        options: What is measured, and how.
        looking: How pictures are looked at.
        reduce_zero_label: In label files 0 means nothing and 1 is the first class; by default as training was told, or
            else so in ADE20K, or as a class file says.
    """
    options.check()
    from transnext.engine.device import pick_device
    from transnext.predict import Segmenter

    ways, device = looking.given(), pick_device(options.device)
    loaded = Segmenter(model, image_size=options.image_size, device=device, **ways).loaded
    task: Any = loaded.task
    loaded = replace(loaded, task=replace(task, reduce_zero_label=reduce_zero_label))
    measure(model, data, options, loaded=loaded)


def predict(
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")],
    model: str,
    image_size: int | None = None,
    looking: Looks = Ways(),
    tile: int | None = None,
    overlap: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    save: Path | None = None,
    labels: Path | None = None,
    label_format: Literal["png", "tif", "npy"] = "png",
    json_file: Path | None = None,
    csv_file: Path | None = None,
    geojson_file: Path | None = None,
    coco_file: Path | None = None,
    least_pixels: float = 0.0,
    leave_out: tuple[str, ...] = (),
    panoptic: Path | None = None,
    thing_classes: tuple[str, ...] | None = None,
    threshold: float | None = None,
    mask_threshold: float | None = None,
    overlap_mask_area_threshold: float | None = None,
) -> None:
    """Name the class of every pixel of images.

    What cannot be read is listed at the end, with the reason; the exit status is 2 if nothing could be read.

    Args:
        images: Image files, folders of images, patterns or http(s) URLs.
        model: A run folder, a checkpoint of ours or of the released code, an exported file, or the name of a released
            segmenter.
        image_size: Side that images are brought to, pixels; the trained one by default.
        looking: How pictures are looked at.
        tile: Read and look at pictures of any size in squares of this side, pixels, which fade into one another; their
            pixels are taken as they are, and may have 16 bits and more channels (TIFF, .npy).
        overlap: Share of a tile that it has in common with the next, 0..0.9; 0.25 by default.
        batch_size: Images, or tiles, in a forward pass.
        device: auto, cpu, cuda or mps.
        save: Write pictures with the classes over them, and a legend, to this folder.
        labels: Write label files, whose values are the classes (of PNGs the palette shows them), to this folder.
        label_format: Of the label files: png, tif with its place on the ground if the picture has one, or npy.
        json_file: Also write which classes are in each image to this file.
        csv_file: Also write a row for each class of each image, with its area.
        geojson_file: Also write the outlines of all regions as GeoJSON.
        coco_file: Also write the maps as a COCO data set.
        least_pixels: With --geojson-file leave out regions of fewer pixels.
        leave_out: With --geojson-file leave out these classes, for example a background.
        panoptic: Tell segments (objects, and areas of classes without objects) instead of classes, and write COCO
            panoptic files, PNGs and a JSON, to this folder; --save then draws segments. For mask2former.
        thing_classes: With --panoptic, classes that have objects; none after it for no class; by default those of the
            training data.
        threshold: With --panoptic, probability of its class that a query has to exceed, 0..1; 0.5 by default.
        mask_threshold: With --panoptic, probability from which on a pixel is of a mask, 0..1; 0.5 by default.
        overlap_mask_area_threshold: With --panoptic, part of its mask that a query has to keep, 0..1; 0.8 by default.
    """
    from transnext.cli.segmenting import Asked, segment

    segment(
        Asked(
            images=images,
            model=model,
            image_size=image_size,
            looking=looking.given(),
            tile=tile,
            overlap=overlap,
            batch_size=batch_size,
            device=device,
            save=save,
            labels=labels,
            label_format=label_format,
            json_file=json_file,
            csv_file=csv_file,
            geojson_file=geojson_file,
            coco_file=coco_file,
            least_pixels=least_pixels,
            leave_out=leave_out,
            panoptic=panoptic,
            segments={
                "thing_classes": thing_classes,
                "threshold": threshold,
                "mask_threshold": mask_threshold,
                "overlap_mask_area_threshold": overlap_mask_area_threshold,
            },
        )
    )


def check(
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    pixels: bool = True,
    reduce_zero_label: bool | None = None,
    in_chans: int | None = None,
    json_file: Path | None = None,
) -> None:
    """List what is wrong with pictures and their maps of classes, and what training would do about it.

    Args:
        data: A folder, or a COCO file.
        pixels: Decode every picture, which finds damaged and repeated ones; --no-pixels is quicker.
        reduce_zero_label: In label files 0 means nothing and 1 is the first class; by default so in ADE20K, or as a
            class file says.
        in_chans: Channels of the pictures; by default those that they have.
        json_file: Also write what was found to this file.
    """
    if json_file is not None:
        check_writable(json_file)
    from transnext.data.segmentation.checks import check_segmentation

    report = check_segmentation(data, pixels=pixels, reduce_zero_label=reduce_zero_label, in_chans=in_chans)
    Console(soft_wrap=True, highlight=False).print(report.text(), markup=False)
    if json_file is not None:
        write_atomically(json_file, json.dumps(report.to_dict(), ensure_ascii=False, indent=1) + "\n")
