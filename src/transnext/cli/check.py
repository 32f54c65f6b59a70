"""`transnext check DATA`."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from transnext.atomic import check_writable, write_atomically


def check(
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    pixels: bool = True,
    what: Literal["objects", "maps", "classes"] | None = None,
    json_file: Path | None = None,
) -> None:
    """List what is wrong with images and their classes, objects or maps, and what training would do about it.

    Args:
        data: A folder, a COCO file or a data.yaml.
        pixels: Decode every image, which finds damaged and repeated ones; --no-pixels is quicker.
        what: Objects (COCO, YOLO, Pascal VOC), maps of classes (label files, Cityscapes, COCO panoptic), or classes
            (a folder of images for each); by default what is there, objects and maps if both are.
        json_file: Also write what was found to this file.
    """
    if json_file is not None:
        check_writable(json_file)
    from transnext.data.detection.checks import check_detection
    from transnext.data.folder_checks import check_folder
    from transnext.data.segmentation.checks import check_segmentation
    from transnext.data.segmentation.opening import has_label_files

    found: dict[str, Any] = {}
    if what == "maps" or (what is None and has_label_files(data)):
        found["maps"] = check_segmentation(data, pixels=pixels)
    if what in (None, "objects"):
        try:
            found["objects"] = check_detection(data, pixels=pixels)
        except ValueError as error:
            # Label files or folders of classes may be what was meant.
            if what is not None:
                raise
            if not found:
                try:
                    found["classes"] = check_folder(data, pixels=pixels)
                except ValueError:
                    raise error from None
    if what == "classes":
        found["classes"] = check_folder(data, pixels=pixels)
    for report in found.values():
        Console(soft_wrap=True, highlight=False).print(report.text(), markup=False)
    if json_file is not None:
        (first, *more) = [report.to_dict() for report in found.values()]
        written = {name: report.to_dict() for name, report in found.items()} if more else first
        write_atomically(json_file, json.dumps(written, ensure_ascii=False, indent=1) + "\n")
