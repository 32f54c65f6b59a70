"""The network of a detector to begin with: new, behind trained backbones, from another detector, as it was saved."""

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

from transnext.config import TrainConfig
from transnext.tasks.detection.config import HeadSize
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.detection.nets import build_net, replace_classes, strides_of
from transnext.tasks.detection.released import official_names, released_metadata
from transnext.tasks.starting import Heads, check_same, head_size, new_backbone

HEADS = Heads[DetectionNet](
    task="detection",
    kind="detector",
    said=("architecture", "model_args", "class_names", "category_ids", "with_masks", "preprocessing"),
    build=build_net,
    strides=lambda detector, head: strides_of(detector, head.get("scales")),
    replace_classes=replace_classes,
    official=official_names,
    trained_side=800,
    resized=(800, 1333),
    metadata=released_metadata,
    changeable=("max_detections",),
)
"""What detectors have of their own among networks of a head on a backbone."""


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
    own = config.task
    if own.num_queries is not None and own.detector == "mask_rcnn":
        raise ValueError("mask_rcnn has no queries: leave out --num-queries")
    strides = strides_of(own.detector, own.scales)
    if checkpoint is not None and HEADS.starts_from(checkpoint):
        return _from_detector(checkpoint, config, classes, masks, most_objects)
    backbone, said = new_backbone(config, strides, HEADS.trained_side)
    more: dict[str, Any] = {} if own.num_queries is None else {"num_queries": own.num_queries}
    build = partial(build_net, own.detector, backbone, len(classes), masks=masks, size=own.head_size, scales=own.scales)
    net = build(**more)
    queries, of_queries = _enough_queries(net, own.num_queries, most_objects)
    return net if queries == net.num_queries else build(num_queries=queries), said + of_queries


def _enough_queries(
    net: DetectionNet, wanted: int | None, most_objects: int, changeable: bool = True
) -> tuple[int | None, list[str]]:
    """How many queries a network should have, and what is to be said of them.

    Args:
        net: The network.
        wanted: What was asked for.
        most_objects: Objects in the densest image.
        changeable: It can have others than it has.
    """
    queries = net.num_queries if wanted is None else wanted
    if queries is None or queries >= most_objects:
        return queries, []
    if wanted is not None or not changeable:
        return queries, [f"An image has up to {most_objects} objects, and {queries} queries find no more than these."]
    enough = -(-most_objects // 100) * 100
    return enough, [f"{enough} queries, not {queries}: an image has up to {most_objects} objects."]


def _from_detector(
    checkpoint: str, config: TrainConfig[Any], classes: Sequence[str], masks: bool, most_objects: int
) -> tuple[DetectionNet, list[str]]:
    net, before = HEADS.opened(checkpoint, config)
    own = config.task
    scales = net.args().get("scales")
    if net.detector == "dino" and own.scales is not None:
        check_same(checkpoint, "scales", own.scales, scales)
    more: dict[str, Any] = {} if net.num_queries is None else {"num_queries": net.num_queries}
    like = partial(build_net, net.detector, net.backbone, net.num_classes, masks=net.with_masks, scales=scales, **more)
    size = head_size(net, get_args(HeadSize), lambda size: like(size=size))
    if size is not None:
        check_same(checkpoint, "head_size", own.head_size, size)
    if masks and not net.with_masks:
        raise ValueError(f"{checkpoint} tells no outlines: give --masks False, or start from another")
    # Queries of D-FINE are places that its encoder chooses; those of the others are learned.
    chosen = net.detector == "d_fine"
    if own.num_queries is not None and not chosen:
        check_same(checkpoint, "num_queries", own.num_queries, net.num_queries)
    queries, of_queries = _enough_queries(net, own.num_queries, most_objects, changeable=chosen)
    head = {"masks": masks} if net.with_masks else {}
    net = HEADS.as_trained(net, config.start.drop_path, **head, **({"num_queries": queries} if chosen else {}))
    return net, [HEADS.with_classes(net, before, classes, checkpoint), *of_queries]
