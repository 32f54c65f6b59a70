"""A page of training pictures as the network sees them, with their maps: to look at before training."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from transnext.data.preprocessing import picture
from transnext.data.sample import Batch
from transnext.data.segmentation.maps import class_counts
from transnext.tasks.class_colours import Colour
from transnext.tasks.preview import Figure, images_of, write_page
from transnext.tasks.segmentation.draw import class_colours, objects_as_classes, overlaid
from transnext.tasks.segmentation.net import IGNORED

_NAMED = 6
"""Classes in a caption, at most."""


def preview_page(
    batches: Iterable[Batch], classes: Sequence[str], path: str | Path, colours: Sequence[Colour] | None = None
) -> int:
    """Writes one page, complete in itself, of augmented training pictures with their maps over them.

    Args:
        batches: Training batches, whose targets are maps of classes or segments; as many are drawn as the page has room
            for.
        classes: Names, by value.
        path: The HTML file.
        colours: Of the classes; of our own by default.

    Returns:
        How many pictures are on it.

    Raises:
        ValueError: No picture could be read.
        OSError: The page cannot be written.
    """
    table = class_colours(len(classes), colours)
    skipped: list[tuple[str, str]] = []
    figures = (
        _figure(image, labels[: image.shape[1], : image.shape[2]].numpy(), classes, table)
        for image, labels in images_of(batches, list, skipped)
    )
    return write_page(figures, skipped, "with the classes of their pixels; what is ignored is not coloured", path)


def _figure(image: Tensor, labels: np.ndarray, classes: Sequence[str], colours: np.ndarray) -> Figure:
    if labels.dtype == np.int32:
        labels, classes, colours = objects_as_classes(labels, classes, colours)
    counts = class_counts(labels)
    order = [place for place in np.argsort(-counts, kind="stable").tolist() if counts[place] and place != IGNORED]
    named = [f"{classes[place]} {counts[place] / labels.size:.0%}" for place in order[:_NAMED]]
    if counts[IGNORED]:
        named.append(f"ignored {counts[IGNORED] / labels.size:.0%}")
    return Figure(overlaid(picture(image), labels, colours), ", ".join(named))
