"""Numbers of images as an annotation file of COCO has them, by which results are compared with it."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from transnext.data.annotation_values import one_line, whole
from transnext.data.names import printable


def read_image_ids(file: Path) -> dict[str, int]:
    """The number of each image of a COCO file by its path there, and by its file name where no other has that.

    Raises:
        ValueError: It is no such file, or an image has no name, no whole number, or the name of another.
        OSError: It cannot be read.
    """
    where = printable(file)
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is broken JSON: {one_line(error)}") from None
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise ValueError(f"{where} is not a COCO annotation file: there is no list of 'images'")
    ids: dict[str, int] = {}
    for place, entry in enumerate(images):
        name, number = (entry.get("file_name"), whole(entry.get("id"))) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not name or number is None:
            raise ValueError(f"{where}: entry {place} of images has no file_name, or no whole number as id")
        name = name.replace("\\", "/")
        if ids.setdefault(name, number) != number:
            raise ValueError(f"{where}: {printable(name)} is image {ids[name]} and image {number}")
    bases = Counter(name.rsplit("/", 1)[-1] for name in ids)
    return {base: ids[name] for name in ids if bases[base := name.rsplit("/", 1)[-1]] == 1} | ids


def image_id_of(name: str, image_ids: Mapping[str, int]) -> int:
    """The number of an image: that of the most parts of its path, from the file name on, that have one.

    Raises:
        ValueError: None has.
    """
    parts = name.replace(os.sep, "/").split("/")
    for first in range(len(parts)):
        number = image_ids.get("/".join(parts[first:]))
        if number is not None:
            return number
    raise ValueError(f"{printable(name)} has no image id: the annotations do not name it")


def check_image_ids(names: Sequence[str], image_ids: Mapping[str, int]) -> None:
    """Refuses images without a number, or two with the same.

    Raises:
        ValueError: There are such.
    """
    of: dict[int, str] = {}
    for name in names:
        number = image_id_of(name, image_ids)
        if number in of:
            raise ValueError(f"{printable(name)} and {printable(of[number])} have one image id, {number}")
        of[number] = name
