"""Other classes for a trained DINO."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transnext.data.class_names import kept_places
from transnext.tasks.detection.dino.layers import class_head
from transnext.tasks.detection.dino.model import Dino


def replace_classes(net: Dino, old_names: Sequence[str], new_names: Sequence[str]) -> list[str]:
    """Gives a network other classes, in place; what it knows of those that it had, by name, it keeps.

    Args:
        net: The network.
        old_names: Its classes.
        new_names: Those that it is to have. Letters may differ in case.

    Returns:
        Those of the new names that it had; of the others the weights are new.

    Raises:
        ValueError: The old names are not as many as its classes, or there are no new ones.
    """
    if len(old_names) != net.num_classes:
        raise ValueError(f"{len(old_names)} names are given for the {net.num_classes} classes of the network")
    if not new_names:
        raise ValueError("there are no classes: a detector needs at least one")
    kept = kept_places(old_names, new_names)
    old = [kept.get(i, -1) for i in range(len(new_names))]
    width = net.label_embedding.embedding_dim
    with torch.no_grad():
        for i, head in enumerate(net.cls_branches):
            assert isinstance(head, nn.Linear)
            new_head = class_head(width, len(new_names)).to(head.weight)
            _copy_rows(head.weight, new_head.weight, old)
            _copy_rows(head.bias, new_head.bias, old)
            net.cls_branches[i] = new_head
        embedding = nn.Embedding(len(new_names), width).to(net.label_embedding.weight)
        _copy_rows(net.label_embedding.weight, embedding.weight, old)
        net.label_embedding = embedding
    net.num_classes = len(new_names)
    return [name for name, i in zip(new_names, old, strict=True) if i >= 0]


def _copy_rows(source: Tensor, target: Tensor, places: Sequence[int]) -> None:
    """Copies row `places[i]` of the source to row `i` of the target, if it is one."""
    for i, place in enumerate(places):
        if place >= 0:
            target[i] = source[place]
