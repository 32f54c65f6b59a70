"""Writing annotations as COCO JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transnext.data.detection.source import DetectionSource


def write_coco(folder: str | os.PathLike[str], sources: Mapping[str, DetectionSource]) -> list[Path]:
    """Write `annotations/instances_<split>.json` of each split; images stay where they are.

    File names are written as paths from `folder`, so that `open_detection(folder)` finds them.

    Returns:
        The files.

    Raises:
        OSError: A file cannot be written.
    """
    root = Path(folder)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    files = []
    for split, source in sources.items():
        file = root / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(coco_document(source, root)), encoding="utf-8")
        files.append(file)
    return files


def coco_document(source: DetectionSource, root: str | os.PathLike[str]) -> dict[str, Any]:
    """A split as COCO JSON has it.

    Args:
        source: The split.
        root: Folder from which file names are given.
    """
    annotations: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for i, (path, ident) in enumerate(zip(source.paths, source.image_ids, strict=True)):
        target = source.target(i)
        height, width = target.size
        name = os.path.relpath(path, root).replace(os.sep, "/")
        images.append({"id": ident, "file_name": name, "height": height, "width": width})
        if source.groups is not None and source.groups[i]:
            images[-1]["group"] = source.groups[i]
        for k in range(len(target)):
            x0, y0, x1, y1 = target.boxes[k].tolist()
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": ident,
                "category_id": source.category_ids[int(target.labels[k])],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": float(target.areas[k]),
                "iscrowd": int(target.crowd[k]),
            }
            if target.segmentations is not None:
                mask = target.segmentations[k]
                entry["segmentation"] = {"size": mask["size"], "counts": mask["counts"].decode("ascii")}
            annotations.append(entry)
    categories = [{"id": i, "name": name} for i, name in zip(source.category_ids, source.classes, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}
