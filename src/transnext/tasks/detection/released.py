"""The released detectors: where their weights are, and networks from them."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from transnext.data.preprocessing import Preprocessing
from transnext.models.backbone import Backbone
from transnext.models.checkpoint import architecture_of, download, load_strictly, read_tensors
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.detection.nets import DETECTORS, build_net, strides_of

ORGANISATION = "DaiShiResearch"
"""Owner of the repositories on the hub."""
RESIZED = (800, 1333)
"""Shorter side of images, and the most of the longer one, pixels."""
TRAINED_SIDE = 800
"""Image side from which released detectors resize the position bias, pixels."""
PRETRAINED_SIDE = 224
"""Image side of the pre-training of their backbones, pixels."""

RELEASED = {
    **{
        f"maskrcnn-transnext-{size}-coco": f"mask_rcnn_transnext_{size}_fpn_1x_coco_in1k.pth"
        for size in ("tiny", "small", "base")
    },
    "dino-4scale-transnext-tiny-coco": "dino_4scale_transnext_tiny_12e_in1k.pth",
    **{
        f"dino-5scale-transnext-{size}-coco": f"dino_5scale_transnext_{size}_12e_in1k.pth"
        for size in ("tiny", "small", "base")
    },
}
"""Names of released detectors, which are those of their repositories, and the file in each."""


def is_released_name(name: str | Path) -> bool:
    """Tells if a name is that of a released detector."""
    return str(name) in RELEASED


def fetched(name: str) -> Path:
    """The file of a released detector, from the hub or its cache.

    Raises:
        ValueError: It is neither in the cache nor can it be had.
    """
    return download(f"{ORGANISATION}/{name}", RELEASED[name])


def kind_of_released(state_dict: Mapping[str, Tensor]) -> str | None:
    """Name of the detector whose released parameters a state dict holds; None if it is no detector."""
    if "rpn_head.rpn_conv.weight" in state_dict:
        return "mask_rcnn"
    is_dino = {"query_embedding.weight", "dn_query_generator.label_embedding.weight"} <= state_dict.keys()
    return "dino" if is_dino else None


def holds_detector(path: str | Path) -> bool:
    """Tells if a file is the checkpoint of a detector, ours or released.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read.
    """
    tensors, metadata = read_tensors(path)
    return metadata.get("task") == "detection" or kind_of_released(tensors) is not None


def released_net(state_dict: Mapping[str, Tensor], source: str) -> tuple[DetectionNet, dict[str, Any]]:
    """A released detector, and what a checkpoint of ours would say of it.

    Args:
        state_dict: Released names.
        source: What to call the file in errors.

    Raises:
        ValueError: It is no detector, or another one than the released ones.
    """
    kind = kind_of_released(state_dict)
    if kind is None:
        raise ValueError(f"{source} is no detector")
    official = official_names(kind)
    head: dict[str, Any] = official.args_of_released(state_dict)
    architecture = architecture_of(state_dict)
    if architecture is None:
        raise ValueError(f"{source} has a backbone that is none of the variants: build the detector yourself")
    backbone = Backbone(
        architecture,
        strides_of(kind, head.get("scales")),
        img_size=TRAINED_SIDE,
        pretrain_size=PRETRAINED_SIDE,
        bias_mode="interpolate",
    )
    net = build_net(kind, backbone, **head)
    load_strictly(net, official.from_released(state_dict), source)
    names, ids = coco_classes()
    if len(names) != net.num_classes:
        names = [f"class {i}" for i in range(net.num_classes)]
        ids = list(range(1, net.num_classes + 1))
    preprocessing = Preprocessing.of_model(backbone.net).with_places("shortest", RESIZED)
    return net, {
        "task": "detection",
        "architecture": architecture,
        "class_names": names,
        "category_ids": ids,
        "with_masks": net.with_masks,
        "preprocessing": preprocessing.to_dict(),
    }


def official_names(detector: str) -> Any:
    """The module that knows the released names of a detector's parameters.

    Raises:
        ValueError: None were released.
    """
    place = DETECTORS[detector].official
    if place is None:
        known = ", ".join(name for name, other in DETECTORS.items() if other.official is not None)
        raise ValueError(f"{detector} has no released names: only {known} have")
    return import_module(place)


def coco_classes() -> tuple[list[str], list[int]]:
    """Names of the 80 classes of COCO, in order, and their category ids, which have gaps."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    categories = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    used = [(name, i) for i, name in enumerate(categories) if i and name != "N/A"]
    return [name for name, _ in used], [i for _, i in used]
