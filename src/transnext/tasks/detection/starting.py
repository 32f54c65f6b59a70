"""The network of a detector to begin with: new, behind trained backbones, from another detector, as it was saved."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from transnext.config import TrainConfig
from transnext.models.backbone import Backbone
from transnext.models.checkpoint import load_strictly, read_tensors
from transnext.models.checkpoint.loading import SOURCE_ARGS
from transnext.models.variants import pretrain_size
from transnext.tasks.detection.config import HeadSize
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.detection.nets import build_net, replace_classes, strides_of
from transnext.tasks.detection.released import (
    fetched,
    holds_detector,
    is_released_name,
    kind_of_released,
    official_names,
    released_net,
)

RELEASED_SIDE = 800
"""Image side from which released detectors resize the position bias, pixels."""
_SAID = ("architecture", "model_args", "class_names", "category_ids", "with_masks", "preprocessing")
"""Entries that the checkpoint of a detector must have."""


def fresh_net(
    config: TrainConfig[Any], classes: Sequence[str], masks: bool, most_objects: int = 0
) -> tuple[DetectionNet, list[str]]:
    """The network to train.

    Args:
        config: Of the run. `start.checkpoint` may be a classifier, of which the backbone is taken, or a detector, of
            which the rows of classes of the same names are taken, too.
        classes: Names of the classes.
        masks: Outlines are to be told, too.
        most_objects: Objects in the densest image.

    Returns:
        The network, and what is to be said of its first weights.

    Raises:
        FileNotFoundError: The checkpoint is not there.
        ValueError: There is no such network, or the checkpoint does not fit it.
    """
    checkpoint = config.start.checkpoint
    if checkpoint is not None and (is_released_name(checkpoint) or holds_detector(checkpoint)):
        return _from_detector(checkpoint, config, classes, masks)
    own = config.task
    strides = strides_of(own.detector, own.scales)
    backbone = Backbone(config.model, strides, pretrained=config.start.pretrained, **_backbone_args(config))
    if checkpoint is not None:
        backbone.load_weights(checkpoint)
    said = []
    first = "pretrained weights" if config.start.pretrained else checkpoint
    if first is not None:
        said.append(f"The backbone begins with {first}, the rest with random weights.")
    if own.num_queries is not None and own.detector == "mask_rcnn":
        raise ValueError("mask_rcnn has no queries: leave out --num-queries")
    more: dict[str, Any] = {} if own.num_queries is None else {"num_queries": own.num_queries}
    build = partial(build_net, own.detector, backbone, len(classes), masks=masks, size=own.head_size, scales=own.scales)
    net = build(**more)
    if own.num_queries is None and net.num_queries is not None and net.num_queries < most_objects:
        queries = -(-most_objects // 100) * 100
        said.append(f"{queries} queries, not {net.num_queries}: an image has up to {most_objects} objects.")
        net = build(num_queries=queries)
    return net, said


def rebuilt_net(name: str, saved: Mapping[str, Any]) -> DetectionNet:
    """The network that `model_args` describe, with random weights.

    Args:
        name: Name of the backbone.
        saved: What `model_args` gave.

    Raises:
        ValueError: There is no such model, or the arguments are not those of a detector.
    """
    try:
        args = {key: _tuple(value) for key, value in saved["backbone"].items()}
        if unfit := SOURCE_ARGS & args.keys():
            raise ValueError(f"arguments of a backbone cannot be {', '.join(sorted(unfit))}")
        net = build_net(saved["detector"], Backbone(name, **args), **saved["head"])
        # Older checkpoints say it of some detectors in the head.
        net.max_detections = saved.get("max_detections", net.max_detections)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no detector on {name} can be built from {saved!r:.200} ({error})") from None
    return net


def model_args(net: DetectionNet) -> dict[str, Any]:
    """Arguments that, with the name of the backbone, build a network again: plain values, for checkpoints."""
    backbone: Any = net.backbone
    return {
        "detector": net.detector,
        "backbone": backbone.args(),
        "head": net.args(),
        "max_detections": net.max_detections,
    }


def load_detector(path: str | Path) -> tuple[DetectionNet, dict[str, Any]]:
    """A detector from a checkpoint of ours or of the released code, with its weights, and what the checkpoint says.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no detector, or its weights do not fit.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("task") != "detection":
        return released_net(tensors, str(path))
    if missing := [name for name in _SAID if name not in metadata]:
        raise ValueError(f"{path} does not say {', '.join(missing)} of the detector in it")
    net = rebuilt_net(metadata["architecture"], metadata["model_args"])
    if kind_of_released(tensors) is not None:
        tensors = official_names(net.detector).from_released(tensors)
    load_strictly(net, tensors, str(path))
    return net, metadata


def _from_detector(
    checkpoint: str, config: TrainConfig[Any], classes: Sequence[str], masks: bool
) -> tuple[DetectionNet, list[str]]:
    path = fetched(checkpoint) if is_released_name(checkpoint) else Path(checkpoint)
    net, metadata = load_detector(path)
    own = config.task
    _check_same(checkpoint, "detector", own.detector, net.detector)
    _check_same(checkpoint, "model", config.model.split(".")[0], net.backbone.name.split(".")[0])
    if net.detector == "dino":
        _check_same(checkpoint, "scales", own.scales, net.args()["scales"])
    size = _head_size(net)
    if size is not None:
        _check_same(checkpoint, "head_size", own.head_size, size)
    if masks and not net.with_masks:
        raise ValueError(f"{checkpoint} tells no outlines: give --masks False, or start from another")
    net = _as_trained(net, config, masks)
    before = list(metadata["class_names"])
    if before == list(classes):
        return net, [f"All weights are those of {checkpoint}."]
    kept = replace_classes(net, before, classes)
    new = [name for name in classes if name not in kept]
    said = f"Weights are those of {checkpoint}; "
    said += f"its classes {', '.join(kept)} are kept" if kept else "none of its classes is kept"
    return net, [f"{said}{', ' + ', '.join(new) + ' are new' if new else ''}."]


def _check_same(checkpoint: str, option: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        name = option.replace("_", "-")
        raise ValueError(f"{checkpoint} has {option} {theirs}, and {option} is {ours}: give --{name} {theirs}")


def _head_size(net: DetectionNet) -> str | None:
    """Name of the size that the parameters beside the backbone have; None if they have those of none."""
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    scales = net.args().get("scales")
    for size in get_args(HeadSize):
        try:
            with torch.device("meta"):
                other = build_net(
                    net.detector, net.backbone, net.num_classes, masks=net.with_masks, size=size, scales=scales
                )
        except ValueError:  # the detector has no such size
            continue
        if {name: tensor.shape for name, tensor in other.state_dict().items()} == shapes:
            return size
    return None


def _as_trained(net: DetectionNet, config: TrainConfig[Any], masks: bool) -> DetectionNet:
    """The same network with the stochastic depth of a run, and without outlines if they are not trained."""
    args = model_args(net)
    args["backbone"]["drop_path_rate"] = config.start.drop_path
    if net.with_masks:
        args["head"]["masks"] = masks
    weights = net.state_dict()
    again = rebuilt_net(net.backbone.name, args)
    again.load_state_dict({name: weights[name] for name in again.state_dict()})
    return again


def _backbone_args(config: TrainConfig[Any]) -> dict[str, Any]:
    args: dict[str, Any] = {"drop_path_rate": config.start.drop_path}
    if not config.model.startswith("transnext_"):
        return args
    if config.start.checkpoint is not None:
        args["pretrain_size"] = pretrain_size(config.model, config.start.checkpoint)
    if config.task.head_size == "released":
        args |= {"img_size": RELEASED_SIDE, "bias_mode": "interpolate"}
    elif config.images.image_size is not None:
        args["img_size"] = config.images.image_size
    return args


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
