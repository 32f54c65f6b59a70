"""The network of a segmenter to begin with: new, behind trained backbones, from another segmenter, as it was saved."""

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

from torch import Tensor

from transnext.config import TrainConfig
from transnext.tasks.segmentation.config import HeadSize
from transnext.tasks.segmentation.losses import PixelLoss
from transnext.tasks.segmentation.net import SegmentationNet
from transnext.tasks.segmentation.nets import build_net, replace_classes, strides_of
from transnext.tasks.segmentation.released import official_names, released_metadata
from transnext.tasks.segmentation.upernet.model import UPerNet
from transnext.tasks.starting import Heads, check_same, head_size, new_backbone

HEADS = Heads[SegmentationNet](
    task="segmentation",
    kind="segmenter",
    said=("architecture", "model_args", "class_names", "preprocessing"),
    build=build_net,
    strides=lambda segmenter, head: strides_of(segmenter),
    replace_classes=replace_classes,
    official=official_names,
    trained_side=512,
    resized=(512, 2048),
    metadata=released_metadata,
)
"""What segmenters have of their own among networks of a head on a backbone."""


def fresh_net(
    config: TrainConfig[Any],
    classes: Sequence[str],
    class_weights: Sequence[float] | Tensor | None = None,
    in_chans: int = 3,
) -> tuple[SegmentationNet, list[str]]:
    """The network to train.

    Args:
        config: Of the run. `start.checkpoint` may be a classifier, of which the backbone is taken, or a segmenter, of
            which the rows of classes of the same names are taken, too.
        classes: Names of the classes.
        class_weights: Factor of each class in the loss.
        in_chans: Channels of the pictures.

    Returns:
        The network, and what is to be said of its first weights.

    Raises:
        FileNotFoundError: The checkpoint is not there.
        ValueError: There is no such network, or the checkpoint does not fit it.
    """
    own, checkpoint = config.task, config.start.checkpoint
    if checkpoint is not None and HEADS.starts_from(checkpoint):
        net, before = HEADS.opened(checkpoint, config)
        theirs = net.backbone.args().get("in_chans", 3)
        if theirs != in_chans:
            raise ValueError(
                f"{checkpoint} takes pictures of {theirs} channels, these have {in_chans}: begin with a classifier"
            )
        size = head_size(
            net,
            get_args(HeadSize),
            lambda size: build_net(net.segmenter, net.backbone, net.num_classes, size=size),
        )
        if size is not None:
            check_same(checkpoint, "head_size", own.head_size, size)
        net = HEADS.as_trained(net, config.start.drop_path)
        said = [HEADS.with_classes(net, before, classes, checkpoint)]
    else:
        backbone, said = new_backbone(config, strides_of(own.segmenter), HEADS.trained_side, in_chans)
        build = partial(build_net, own.segmenter, backbone, len(classes))
        net = build(size=own.head_size)
    if isinstance(net, UPerNet):
        net.criterion = PixelLoss(own.loss, class_weights=class_weights)
        net.criterion.check(len(classes))
    return net, said
