"""Finding objects in images and videos, and writing them down: the work of `transnext detect predict`."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from transnext.atomic import check_writable, json_list, replacing
from transnext.cli.pictures import check_read, existing_files, marked_folder, picture_files, tell_skipped
from transnext.data import Skipped
from transnext.engine.device import pick_device
from transnext.inputs import is_url, open_image
from transnext.predict import Detector
from transnext.tasks.detection.answers import ObjectsFound
from transnext.tasks.detection.draw import draw
from transnext.tasks.detection.image_ids import check_image_ids, read_image_ids
from transnext.tasks.detection.task import Detection
from transnext.tasks.detection.video import (
    following_threshold,
    is_video,
    read_frames,
    track,
    video_facts,
    video_writer,
)
from transnext.tasks.detection.writers import coco_dataset, coco_results, csv_table, label_files, yolo_labels


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Options of `transnext detect predict`; see there."""

    images: tuple[str, ...]
    model: str
    options: dict[str, Any]
    track: bool
    image_size: int | None
    batch_size: int | None
    device: str
    save: Path | None
    json_file: Path | None
    coco_file: Path | None
    image_ids: Path | None
    coco_dataset: Path | None
    csv_file: Path | None
    yolo: Path | None
    polygons: bool


def detect(asked: Asked) -> None:
    """Finds objects, says what was found, and writes what is asked for.

    Raises:
        FileNotFoundError: An image or the model is not there.
        ValueError: Nothing could be read, or an option cannot work.
    """
    found = _files(asked)
    files = [file for group in found for file in group]
    videos = [file for file in files if is_video(file)]
    if asked.track and not videos:
        raise ValueError("--track follows objects through videos, and no video is given")
    detector = Detector(asked.model, image_size=asked.image_size, device=pick_device(asked.device))
    task = detector.loaded.task
    assert isinstance(task, Detection)
    task.check(detector.loaded, **asked.options)
    if asked.polygons and not task.with_masks:
        raise ValueError(f"{asked.model} tells boxes alone, no outlines: leave out --polygons")
    pictures: list[Path | None] = [None] * len(files)
    if asked.save is not None:
        pictures = list(picture_files(asked.save, asked.images, found, _ending))
    console = Console(soft_wrap=True, highlight=False)
    skipped: list[Skipped] = []
    read = 0
    with ExitStack() as stack:
        sinks = _sinks(stack, asked, detector, files, bool(videos))
        for file, picture, answers in _answers(asked, detector, files, pictures):
            counted, problem = _take(console, file, picture, answers, sinks)
            read += counted
            skipped += [] if problem is None else [problem]
        check_read(len(files), read, skipped)
    tell_skipped(skipped)


def _ending(file: str) -> str:
    return "-found.mp4" if is_video(file) else "-found.png"


def _files(asked: Asked) -> list[list[str]]:
    """The images and videos that each argument stands for; outputs are checked before the work."""
    if not asked.images:
        raise ValueError("no image is given: transnext detect predict IMAGE ... --model MODEL")
    for output in (asked.json_file, asked.coco_file, asked.coco_dataset, asked.csv_file):
        if output is not None:
            check_writable(output)
    for folder in (asked.save, asked.yolo):
        if folder is not None:
            check_writable(folder, folder=True)
    if asked.polygons and asked.yolo is None:
        raise ValueError("--polygons is for YOLO labels: add --yolo FOLDER")
    if asked.polygons and not asked.options["masks"]:
        raise ValueError("--polygons writes outlines, and --no-masks asks for boxes alone: leave out one of them")
    found = existing_files(asked.images)
    if asked.image_ids is not None and asked.coco_file is None:
        raise ValueError("--image-ids is for COCO results: add --coco-file FILE")
    everything = [file for group in found for file in group]
    video = next((file for file in everything if is_video(file)), None)
    if video is not None and (asked.image_ids or asked.coco_dataset):
        option = "--image-ids" if asked.image_ids else "--coco-dataset"
        raise ValueError(f"{option} is for images, and {video} is a video")
    if asked.image_ids is not None:
        check_image_ids(everything, read_image_ids(asked.image_ids))
    if asked.coco_file is not None or asked.coco_dataset is not None:
        files = [file if is_url(file) else os.path.abspath(file) for file in everything]  # noqa: PTH100
        if twice := [file for file, number in Counter(files).items() if number > 1]:
            raise ValueError(f"{twice[0]} is given twice: COCO files are by image")
    return found


def _sinks(
    stack: ExitStack, asked: Asked, detector: Detector, files: list[str], video: bool
) -> list[Callable[[ObjectsFound], None]]:
    """Functions that take an answer each."""
    task = detector.loaded.task
    assert isinstance(task, Detection)
    sinks: list[Callable[[ObjectsFound], None]] = []
    if asked.json_file is not None:
        write = stack.enter_context(json_list(asked.json_file))
        sinks.append(lambda answer: write(answer.to_dict()))
    if asked.coco_file is not None:
        image_ids = None if asked.image_ids is None else read_image_ids(asked.image_ids)
        results = coco_results(asked.coco_file, image_ids=image_ids, category_ids=task.category_ids)
        sinks.append(stack.enter_context(results))
    if asked.coco_dataset is not None:
        data = coco_dataset(asked.coco_dataset, task.class_names, category_ids=task.category_ids)
        sinks.append(stack.enter_context(data))
    if asked.csv_file is not None:
        sinks.append(stack.enter_context(csv_table(asked.csv_file, video=video)))
    if asked.yolo is not None:
        labels = yolo_labels(asked.yolo, task.class_names, label_files(files), scores=True, polygons=asked.polygons)
        sinks.append(stack.enter_context(labels))
    return sinks


_Answers = Iterator[ObjectsFound | Skipped]


def _answers(
    asked: Asked, detector: Detector, files: list[str], pictures: list[Path | None]
) -> Iterator[tuple[str, Path | None, _Answers]]:
    """Each file with where to draw it and its answers; images that follow one another are asked about together."""
    for video, group in itertools.groupby(zip(files, pictures, strict=True), key=lambda pair: is_video(pair[0])):
        pairs = list(group)
        if video:
            for file, picture in pairs:
                yield file, picture, _of_video(asked, detector, file)
            continue
        stream = detector.stream([file for file, _ in pairs], batch_size=asked.batch_size, **asked.options)
        for (file, picture), answer in zip(pairs, stream, strict=True):
            yield file, picture, iter([answer])


def _of_video(asked: Asked, detector: Detector, file: str) -> _Answers:
    """The answer for each frame."""
    task = detector.loaded.task
    assert isinstance(task, Detection)
    given = asked.options["threshold"]
    threshold = task.threshold if given is None else given
    options = dict(asked.options)
    if asked.track:
        options["threshold"] = following_threshold(threshold)
    try:
        fps = video_facts(file).fps
        frames, times = itertools.tee(read_frames(file))
        found = detector.stream((pixels for pixels, _ in frames), batch_size=asked.batch_size, **options)
        answers = (
            replace(answer, name=file, frame=place, time=time)
            for place, (answer, (_, time)) in enumerate(zip(found, times, strict=True))
        )
        yield from track(answers, fps=fps, threshold=threshold) if asked.track else answers
    except (OSError, ValueError) as error:
        yield Skipped(file, str(error))


def _take(
    console: Console,
    file: str,
    picture: Path | None,
    answers: _Answers,
    sinks: list[Callable[[ObjectsFound], None]],
) -> tuple[int, Skipped | None]:
    """Hands the answers of a file on; how many there were, and why there were no more."""
    counted = 0
    with ExitStack() as stack:
        paint: Callable[[ObjectsFound], None] | None = None
        for answer in answers:
            if isinstance(answer, Skipped):
                return counted, answer
            moment = "" if answer.frame is None else f" frame {answer.frame}"
            console.print(f"{file}{moment}: {answer.text()}", markup=False)
            for sink in sinks:
                sink(answer)
            if picture is not None:
                paint = paint or stack.enter_context(_painter(file, picture))
                paint(answer)
            counted += 1
    if picture is not None:
        console.print(f"  drawn: {picture}", markup=False)
    return counted, None


@contextmanager
def _painter(file: str, picture: Path) -> Iterator[Callable[[ObjectsFound], None]]:
    """A function that draws the answers for an image, or for the frames of a video one after the other."""
    marked_folder(picture.parent)
    if not is_video(file):

        def paint(answer: ObjectsFound) -> None:
            with replacing(picture) as temporary:
                draw(open_image(file, None), answer).save(temporary, format="PNG")

        yield paint
        return
    frames = read_frames(file)
    with video_writer(picture, video_facts(file).fps) as add:

        def paint_frame(answer: ObjectsFound) -> None:
            pixels, _ = next(frames)
            add(np.asarray(draw(pixels, answer, least_side=1)))

        yield paint_frame
