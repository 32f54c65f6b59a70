"""The network of a detector to begin with: new, behind trained backbones, from another detector, as it was saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transnext.config import TrainConfig
from transnext.models.backbone import Backbone
from transnext.models.checkpoint import load_strictly, read_tensors
from transnext.models.variants import pretrain_size
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.detection.nets import DETECTORS, build_net, replace_classes, strides_of
from transnext.tasks.detection.released import fetched, holds_detector, is_released_name, released_net

RELEASED_SIDE = 800
"""Image side from which released detectors resize the position bias, pixels."""


def fresh_net(config: TrainConfig[Any], classes: Sequence[str], masks: bool) -> tuple[DetectionNet, list[str]]:
    """The network to train.

    Args:
        config: Of the run. `start.checkpoint` may be a classifier, of which the backbone is taken, or a detector, of
            which the rows of classes of the same names are taken, too.
        classes: Names of the classes.
        masks: Outlines are to be told, too.

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
    scales = own.scales if len(DETECTORS[own.detector].strides) > 1 else None
    strides = strides_of(own.detector, scales)
    backbone = Backbone(config.model, strides, pretrained=config.start.pretrained, **_backbone_args(config))
    if checkpoint is not None:
        backbone.load_weights(checkpoint)
    net = build_net(own.detector, backbone, len(classes), masks=masks, size=own.head_size, scales=scales)
    first = "pretrained weights" if config.start.pretrained else checkpoint
    return net, [] if first is None else [f"The backbone begins with {first}, the rest with random weights."]


def rebuilt_net(name: str, saved: Mapping[str, Any]) -> DetectionNet:
    """The network that `model_args` describe, with random weights.

    Args:
        name: Name of the backbone.
        saved: What `model_args` gave.
    """
    backbone = Backbone(name, **{key: _tuple(value) for key, value in saved["backbone"].items()})
    return build_net(saved["detector"], backbone, **saved["head"])


def model_args(net: DetectionNet) -> dict[str, Any]:
    """Arguments that, with the name of the backbone, build a network again: plain values, for checkpoints."""
    backbone: Any = net.backbone
    return {"detector": net.detector, "backbone": backbone.args(), "head": net.args()}


def load_detector(path: str | Path) -> tuple[DetectionNet, dict[str, Any]]:
    """A detector from a checkpoint of ours or of the released code, with its weights, and what the checkpoint says.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no detector, or its weights do not fit.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("task") != "detection":
        return released_net(tensors, str(path))
    net = rebuilt_net(metadata["architecture"], metadata["model_args"])
    load_strictly(net, tensors, str(path))
    return net, metadata


def _from_detector(
    checkpoint: str, config: TrainConfig[Any], classes: Sequence[str], masks: bool
) -> tuple[DetectionNet, list[str]]:
    path = fetched(checkpoint) if is_released_name(checkpoint) else Path(checkpoint)
    net, metadata = load_detector(path)
    backbone: Any = net.backbone
    for what, ours, theirs in (
        ("detector", config.task.detector, net.detector),
        ("model", config.model, backbone.name),
        ("masks", masks, net.with_masks),
    ):
        if ours != theirs and not (what == "masks" and theirs):
            raise ValueError(f"{checkpoint} is of {what} {theirs}, and {what} is {ours}: give --{what} {theirs}")
    before = list(metadata["class_names"])
    if before == list(classes):
        return net, [f"All weights are those of {checkpoint}."]
    kept = replace_classes(net, before, classes)
    new = [name for name in classes if name not in kept]
    said = f"Weights are those of {checkpoint}; "
    said += f"its classes {', '.join(kept)} are kept" if kept else "none of its classes is kept"
    return net, [f"{said}{', ' + ', '.join(new) + ' are new' if new else ''}."]


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
