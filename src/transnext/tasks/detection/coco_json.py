"""Found objects in COCO's format of results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from transnext.tasks.detection.coco_eval import sides
from transnext.tasks.detection.placing import Placed

Kind = Literal["box", "mask", "both"]


def coco_results(
    images: Iterable[tuple[int | str, Placed]], category_ids: Sequence[int], kind: Kind = "both"
) -> list[dict[str, Any]]:
    """Rows of a results file, plain values for JSON.

    pycocotools tells the size of an object by its box where a row has one: to get the twelve numbers of masks from a
    file, write it with `kind="mask"`.

    Args:
        images: The id that the annotation file gives each image, and what was found in it.
        category_ids: Id of each class in the annotation file.
        kind: "box" for boxes alone, "mask" for outlines alone, "both" for boxes and, where there are any, outlines.

    Raises:
        ValueError: Outlines are wanted and there are none.
    """
    rows: list[dict[str, Any]] = []
    for image_id, found in images:
        if kind == "mask" and found.segmentations is None and len(found):
            raise ValueError("the model tells no outlines: write boxes")
        boxes = sides(found.boxes).tolist()
        for i, (score, label) in enumerate(zip(found.scores.tolist(), found.labels.tolist(), strict=True)):
            row: dict[str, Any] = {"image_id": image_id, "category_id": int(category_ids[label])}
            if kind != "mask":
                row["bbox"] = boxes[i]
            if kind != "box" and found.segmentations is not None:
                outline = found.segmentations[i]
                row["segmentation"] = {"size": list(outline["size"]), "counts": outline["counts"].decode("ascii")}
            rows.append(row | {"score": score})
    return rows
