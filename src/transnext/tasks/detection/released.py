"""The released detectors: which names their parameters have, and which classes they know."""

from importlib import import_module
from typing import Any

from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.detection.nets import DETECTORS


def official_names(detector: str) -> Any:
    """The module that knows the released names of a detector's parameters.

    Raises:
        ValueError: None were released.
    """
    place = DETECTORS[detector].official if detector in DETECTORS else None
    if place is None:
        known = ", ".join(name for name, other in DETECTORS.items() if other.official is not None)
        raise ValueError(f"{detector} has no released names as a detector: only {known} have")
    return import_module(place)


def released_metadata(net: DetectionNet) -> dict[str, Any]:
    """What a checkpoint of ours would say of a released detector beside what all released networks have."""
    names, ids = coco_classes()
    if len(names) != net.num_classes:
        names = [f"class {i}" for i in range(net.num_classes)]
        ids = list(range(1, net.num_classes + 1))
    return {"class_names": names, "category_ids": ids, "with_masks": net.with_masks}


def coco_classes() -> tuple[list[str], list[int]]:
    """Names of the 80 classes of COCO, in order, and their category ids, which have gaps."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    categories = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    used = [(name, i) for i, name in enumerate(categories) if i and name != "N/A"]
    return [name for name, _ in used], [i for _, i in used]
