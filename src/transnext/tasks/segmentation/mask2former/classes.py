"""Other classes for a trained Mask2Former."""

from collections.abc import Sequence

import torch
from torch import nn

from transnext.data.class_names import kept_places
from transnext.tasks.segmentation.mask2former.model import Mask2Former, Mask2FormerNet
from transnext.tasks.segmentation.net import IGNORED


def replace_classes(net: Mask2FormerNet, old_names: Sequence[str], new_names: Sequence[str]) -> list[str]:
    """Gives a network other classes, in place: those it knows by name keep their weights, others begin anew.

    What is not of a class, that a query is of none too, stays as it was trained.

    Args:
        net: The network.
        old_names: Of its classes, in order.
        new_names: Of the classes that it is to have, in order; upper and lower case are the same.

    Returns:
        The new names that it knew.

    Raises:
        ValueError: The old names are not as many as its classes, or there are no new ones, or too many.
    """
    if len(old_names) != net.num_classes:
        raise ValueError(f"{len(old_names)} names for the {net.num_classes} classes of the network: name each")
    if not new_names:
        raise ValueError("no new classes are named: name at least one")
    if isinstance(net, Mask2Former) and len(new_names) > IGNORED:
        raise ValueError(f"{len(new_names)} new classes are named: maps of bytes hold {IGNORED} at most")
    kept = kept_places(old_names, new_names)
    known = list(kept)
    old = net.head.class_predictor
    new = nn.Linear(old.in_features, len(new_names) + 1).to(old.weight)
    to = [*known, len(new_names)]
    taken = [*kept.values(), len(old_names)]
    with torch.no_grad():
        new.weight[to] = old.weight[taken]
        new.bias[to] = old.bias[taken]
    net.head.class_predictor = new
    net.num_classes = len(new_names)
    return [new_names[number] for number in known]
