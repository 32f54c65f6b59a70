"""Naming the class of every pixel of images, and writing it down: the work of `transnext segment predict`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from transnext.atomic import check_writable, json_list, replacing
from transnext.cli.pictures import check_read, existing_files, marked_folder, picture_files, tell_skipped
from transnext.data import Skipped, UnreadableImage
from transnext.engine.device import pick_device
from transnext.extras import require
from transnext.inputs import open_channels, open_image
from transnext.limits import check_number
from transnext.predict import Segmenter
from transnext.tasks.segmentation.answers import ClassMap, WrittenMap
from transnext.tasks.segmentation.asking import things_of
from transnext.tasks.segmentation.large import BATCH, OVERLAP, check_map_file, grid_for, write_map
from transnext.tasks.segmentation.panoptic import PANOPTIC_NAME, PanopticMap, coco_panoptic, things_text
from transnext.tasks.segmentation.writers import area_table, coco_masks, geojson


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Options of `transnext segment predict`; see there."""

    images: tuple[str, ...]
    model: str
    image_size: int | None
    looking: dict[str, Any]
    tile: int | None
    overlap: float | None
    batch_size: int | None
    device: str
    save: Path | None
    labels: Path | None
    label_format: str
    json_file: Path | None
    csv_file: Path | None
    geojson_file: Path | None
    coco_file: Path | None
    least_pixels: float
    leave_out: tuple[str, ...]
    panoptic: Path | None
    segments: dict[str, Any]


def segment(asked: Asked) -> None:
    """Names the classes, says which there are, and writes what is asked for.

    Raises:
        FileNotFoundError: An image or the model is not there.
        ValueError: Nothing could be read, or an option cannot work.
    """
    found = _files(asked)
    files = [file for group in found for file in group]
    segmenter = Segmenter(asked.model, image_size=asked.image_size, device=pick_device(asked.device), **asked.looking)
    things = _things(asked, segmenter)

    written: list[Path] = []

    def beside(folder: Path | None, ending: str) -> list[Any]:
        if folder is None:
            return [None] * len(files)
        made = picture_files(folder, asked.images, found, lambda _: ending, written)
        written.extend(made)
        return made

    pictures = beside(asked.save, "-classes.png" if asked.panoptic is None else "-segments.png")
    maps = beside(asked.labels, f".{asked.label_format}")
    segments = beside(None if asked.panoptic is None else asked.panoptic / PANOPTIC_NAME, ".png")
    console = Console(soft_wrap=True, highlight=False)
    channels = segmenter.loaded.task.channels(segmenter.loaded.preprocessing)
    if asked.panoptic is not None:
        console.print(things_text(things, segmenter.loaded.class_names), markup=False)
    read = 0
    skipped: list[Skipped] = []
    with ExitStack() as stack:
        row = None if asked.json_file is None else stack.enter_context(json_list(asked.json_file))
        sinks = _sinks(stack, asked, segmenter.loaded.class_names)
        panoptic = stack.enter_context(_panoptic(asked, segmenter, things))
        answers = _answers(asked, segmenter, files, maps)
        for file, picture, labels, ids, answer in zip(files, pictures, maps, segments, answers, strict=True):
            if isinstance(answer, Skipped):
                skipped.append(answer)
                continue
            console.print(f"{file}: {answer.text()}", markup=False)
            read += 1
            if row is not None:
                row(answer.to_dict())
            if isinstance(answer, PanopticMap):
                panoptic(ids, answer)
            elif isinstance(answer, ClassMap):
                for sink in sinks:
                    sink(answer.name, answer.labels)
            if picture is not None and not isinstance(answer, WrittenMap):
                reason = _draw(file, answer, picture, channels)
                console.print(f"  drawn: {picture}" if reason is None else f"  not drawn: {reason}", markup=False)
            if labels is not None and isinstance(answer, ClassMap):
                marked_folder(labels.parent)
                _write_labels(labels, answer)
        check_read(len(files), read, skipped)
    tell_skipped(skipped)


def _files(asked: Asked) -> list[list[str]]:
    """The images that each argument stands for; outputs are checked before the work."""
    if not asked.images:
        raise ValueError("no image is given: transnext segment predict IMAGE ... --model MODEL")
    for output in (asked.json_file, asked.csv_file, asked.geojson_file, asked.coco_file):
        if output is not None:
            check_writable(output)
    for folder in (asked.save, asked.labels, asked.panoptic):
        if folder is not None:
            check_writable(folder, folder=True)
    if asked.geojson_file is None and (asked.least_pixels or asked.leave_out):
        raise ValueError("--least-pixels and --leave-out are for outlines: add --geojson-file FILE")
    check_number("least_pixels", asked.least_pixels, 0)
    if asked.labels is not None:
        check_map_file(asked.labels / f"a.{asked.label_format}")
    _check_panoptic(asked)
    _check_tiles(asked)
    if asked.coco_file is not None:
        require("COCO files", "pycocotools", extra="segment")
    if asked.geojson_file is not None:
        require("outlines of regions", "rasterio", extra="segment")
    return existing_files(asked.images)


def _check_tiles(asked: Asked) -> None:
    """Refuses what tiles do not go with, and what goes with tiles alone."""
    if asked.tile is None:
        if asked.overlap is not None:
            raise ValueError(f"overlap is {asked.overlap}: it goes with --tile")
        return
    grid_for((1, 1), asked.tile, OVERLAP if asked.overlap is None else asked.overlap)
    check_number("batch_size", 1 if asked.batch_size is None else asked.batch_size, 1)
    others = [name for name in asked.looking if name not in ("bias_mode", "bias_size")]
    others += ["image_size"] if asked.image_size is not None else []
    if others:
        names = {"stride": "window_stride"}
        listed = ", ".join("--" + names.get(name, name).replace("_", "-") for name in others)
        raise ValueError(f"with --tile pixels are taken as they are, once: leave out {listed}, or leave out --tile")


def _check_panoptic(asked: Asked) -> None:
    """Refuses what segments do not go with, and what goes with segments alone."""
    names = {name: value for name, value in asked.segments.items() if value is not None}
    if asked.panoptic is None:
        if names:
            raise ValueError(f"--{next(iter(names)).replace('_', '-')} goes with --panoptic FOLDER")
        return
    others = {
        "tile": asked.tile,
        "labels": asked.labels,
        "csv_file": asked.csv_file,
        "geojson_file": asked.geojson_file,
        "coco_file": asked.coco_file,
    }
    if given := [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None]:
        raise ValueError(f"--panoptic tells segments instead of classes: leave out {', '.join(given)}")


def _things(asked: Asked, segmenter: Segmenter) -> list[str]:
    if asked.panoptic is None:
        return []
    segmenter.loaded.task.check(segmenter.loaded, panoptic=True, **asked.segments)
    return things_of(segmenter.loaded, asked.segments["thing_classes"])


@contextmanager
def _panoptic(asked: Asked, segmenter: Segmenter, things: list[str]) -> Iterator[Any]:
    """A function that takes a file and what is to be in it."""
    if asked.panoptic is None:
        yield None
        return
    # Pictures of ids are no images to be taken for such later.
    marked_folder(asked.panoptic / PANOPTIC_NAME)
    loaded = segmenter.loaded
    with coco_panoptic(asked.panoptic, loaded.class_names, things, loaded.task.metadata.get("category_ids")) as add:
        yield add


def _answers(
    asked: Asked, segmenter: Segmenter, files: list[str], maps: list[Path | None]
) -> Iterator[ClassMap | WrittenMap | PanopticMap | Skipped]:
    if asked.tile is None:
        options = {} if asked.panoptic is None else {"panoptic": True, **asked.segments}
        yield from segmenter.stream(files, batch_size=asked.batch_size, **options)
        return
    overlap, batch_size = OVERLAP if asked.overlap is None else asked.overlap, asked.batch_size or BATCH
    # Where label files are all that is asked for, no map has to be in memory.
    whole = any((asked.save, asked.csv_file, asked.geojson_file, asked.coco_file))
    for file, labels in zip(files, maps, strict=True):
        output = None if whole else labels
        try:
            if output is not None:
                marked_folder(output.parent)
            yield segmenter.large(file, output=output, tile=asked.tile, overlap=overlap, batch_size=batch_size)
        except (OSError, ValueError) as error:
            yield Skipped(file, error.reason if isinstance(error, UnreadableImage) else str(error))


def _write_labels(path: Path, answer: ClassMap) -> None:
    height, width = answer.size
    bands = iter([(slice(0, height), answer.labels)])
    write_map(
        path,
        bands,
        (height, width),
        classes=len(answer.class_names),
        colours=answer.colours,
        profile=answer.profile,
    )


def _sinks(stack: ExitStack, asked: Asked, classes: list[str]) -> list[Callable[[str, Any], None]]:
    """Functions that take a name and a map each."""
    sinks: list[Callable[[str, Any], None]] = []
    if asked.csv_file is not None:
        sinks.append(stack.enter_context(area_table(asked.csv_file, classes)))
    if asked.geojson_file is not None:
        options: dict[str, Any] = {"least_pixels": asked.least_pixels, "leave_out": asked.leave_out}
        sinks.append(stack.enter_context(geojson(asked.geojson_file, classes, **options)))
    if asked.coco_file is not None:
        sinks.append(stack.enter_context(coco_masks(asked.coco_file, classes)))
    return sinks


def _draw(file: str, answer: ClassMap | PanopticMap, picture: Path, channels: int | None) -> str | None:
    """Writes a picture with its map over it, or says why there is nothing to draw on."""
    try:
        shown = open_image(file, None) if channels is None else open_channels(file, channels).shown()
    except UnreadableImage as error:  # as tiles it was read: more channels, or an array
        return error.reason
    marked_folder(picture.parent)
    with replacing(picture) as temporary:
        answer.draw(shown).save(temporary, format="PNG")
    return None
