"""Classes of a data set as those of a classifier, by their names."""

from collections import Counter
from collections.abc import Sequence

from timm.data import ImageNetInfo

from transnext.data import AlignedImages, ImageSource
from transnext.data.class_names import folded, places_by_name
from transnext.data.imagenet import wnids

_LISTED = 5
_ENOUGH_SAME = 0.95


def imagenet_descriptions() -> list[str]:
    """The names of the 1,000 classes of ImageNet, as released weights have them."""
    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(i) for i in range(1000)]


def namings(ours: Sequence[str]) -> list[Sequence[str]]:
    """Names by which classes may be known: their own and, for those of ImageNet-1K, WordNet identifiers or numbers."""
    if ours not in (imagenet_descriptions(), list(wnids())):
        return [ours]
    return [ours, wnids(), [str(i) for i in range(len(ours))]]


def aligned(source: ImageSource, ours: Sequence[str], data: str, model: str) -> ImageSource:
    """A source with the classes of a classifier.

    Args:
        source: Its classes may be some of the classifier's, in any order.
        ours: The classes of the classifier.
        data: What to call the source in a message.
        model: What to call the classifier in a message.

    Raises:
        ValueError: It has a class that the classifier lacks.
    """
    theirs = list(source.classes)
    if list(ours) == theirs:
        return source
    ways = namings(ours)
    for names in ways:
        count = Counter(names)  # two classes of ImageNet may share a name
        place = {name: i for i, name in enumerate(names) if count[name] == 1}
        if set(theirs) <= place.keys():
            return AlignedImages(source, ours, [place[name] for name in theirs])
    matched = places_by_name(theirs, ours)
    folded_count = Counter(map(folded, ours))
    if len(matched) == len(theirs) and all(folded_count[folded(name)] == 1 for name in theirs):
        return AlignedImages(source, ours, [matched[i] for i in range(len(theirs))])
    same = sum(a == b for a, b in zip(ours, theirs, strict=False))
    # Descriptions of the classes of ImageNet differ in a few words from one publisher to another.
    if len(ways) > 1 and len(theirs) == len(ours) and same >= _ENOUGH_SAME * len(ours):
        return AlignedImages(source, ours, range(len(ours)))
    extra = [name for name in theirs if not any(name in names for names in ways)] or theirs
    raise ValueError(
        f"{data} has {_listing(extra)}, but {model} has no such class: its {len(ours)} classes are {_listing(ours)}"
    )


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(repr(name) for name in names[:_LISTED]) + more
