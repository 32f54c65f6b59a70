"""Detectors by name, imported when they are built."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from transnext.extras import require
from transnext.models.backbone import Backbone
from transnext.tasks.detection.net import DetectionNet


class Detector(NamedTuple):
    """Where a detector is and what it can do.

    Attributes:
        builder: Module and function.
        strides: Of the maps that it takes, by the number of scales; None for the one number of most.
        classes: Module that has its `replace_classes`.
        official: Module that knows the released names of its parameters; None if there are no released weights.
        masks: It can tell outlines.
        packages: Those that it is built of and that are not always there.
    """

    builder: str
    strides: dict[int | None, tuple[int, ...]]
    classes: str
    official: str | None = None
    masks: bool = False
    packages: tuple[str, ...] = ()


_ROOM = "transnext.tasks.detection"


DETECTORS = {
    "mask_rcnn": Detector(
        f"{_ROOM}.mask_rcnn.model:mask_rcnn",
        {None: (4, 8, 16, 32)},
        f"{_ROOM}.mask_rcnn.classes",
        f"{_ROOM}.mask_rcnn.official",
        masks=True,
    ),
    "dino": Detector(
        f"{_ROOM}.dino.model:dino",
        {None: (8, 16, 32), 4: (8, 16, 32), 5: (4, 8, 16, 32)},
        f"{_ROOM}.dino.classes",
        f"{_ROOM}.dino.official",
        packages=("scipy", "transformers"),
    ),
    "d_fine": Detector(
        f"{_ROOM}.d_fine:d_fine", {None: (8, 16, 32)}, f"{_ROOM}.d_fine", packages=("scipy", "transformers")
    ),
    "mask2former": Detector(
        f"{_ROOM}.mask2former:mask2former_instances",
        {None: (4, 8, 16, 32)},
        "transnext.tasks.segmentation.mask2former.classes",
        masks=True,
        packages=("scipy", "transformers"),
    ),
}


def strides_of(detector: str, scales: int | None = None) -> tuple[int, ...]:
    """Strides of the maps that a detector takes from its backbone, pixels.

    Args:
        detector: Key of `DETECTORS`.
        scales: Maps of different size that it looks at, its own ones included; None for its usual number.

    Raises:
        ValueError: There is no such detector, or it has no such number of scales.
    """
    if detector not in DETECTORS:
        raise ValueError(f"no detector is called {detector!r}: choose one of {', '.join(DETECTORS)}")
    known = DETECTORS[detector].strides
    if scales not in known:
        numbers = " or ".join(str(number) for number in known if number is not None)
        raise ValueError(
            f"{detector} with {scales} scales: " + (f"it has {numbers}" if numbers else "leave scales out")
        )
    return known[scales]


def build_net(
    detector: str,
    backbone: Backbone,
    num_classes: int,
    *,
    masks: bool = False,
    size: str | None = None,
    scales: int | None = None,
    **args: Any,
) -> DetectionNet:
    """Builds a detector behind a backbone.

    Args:
        detector: Key of `DETECTORS`.
        backbone: Gives maps of `strides_of(detector, scales)`.
        num_classes: Classes.
        masks: Tell outlines, too.
        size: Preset of the detector's size; its usual one if None.
        scales: See `strides_of`.
        args: Further arguments of the detector.

    Raises:
        ValueError: There is no such detector, it cannot do what is asked of it, or a package is missing.
    """
    strides = strides_of(detector, scales)
    if list(strides) != backbone.strides:
        raise ValueError(f"{detector} needs maps of strides {strides}, the backbone gives those of {backbone.strides}")
    known = DETECTORS[detector]
    require(detector, *known.packages, extra="detect")
    if masks and not known.masks:
        able = ", ".join(name for name, other in DETECTORS.items() if other.masks)
        raise ValueError(f"{detector} tells no outlines: leave masks out, or choose {able}")
    if known.masks:
        args["masks"] = masks
    if size is not None:
        args["size"] = size
    if scales is not None:
        args["scales"] = scales
    module, _, function = known.builder.partition(":")
    build: Callable[..., DetectionNet] = getattr(import_module(module), function)
    net = build(backbone, num_classes, **args)
    net.detector = detector
    return net


def replace_classes(net: DetectionNet, old_names: Sequence[str], new_names: Sequence[str]) -> list[str]:
    """Gives a detector other classes, in place; what it knows of those that it had, by name, it keeps.

    Args:
        net: The detector.
        old_names: Its classes.
        new_names: Those that it is to have; case makes no difference.

    Returns:
        Those of the new names that it had; of the others the weights are new.
    """
    kept: list[str] = import_module(DETECTORS[net.detector].classes).replace_classes(net, old_names, new_names)
    return kept
