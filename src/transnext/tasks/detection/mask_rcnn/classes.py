"""Other classes for a trained Mask R-CNN."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transnext.data.class_names import kept_places
from transnext.tasks.detection.mask_rcnn.initial import kaiming, normal
from transnext.tasks.detection.mask_rcnn.model import MaskRCNN
from transnext.tasks.detection.mask_rcnn.roi_heads import BoxPredictor


def replace_classes(net: MaskRCNN, old_names: Sequence[str], new_names: Sequence[str]) -> list[str]:
    """Gives a network other classes, in place: those it knows by name keep their weights, others begin anew.

    What is not of a class, the background too, stays as it was trained.

    Args:
        net: The network.
        old_names: Of its classes, in order.
        new_names: Of the classes that it is to have, in order; upper and lower case are the same.

    Returns:
        The new names that it knew.

    Raises:
        ValueError: The old names are not as many as its classes, or there are no new ones.
    """
    if len(old_names) != net.num_classes:
        raise ValueError(f"{len(old_names)} names for the {net.num_classes} classes of the network: name each")
    if not new_names:
        raise ValueError("no new classes are named: a detector needs one class at least")
    kept = kept_places(old_names, new_names)
    known = list(kept)
    sources = list(kept.values())

    heads = net.roi_heads
    old = heads.box_predictor
    new = BoxPredictor(old.cls_score.in_features, len(new_names)).to(old.cls_score.weight)
    normal(new.cls_score, 0.01)
    normal(new.bbox_pred, 0.001)
    _copy(old.cls_score, new.cls_score, [*sources, len(old_names)], [*known, len(new_names)])
    _copy(old.bbox_pred, new.bbox_pred, _rows_of_boxes(sources), _rows_of_boxes(known))
    heads.box_predictor = new
    if heads.mask_predictor is not None:
        outlines: nn.Conv2d = heads.mask_predictor.mask_fcn_logits
        fresh = nn.Conv2d(outlines.in_channels, len(new_names), 1).to(outlines.weight)
        kaiming(fresh)
        _copy(outlines, fresh, sources, known)
        heads.mask_predictor.mask_fcn_logits = fresh
    net.num_classes = len(new_names)
    return [new_names[number] for number in known]


def _rows_of_boxes(classes: Sequence[int]) -> list[int]:
    return [4 * number + side for number in classes for side in range(4)]


@torch.no_grad()
def _copy(old: nn.Linear | nn.Conv2d, new: nn.Linear | nn.Conv2d, sources: list[int], rows: list[int]) -> None:
    for before, after in ((old.weight, new.weight), (old.bias, new.bias)):
        assert isinstance(before, Tensor)
        assert isinstance(after, Tensor)
        after[rows] = before[sources]
