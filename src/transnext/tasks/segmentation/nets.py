"""Segmenters by name, imported when they are built."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from transnext.extras import require
from transnext.models.backbone import Backbone
from transnext.tasks.segmentation.net import SegmentationNet


class Segmenter(NamedTuple):
    """Where a segmenter is.

    Attributes:
        builder: Module and function.
        strides: Of the maps that it takes.
        classes: Module that has its `replace_classes`.
        official: Module that knows the released names of its parameters.
        packages: That it needs beside those of all tasks.
    """

    builder: str
    strides: tuple[int, ...]
    classes: str
    official: str
    packages: tuple[str, ...] = ()


_ROOM = "transnext.tasks.segmentation"


SEGMENTERS = {
    "upernet": Segmenter(
        f"{_ROOM}.upernet.model:upernet", (4, 8, 16, 32), f"{_ROOM}.upernet.classes", f"{_ROOM}.upernet.official"
    ),
    "mask2former": Segmenter(
        f"{_ROOM}.mask2former.model:mask2former",
        (4, 8, 16, 32),
        f"{_ROOM}.mask2former.classes",
        f"{_ROOM}.mask2former.official",
        ("transformers", "scipy"),
    ),
}


def strides_of(segmenter: str) -> tuple[int, ...]:
    """Strides of the maps that a segmenter takes from its backbone, pixels.

    Args:
        segmenter: Key of `SEGMENTERS`.

    Raises:
        ValueError: There is no such segmenter.
    """
    if segmenter not in SEGMENTERS:
        raise ValueError(f"no segmenter is called {segmenter!r}: choose one of {', '.join(SEGMENTERS)}")
    return SEGMENTERS[segmenter].strides


def build_net(
    segmenter: str, backbone: Backbone, num_classes: int, *, size: str | None = None, **args: Any
) -> SegmentationNet:
    """Builds a segmenter behind a backbone.

    Args:
        segmenter: Key of `SEGMENTERS`.
        backbone: Gives maps of `strides_of(segmenter)`.
        num_classes: Classes.
        size: Preset of the segmenter's size; its usual one if None.
        args: Further arguments of the segmenter.

    Raises:
        ValueError: There is no such segmenter, or it cannot do what is asked of it.
    """
    strides = strides_of(segmenter)
    if list(strides) != backbone.strides:
        raise ValueError(f"{segmenter} needs maps of strides {strides}, the backbone gives those of {backbone.strides}")
    if size is not None:
        args["size"] = size
    require(segmenter, *SEGMENTERS[segmenter].packages, extra="segment")
    module, _, function = SEGMENTERS[segmenter].builder.partition(":")
    build: Callable[..., SegmentationNet] = getattr(import_module(module), function)
    net = build(backbone, num_classes, **args)
    net.segmenter = segmenter
    return net


def replace_classes(net: SegmentationNet, old_names: Sequence[str], new_names: Sequence[str]) -> list[str]:
    """Gives a segmenter other classes, in place; what it knows of those that it had, by name, it keeps.

    Args:
        net: The segmenter.
        old_names: Its classes.
        new_names: Those that it is to have; case makes no difference.

    Returns:
        Those of the new names that it had; of the others the weights are new.
    """
    kept: list[str] = import_module(SEGMENTERS[net.segmenter].classes).replace_classes(net, old_names, new_names)
    return kept
