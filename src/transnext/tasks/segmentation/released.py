"""The released segmenters: which names their parameters have, and how pictures are put before them."""

from importlib import import_module
from typing import Any

from transnext.tasks.segmentation.ade20k import ADE20K_CLASSES
from transnext.tasks.segmentation.net import SegmentationNet
from transnext.tasks.segmentation.nets import SEGMENTERS

WINDOW, STRIDE = 512, 341
"""Side of the windows in which the released UPerNets see a picture, and the step from one to the next, pixels."""


def official_names(segmenter: str) -> Any:
    """The module that knows the released names of a segmenter's parameters.

    Raises:
        ValueError: It is none.
    """
    if segmenter not in SEGMENTERS:
        raise ValueError(f"{segmenter} is no segmenter: those are {', '.join(SEGMENTERS)}")
    return import_module(SEGMENTERS[segmenter].official)


def released_metadata(net: SegmentationNet) -> dict[str, Any]:
    """What a checkpoint of ours would say of a released segmenter beside what all released networks have."""
    names = list(ADE20K_CLASSES)
    if len(names) != net.num_classes:
        names = [f"class {i}" for i in range(net.num_classes)]
    windows = {"window": WINDOW, "window_stride": STRIDE} if net.segmenter == "upernet" else {}
    return {"class_names": names, **windows}
