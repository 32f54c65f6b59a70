"""What was found as files: COCO results and data sets, CSV, YOLO labels. Whole, or not there at all.

Each is a context manager that gives a function to be called with one answer after the other, so that answers need not
be kept; if the block fails, nothing is written.
"""

import csv
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from transnext.atomic import replacing, staged
from transnext.data.mask_parts import run_lengths
from transnext.data.names import printable
from transnext.tasks.detection.answers import ObjectsFound, crops, short
from transnext.tasks.detection.image_ids import image_id_of
from transnext.tasks.detection.video import is_video

Add = Callable[[ObjectsFound], None]


@contextmanager
def coco_results(
    path: str | Path, *, image_ids: Mapping[str, int] | None = None, category_ids: Sequence[int] | None = None
) -> Iterator[Add]:
    """Writes a list of results as COCO's evaluation reads it, masks as run lengths.

    Args:
        path: JSON file.
        image_ids: Number of each image by its path, the end of it, or its file name; see `image_id_of`. If there are
            none, an image whose file name is a number has that, others have their file name, with `#` and the frame in
            a video, or their path where that is taken. `file_name` of a result is the path in any case.
        category_ids: Number of each class; by default from 1.

    Yields:
        Function that takes an answer; it raises ValueError for an image that has no number or that of another.
    """
    names: dict[int | str, str] = {}
    written = 0
    with replacing(path) as temporary, _text(temporary) as file:
        file.write("[")

        def add(found: ObjectsFound) -> None:
            nonlocal written
            image_id = _image_id(found, image_ids)
            if image_ids is None and names.get(image_id, found.name) != found.name:  # it lies in another folder
                image_id = _of_frame(printable(found.name), found.frame)
            if image_id in names:
                other = names[image_id]
                both = "is given twice" if other == found.name else f"and {printable(other)} have one image id"
                raise ValueError(f"{printable(found.name)} {both}: results of COCO are by image")
            names[image_id] = found.name
            masks = [None] * len(found) if found.mask is None else _run_lengths(found)
            for row, mask in zip(_coco_rows(found, category_ids), masks, strict=True):
                row = {"image_id": image_id, **row, **({} if mask is None else {"segmentation": mask})}
                file.write((",\n" if written else "\n") + _json(row))
                written += 1

        yield add
        file.write("\n]\n")


@contextmanager
def coco_dataset(
    path: str | Path, classes: Sequence[str], *, category_ids: Sequence[int] | None = None
) -> Iterator[Add]:
    """Writes images and objects as a COCO data set, masks as polygons: what annotation tools open, to be corrected.

    Args:
        path: JSON file.
        classes: Names of all classes.
        category_ids: Number of each class; by default from 1.
    """
    ids = _category_ids(category_ids, len(classes))
    categories = [{"id": number, "name": name} for number, name in zip(ids, classes, strict=True)]
    images: list[dict[str, Any]] = []
    written = 0
    with replacing(path) as temporary, _text(temporary) as file:
        file.write(f'{{"categories": {_json(categories)},\n"annotations": [')

        def add(found: ObjectsFound) -> None:
            nonlocal written
            images.append(
                {"id": len(images) + 1, "file_name": found.name, "height": found.size[0], "width": found.size[1]}
            )
            outlines = [None] * len(found) if found.mask is None else found.outlines()
            areas = found.box_area if found.mask is None else found.area
            for row, outline, area in zip(_coco_rows(found, ids), outlines, areas.tolist(), strict=True):
                polygons = [] if outline is None else [polygon.flatten().tolist() for polygon in outline]
                row |= {"id": written + 1, "image_id": len(images), "area": area, "iscrowd": 0}
                file.write((",\n" if written else "\n") + _json(row | {"segmentation": polygons}))
                written += 1

        yield add
        file.write(f'\n],\n"images": {_json(images)}}}\n')


@contextmanager
def csv_table(path: str | Path, *, video: bool = False) -> Iterator[Add]:
    """Writes a row for each object: image, class, score, x0, y0, x1, y1.

    Args:
        path: CSV file.
        video: Write frame, time and track of each, too.
    """
    with replacing(path) as temporary, _text(temporary) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(
            ["image", *(["frame", "time", "track"] if video else []), "class", "score", "x0", "y0", "x1", "y1"]
        )

        def add(found: ObjectsFound) -> None:
            tracks: list[Any] = [-1] * len(found) if found.tracker_id is None else found.tracker_id.tolist()
            for name, score, box, track in zip(found.class_names, found.scores, found.xyxy, tracks, strict=True):
                moment = [found.frame, found.time, "" if track < 0 else track] if video else []
                rows.writerow([found.name, *moment, name, short(score), *(short(value) for value in box)])

        yield add


@contextmanager
def yolo_labels(
    folder: str | Path,
    classes: Sequence[str],
    files: Mapping[str, Path],
    *,
    scores: bool = False,
    polygons: bool = False,
) -> Iterator[Add]:
    """Writes a text file for each image, empty if nothing was found, and the names of the classes as `classes.txt`.

    A line is `class x y width height` or `class x0 y0 x1 y1 ...`, shares of the picture's width and height.

    Args:
        folder: Where to write; files that are there already stay, if none of the same name is written.
        classes: Names of all classes.
        files: Where to write the labels of each image, below the folder, as `label_files` says; each frame of a video
            has a file, its number after the name.
        scores: Put the score at the end of each line.
        polygons: Write outlines in place of boxes; parts are joined by lines without width, as a line holds one
            polygon, and what has an empty mask is written as its box.

    Yields:
        Function that takes an answer; it raises ValueError if polygons are asked for and there are no masks.
    """
    with staged(Path(folder)) as staging:
        staging.mkdir(parents=True)

        def write(path: Path, lines: Iterable[str]) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _text(path) as file:
                file.writelines(f"{line}\n" for line in lines)

        write(staging / "classes.txt", map(printable, classes))

        def add(found: ObjectsFound) -> None:
            if polygons and found.mask is None and len(found):
                raise ValueError(f"the answer for {printable(found.name)} has no outlines: leave out polygons")
            rows = _yolo_polygons(found) if polygons else _yolo_boxes(found)
            ends = [f" {score:.6f}" if scores else "" for score in found.scores.tolist()]
            ids = found.class_id.tolist() if found.class_id is not None else [0] * len(found)
            lines = (
                f"{place} {' '.join(f'{value:.6f}' for value in row)}{end}"
                for place, row, end in zip(ids, rows, ends, strict=True)
            )
            file = staging / files[found.name]
            write(_file_of_frame(file, found.frame), lines)

        yield add


def label_files(names: Sequence[str]) -> dict[str, Path]:
    """A text file for each image, no two the same, below a folder as the images lie below what they have in common.

    The file has the image's name with another suffix; where two images differ in the suffix alone, the suffix stays,
    and that of a video also where its frames would have the names of images.

    Args:
        names: Paths, addresses, or whatever the images are called.
    """
    paths = {name: Path(urlsplit(name).path.lstrip("/") if "://" in name else os.path.abspath(name)) for name in names}  # noqa: PTH100
    local = [path.parent for name, path in paths.items() if "://" not in name]
    try:
        root = Path(os.path.commonpath(local)) if local else None
    except ValueError:  # drives of Windows
        root = None
    below = {
        name: path.relative_to(root) if root is not None and path.is_relative_to(root) else Path(path.name or "image")
        for name, path in paths.items()
    }
    files: dict[str, Path] = {}
    shared = _repeated(path.with_suffix(".txt") for path in below.values())
    taken = {"classes.txt"}
    of_images: set[str] = set()
    for name, path in sorted(below.items(), key=lambda item: is_video(item[1])):
        video = is_video(path)
        short = path.with_suffix(".txt")
        # The same name on two servers gets a number.
        more = itertools.chain(("",), (f"-{number}" for number in itertools.count(2)))
        whole = (path.with_name(f"{path.name}{end}.txt") for end in more)
        candidates = whole if str(short).casefold() in shared else itertools.chain([short], whole)
        file = next(file for file in candidates if not _is_taken(file, taken, of_images if video else ()))
        taken.add(str(file).casefold())
        if not video:
            of_images.add(str(file).casefold())
        files[name] = file
    return files


def _is_taken(file: Path, taken: Collection[str], of_images: Collection[str]) -> bool:
    """True if a file is another's, or that of a frame one of those of images."""
    if str(file).casefold() in taken:
        return True
    frames = str(_file_of_frame(file, 0)).casefold().removesuffix("0.txt")
    return any(other[len(frames) : -4].isdecimal() for other in of_images if other.startswith(frames))


def _file_of_frame(file: Path, frame: int | None) -> Path:
    return file if frame is None else file.with_name(f"{file.stem}_{frame}.txt")


def _repeated(paths: Iterable[Path]) -> set[str]:
    seen: set[str] = set()
    twice: set[str] = set()
    for path in paths:
        name = str(path).casefold()  # some file systems do not tell cases apart
        (twice if name in seen else seen).add(name)
    return twice


def _image_id(found: ObjectsFound, image_ids: Mapping[str, int] | None) -> int | str:
    base = found.name.rsplit("/", 1)[-1].rsplit(os.sep, 1)[-1]
    if image_ids is None:
        stem = Path(base).stem
        number = found.frame is None and stem.isascii() and stem.isdigit()
        return int(stem) if number else _of_frame(printable(base), found.frame)
    return image_id_of(found.name, image_ids)


def _of_frame(name: str, frame: int | None) -> str:
    return name if frame is None else f"{name}#{frame}"


def _category_ids(category_ids: Sequence[int] | None, count: int) -> list[int]:
    if category_ids is not None and len(category_ids) < count:
        raise ValueError(f"{len(category_ids)} category ids for {count} classes")
    return list(range(1, count + 1) if category_ids is None else category_ids)


def _coco_rows(found: ObjectsFound, category_ids: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    places: npt.NDArray[np.integer] = np.zeros(len(found), np.int64) if found.class_id is None else found.class_id
    ids = _category_ids(category_ids, int(places.max(initial=-1)) + 1)
    # Sides are differences of float64 of the float32 corners, so that the corners come back.
    boxes = np.array([[short(value) for value in box] for box in found.xyxy]).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    for place, box, score in zip(places.tolist(), boxes.round(6).tolist(), found.scores, strict=True):
        yield {"file_name": found.name, "category_id": ids[place], "bbox": box, "score": short(score)}


def _run_lengths(found: ObjectsFound) -> list[dict[str, Any]]:
    """Masks as JSON has them: compressed run lengths of the whole picture."""
    height, width = (int(side) for side in found.mask.shape[1:])  # type: ignore[union-attr]
    return [
        {"size": [height, width], "counts": mask["counts"].decode("ascii")}
        for mask in run_lengths(crops(found), (height, width))
    ]


def _yolo_boxes(found: ObjectsFound) -> list[list[float]]:
    height, width = found.size
    corners = found.xyxy.astype(np.float64) / [width, height, width, height]
    rows: list[list[float]] = np.concatenate(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1
    ).tolist()
    return rows


def _yolo_polygons(found: ObjectsFound) -> list[list[float]]:
    height, width = found.size
    rows = []
    for polygons, (x0, y0, x1, y1) in zip(found.outlines(), found.xyxy.tolist(), strict=True):
        closed = [np.concatenate([polygon, polygon[:1]]) for polygon in polygons]
        if len(closed) > 1:
            # Back over the points where the parts began, or the last line would cut through them.
            points = np.concatenate([*closed, *(polygon[:1] for polygon in reversed(polygons[:-1]))])
        else:
            points = polygons[0] if polygons else np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        rows.append((points.astype(np.float64) / [width, height]).flatten().tolist())
    return rows


def _text(path: Path) -> Any:
    # What file names hold that is not Unicode becomes a backslash escape, as in `atomic.write_atomically`.
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
