"""Answer of a detector about a picture: a `supervision.Detections` that knows its picture."""

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import supervision as sv
import torch
from supervision.detection.compact_mask import CompactMask

from transnext.data import Frame
from transnext.data.mask_parts import Part
from transnext.data.names import printable
from transnext.limits import check_number
from transnext.tasks.detection.net import Found
from transnext.tasks.detection.placing import outlines, placed_boxes

CLASS_NAME = "class_name"
"""Entry of `data` that holds the names of the classes, where supervision looks for them."""


@dataclass(eq=False, repr=False)
class ObjectsFound(sv.Detections):
    """Objects found in a picture, likeliest first, in pixels of the upright picture.

    Whatever takes `supervision.Detections` takes it: annotators, zones, trackers. The names of the classes are
    `data["class_name"]`. Masks are a `CompactMask`, as a hundred of a large picture would fill a gigabyte:
    `found.mask[i]` is bool `[H, W]`, `np.asarray(found.mask)` bool `[N, H, W]`.

    Attributes:
        name: Path or address of the picture, or "image" and its place in the call; of a video its path.
        size: `(H, W)` of the picture, pixels.
        frame: Place of the picture in a video, from 0; None of a picture by itself.
        time: When that frame is shown, seconds from the start; None of a picture by itself.
    """

    name: str = ""
    size: tuple[int, int] = (0, 0)
    frame: int | None = None
    time: float | None = None

    @property
    def class_names(self) -> list[str]:
        """The class of each object."""
        return [str(name) for name in self.data.get(CLASS_NAME, ())]

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """float32 `[N]`, 0..1; 1 where there are none, as in annotations."""
        if self.confidence is None:
            return np.ones(len(self), np.float32)
        return self.confidence.astype(np.float32)

    def select(self, index: Any) -> "ObjectsFound":
        """The objects at an index, slice, list of indices or bool mask, as `found[index]`."""
        part = super().select(index)
        return ObjectsFound(**vars(part), name=self.name, size=self.size, frame=self.frame, time=self.time)

    def outlines(self) -> list[list[npt.NDArray[np.float32]]]:
        """Polygons of each object, float32 `[points, 2]`: x, y, pixels; holes are filled, an empty mask has none.

        They run half-way between pixels of the object and others, so that the pixels whose centres lie within are those
        of the mask.
        """
        return [_polygons(part) for part in crops(self)]

    def text(self) -> str:
        """Number of objects of each class, the most first, with the best score of each."""
        if not len(self):
            return "nothing found"
        counts = Counter(self.class_names)
        best: dict[str, float] = {}
        for name, score in zip(self.class_names, self.scores.tolist(), strict=True):
            best[name] = max(best.get(name, 0.0), score)
        return ", ".join(f"{count} {printable(name)} ({best[name]:.0%})" for name, count in counts.most_common())

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the picture, and of each object class, score, box (x0, y0, x1, y1), outlines where there are
        masks (lists of x, y), and track where it was followed.
        """
        objects: list[dict[str, Any]] = [
            {"class": name, "score": short(score), "box": [short(value) for value in box]}
            for name, score, box in zip(self.class_names, self.scores, self.xyxy, strict=True)
        ]
        if self.mask is not None:
            for row, polygons in zip(objects, self.outlines(), strict=True):
                row["outlines"] = [polygon.tolist() for polygon in polygons]
        if self.tracker_id is not None:
            for row, track in zip(objects, self.tracker_id.tolist(), strict=True):
                row["track"] = track if track >= 0 else None
        moment = {} if self.frame is None else {"frame": self.frame, "time": self.time}
        return {"image": self.name, "size": list(self.size), **moment, "objects": objects}


def class_places(classes: Sequence[str], keep: Collection[str]) -> list[int]:
    """Places of classes by name.

    Args:
        classes: All that the model knows.
        keep: Those that are asked for.

    Raises:
        ValueError: The model does not know one.
    """
    places = {name: place for place, name in enumerate(classes)}
    for name in keep:
        if name not in places:
            folded = {other.casefold(): other for other in classes}
            near = difflib.get_close_matches(name.casefold(), folded, 1)
            some = ", ".join(map(repr, classes[:10])) + (" ..." if len(classes) > 10 else "")
            hint = f"did you mean {folded[near[0]]!r}?" if near else f"it knows {some}"
            raise ValueError(f"the model knows no class {name!r}: {hint}")
    return [places[name] for name in keep]


def objects(
    found: Found,
    frame: Frame,
    name: str,
    classes: Sequence[str],
    *,
    threshold: float = 0.0,
    keep_classes: Collection[str] | None = None,
    with_masks: bool = True,
    canvas: tuple[int, int] | None = None,
) -> ObjectsFound:
    """Turns findings of a network into the answer for a picture.

    Objects that lie beyond the picture, as padding may seem to hold some, are left out.

    Args:
        found: In pixels of the input.
        frame: How the input relates to the picture: moved and scaled, not turned.
        name: What to call the picture.
        classes: Names of all classes.
        threshold: Least score, 0..1.
        keep_classes: Names of the classes that are asked for; None for all.
        with_masks: Give masks where the network tells outlines.
        canvas: `(H, W)` of the input with its padding, pixels, for masks that lie over it.

    Raises:
        ValueError: The model knows no such class, or its outputs are not finite.
    """
    check_number("threshold", threshold, 0, 1)
    scores, labels = found.scores.float().cpu(), found.labels.cpu()
    if not (torch.isfinite(scores).all() and torch.isfinite(found.boxes).all()):
        raise ValueError(f"what the model says of {printable(name)} is not finite: its weights are not usable")
    height, width = frame.original
    limits = torch.tensor([width, height] * 2, dtype=torch.float32)
    visible = placed_boxes(found, frame).clamp(min=torch.zeros(()), max=limits)
    kept = (scores >= threshold) & (visible[:, 2:] > visible[:, :2]).all(1)
    if keep_classes is not None:
        kept &= torch.isin(labels, torch.tensor(class_places(classes, keep_classes), dtype=labels.dtype))
    mask = None
    if with_masks and found.masks is not None:
        if found.masks_of == "canvas" and canvas is None:
            raise ValueError("masks over the canvas need its size")
        size = _size_of_input(frame)
        mask = _compact(outlines(found.take(kept), frame, size, canvas or size), frame.original)
    ids = labels[kept].numpy().astype(np.int64)
    return ObjectsFound(
        xyxy=visible[kept].numpy(),
        mask=mask,
        confidence=scores[kept].numpy(),
        class_id=ids,
        data={CLASS_NAME: np.array([classes[i] for i in ids], dtype=None if len(ids) else np.str_)},
        name=name,
        size=frame.original,
    )


def crops(found: sv.Detections) -> Iterator[Part]:
    """The mask of each object without most of what is not object.

    Args:
        found: Objects with masks, `CompactMask` or dense; none are given of objects without.
    """
    mask = found.mask
    if isinstance(mask, CompactMask):
        for place, (x, y) in enumerate(mask.offsets.tolist()):
            yield Part(mask.crop(place), x, y)
    elif mask is not None:
        for dense in mask:
            yield Part(np.asarray(dense, dtype=bool), 0, 0)


def short(value: np.floating) -> float:
    """A float32 as the float of the fewest digits that is the same float32."""
    return float(np.format_float_positional(np.float32(value), unique=True))


def _size_of_input(frame: Frame) -> tuple[int, int]:
    """Rows and columns of an input that ends where its picture does."""
    (scale_x, _, x), (_, scale_y, y) = frame.to_original.tolist()
    height, width = frame.original
    return max(1, round((height - y) / scale_y)), max(1, round((width - x) / scale_x))


def _compact(parts: Iterable[Part], size: tuple[int, int]) -> CompactMask:
    """Masks of a picture of `(H, W)` pixels, in memory that follows the objects."""
    masks = [CompactMask([], np.empty((0, 2), np.int32), np.empty((0, 2), np.int32), size)]
    for pixels, x, y in parts:
        height, width = pixels.shape
        # Its coordinates name the last pixel, not the end.
        own = CompactMask.from_dense(pixels[None], np.array([[0, 0, width - 1, height - 1]]), pixels.shape)
        masks.append(own.with_offset(x, y, size))
    return CompactMask.merge(masks)


def _polygons(part: Part) -> list[npt.NDArray[np.float32]]:
    """Outer outlines of a mask, without points on straight lines."""
    import contourpy  # comes with matplotlib

    if not part.pixels.any():
        return []
    generator = contourpy.contour_generator(z=np.pad(part.pixels, 1).astype(np.float32), fill_type="OuterOffset")
    polygons = []
    for points, offsets in zip(*cast(tuple[list[Any], list[Any]], generator.filled(0.5, 2.0)), strict=True):
        outer = points[: offsets[1] - 1]  # it ends where it began, and holes follow
        before, after = outer - np.roll(outer, 1, 0), np.roll(outer, -1, 0) - outer
        corners = outer[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
        # Pixel (0, 0) is point (1, 1) there, and its centre is at (.5, .5) of the picture.
        polygons.append((corners + np.array([part.x - 0.5, part.y - 0.5])).astype(np.float32))
    return polygons
