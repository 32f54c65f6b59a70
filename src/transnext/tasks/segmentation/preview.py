"""A page of training pictures as the network sees them, with their maps: to look at before training."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from transnext.data.preprocessing import picture
from transnext.data.sample import Batch
from transnext.data.segmentation.maps import SEGMENT
from transnext.tasks.class_colours import Colour, colour_of
from transnext.tasks.preview import Figure, images_of, write_page
from transnext.tasks.segmentation.draw import class_colours, overlaid
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
        labels, classes, colours = _objects_as_classes(labels, classes, colours)
    counts = np.bincount(labels.reshape(-1), minlength=256)
    order = [place for place in np.argsort(-counts, kind="stable").tolist() if counts[place] and place != IGNORED]
    named = [f"{classes[place]} {counts[place] / labels.size:.0%}" for place in order[:_NAMED]]
    if counts[IGNORED]:
        named.append(f"ignored {counts[IGNORED] / labels.size:.0%}")
    return Figure(overlaid(picture(image), labels, colours), ", ".join(named))


def _objects_as_classes(
    segments: np.ndarray, classes: Sequence[str], colours: np.ndarray
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """A map of segments as one of classes, in which each object has a name and a colour of its own."""
    codes = np.unique(segments[segments != IGNORED])[:IGNORED]  # no picture has colours for more
    labels = np.searchsorted(codes, segments).clip(0, max(0, len(codes) - 1))
    known = np.isin(segments, codes)
    names, table = [], []
    count: Counter[int] = Counter()
    for code in codes.tolist():
        number, label = divmod(code, SEGMENT)
        count[label] += 1
        names.append(f"{classes[label]} {count[label]}" if number else classes[label])
        table.append(colour_of(len(classes) + len(names)) if number else tuple(colours[label]))
    return np.where(known, labels, IGNORED).astype(np.uint8), names, np.array(table, np.uint8).reshape(-1, 3)
