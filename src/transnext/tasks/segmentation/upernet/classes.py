"""Other classes for a trained UPerNet."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transnext.data.class_names import kept_places
from transnext.tasks.segmentation.losses import PixelLoss
from transnext.tasks.segmentation.net import IGNORED
from transnext.tasks.segmentation.upernet.layers import pixel_classifier
from transnext.tasks.segmentation.upernet.model import UPerNet


def replace_classes(net: UPerNet, old_names: Sequence[str], new_names: Sequence[str]) -> list[str]:
    """Gives a network other classes, in place: those it knows by name keep their weights, others begin anew.

    The loss stays what it was, but without weights of the old classes.

    Args:
        net: The network.
        old_names: Of its classes, in order.
        new_names: Of the classes that it is to have, in order; upper and lower case are the same.

    Returns:
        The new names that it knew.

    Raises:
        ValueError: The old names are not as many as its classes, or the new ones are too few or too many.
    """
    if len(old_names) != net.num_classes:
        raise ValueError(f"{len(old_names)} names for the {net.num_classes} classes of the network: name each")
    if not 2 <= len(new_names) <= IGNORED:
        raise ValueError(f"{len(new_names)} new classes are named: a segmenter takes 2 to {IGNORED}")
    kept = kept_places(old_names, new_names)
    known = list(kept)
    sources = list(kept.values())

    for head in (net.decode_head, net.auxiliary_head):
        if head is not None:
            old = head.classifier
            head.classifier = pixel_classifier(old.in_channels, len(new_names)).to(old.weight)
            _copy(old, head.classifier, sources, known)
    net.criterion = PixelLoss(**net.criterion.args() | {"class_weights": None})
    net.num_classes = len(new_names)
    return [new_names[number] for number in known]


@torch.no_grad()
def _copy(old: nn.Conv2d, new: nn.Conv2d, sources: list[int], rows: list[int]) -> None:
    for before, after in ((old.weight, new.weight), (old.bias, new.bias)):
        assert isinstance(before, Tensor)
        assert isinstance(after, Tensor)
        after[rows] = before[sources]
