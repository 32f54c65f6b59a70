"""`transnext check DATA`."""

import json
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from transnext.atomic import check_writable, write_atomically


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
    if json_file is not None:
        check_writable(json_file)
    from transnext.data.detection.checks import check_detection

    report = check_detection(data, pixels=pixels)
    Console(soft_wrap=True, highlight=False).print(report.text(), markup=False)
    if json_file is not None:
        write_atomically(json_file, json.dumps(report.to_dict(), ensure_ascii=False, indent=1) + "\n")
