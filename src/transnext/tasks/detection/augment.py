"""Random changes of training pictures and of the objects in them.

Everything is drawn from the generators of Python and PyTorch, which are set for each image: it is a function of the
image's seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from transnext.config import ImageConfig
from transnext.data.instances import Annotation, Instances
from transnext.data.joint import View, placed_size
from transnext.data.mask_parts import Part, decoded
from transnext.data.preprocessing import Preprocessing
from transnext.tasks.detection.config import DetectionConfig
from transnext.tasks.views import Region, inside, random_part, recoloured, size_of

MIN_SIDE = 1.0
"""Objects with a shorter side than this in the input are left out, pixels."""
_MIN_CROPPED = 16
_TILES_WITH_OBJECTS = 0.9
_ZOOM_OUT = 4.0
_IOU_CROP = 0.3

# DINO's training: short sides, and short sides of pictures from which crops of a side within these limits are taken
# first; all for a short side of 800 in evaluation.
_DINO_SIDES = tuple(side / 800 for side in range(480, 801, 32))
_DINO_SIDES_BEFORE_CROPS = tuple(side / 800 for side in (400, 500, 600))
_DINO_CROPS = (384 / 800, 600 / 800)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to pictures at random. All defaults together do nothing.

    Attributes:
        hflip: Probability that a picture is mirrored.
        tiles: Side of the square that is cut out first, pixels of the picture; None for all of it.
        dino: Scales and crops of DINO's training, in place of the three that follow.
        zoom_out: Probability that a picture is shown small, somewhere on a plain ground.
        iou_crop: Probability of a crop that keeps some object by a random share (Liu et al. 2016), if not zoomed out.
        jitter: Smallest and largest scale relative to that in evaluation, if neither; what exceeds the input is cut.
        colour: Strength of random brightness, contrast and saturation, 0..1.
        distort: Photometric distortion (Liu et al. 2016), in place of `colour`.
        visible: Objects of which less than this share is left are dropped.
        copy_paste: Probability that objects of another picture are pasted in, where there are masks.
    """

    hflip: float = 0.0
    tiles: int | None = None
    dino: bool = False
    zoom_out: float = 0.0
    iou_crop: float = 0.0
    jitter: tuple[float, float] = (1.0, 1.0)
    colour: float = 0.0
    distort: bool = False
    visible: float = 0.0
    copy_paste: float = 0.0

    @classmethod
    def of(cls, task: DetectionConfig, images: ImageConfig) -> Augmentation:
        """What the options of a training run ask for; without `color_jitter` or `hflip` no preset has these."""
        distort = task.color_jitter > 0
        presets = {
            "none": cls(),
            "light": cls(jitter=(0.8, 1.25), colour=task.color_jitter, visible=0.2),
            "released": {
                "mask_rcnn": cls(),
                "mask2former": cls(jitter=(0.1, 2.0)),
                "dino": cls(dino=True),
                "d_fine": cls(zoom_out=0.5, iou_crop=0.8, distort=distort, visible=0.2),
            }[task.detector],
            "strong": cls(zoom_out=0.2, iou_crop=0.3, jitter=(0.1, 2.0), distort=distort, visible=0.2, copy_paste=0.5),
        }
        given: dict[str, Any] = {"jitter": task.jitter, "copy_paste": task.copy_paste, "tiles": task.train_tiles}
        given = {name: value for name, value in given.items() if value is not None}
        hflip = 0.0 if task.augment == "none" else images.hflip
        return replace(presets[task.augment], hflip=hflip, **given)

    @property
    def zoom(self) -> float:
        """How many times larger than in evaluation a part of a picture may be shown."""
        return max(1.0, self.jitter[1], 1 / _IOU_CROP if self.iou_crop else 1, 1 / _DINO_CROPS[0] if self.dino else 1)

    def view(self, size: tuple[int, int], boxes: npt.NDArray[np.float32], preprocessing: Preprocessing) -> View:
        """A random view of a picture, no larger than the canvas.

        Args:
            size: `(H, W)` of the picture.
            boxes: `[N, 4]`: what should be in it.
            preprocessing: What inputs look like in evaluation.
        """
        region: Region = (0.0, 0.0, float(size[1]), float(size[0]))
        if self.tiles is not None:
            region = _tile(region, boxes, self.tiles)
        if self.dino:
            view = _dino(region, preprocessing)
        elif random.random() < self.zoom_out:
            view = _zoomed_out(region, preprocessing)
        elif random.random() < self.iou_crop:
            view = _jittered(_cropped(region, boxes), 1.0, preprocessing)
        else:
            view = _jittered(region, random.uniform(*self.jitter), preprocessing)
        return replace(view, mirrored=random.random() < self.hflip)

    def recoloured(self, image: Image.Image) -> Image.Image:
        """The image with random colours."""
        return recoloured(image, self.colour, self.distort)


def objects_in(view: View, annotation: Annotation, *, masks: bool, visible: float = 0.0) -> Instances:
    """The objects that a view shows; crowds and what is too small or nearly all cut off are left out.

    Boxes of objects that are cut off somewhere are those of what is left of their outlines, where there are masks.

    Args:
        view: What is shown.
        annotation: Objects of the picture.
        masks: Decode outlines, one at a time, so that no more of them are held than are shown.
        visible: Least share of an object that is to be left.

    Raises:
        ValueError: Masks are asked for and there are none.
    """
    whole = view.of_boxes(annotation.boxes)
    boxes = np.clip(whole, view.shown[:2] * 2, view.shown[2:] * 2)
    areas = _area(whole)
    kept = ~annotation.crowd & large_enough(boxes) & (_area(boxes) >= (0 if masks else visible) * areas)
    if not masks:
        return _instances(boxes[kept], annotation.labels[kept])
    cut = np.abs(whole - boxes).max(1, initial=0) > 0.5
    shown: list[npt.NDArray[np.uint8]] = []
    for i in np.flatnonzero(kept).tolist():
        outline = _outline(annotation, i)
        part = view.of_mask(outline, annotation.size)
        seen, whole_area = (np.count_nonzero(pixels) for pixels in (part.view(bool), outline.pixels))
        share = seen / max(1.0, whole_area * view.scales[0] * view.scales[1])
        kept[i] = seen > 0 and share >= visible
        if kept[i] and cut[i]:
            boxes[i] = box_of(part)
            kept[i] = large_enough(boxes[i])
        if kept[i]:
            shown.append(part)
    stacked = np.stack(shown) if shown else np.zeros((0, *view.size), np.uint8)
    return _instances(boxes[kept], annotation.labels[kept], stacked)


def large_enough(boxes: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Which boxes `[..., 4]` are of a size that can be found."""
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).min(-1) >= MIN_SIDE)


def box_of(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """x0, y0, x1, y1 of a mask `[H, W]` that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def _outline(annotation: Annotation, i: int) -> Part:
    """An object's mask.

    Raises:
        ValueError: There are boxes alone.
    """
    if annotation.segmentations is None:
        raise ValueError("there are boxes alone, no outlines: leave out --masks True")
    return decoded(annotation.segmentations[i]["counts"], annotation.size[0])


def _instances(
    boxes: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], masks: npt.NDArray[np.uint8] | None = None
) -> Instances:
    return Instances(
        boxes=torch.from_numpy(boxes.astype(np.float32)),
        labels=torch.from_numpy(labels.astype(np.int64)),
        masks=None if masks is None else torch.from_numpy(masks),
    )


def _area(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def _jittered(region: Region, scale: float, preprocessing: Preprocessing) -> View:
    """A part of a picture at a scale; where it exceeds the input, some part of it that does not."""
    size = size_of(region)
    height, width = placed_size(size, preprocessing)
    limit = (height, width) if preprocessing.crop_mode == "shortest" else preprocessing.input_size[1:]
    scaled = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    return random_part(region, scaled, limit)


def _zoomed_out(region: Region, preprocessing: Preprocessing) -> View:
    """A part of a picture somewhere on a larger ground, which has the size of the input."""
    whole = placed_size(size_of(region), preprocessing)
    canvas = whole if preprocessing.crop_mode == "shortest" else preprocessing.input_size[1:]
    share = 1 / random.uniform(1, _ZOOM_OUT)
    height, width = (max(1, int(side * share + 0.5)) for side in whole)
    left, top = random.randint(0, canvas[1] - width), random.randint(0, canvas[0] - height)
    return View(source=region, target=(left, top, width, height), size=canvas)


def _cropped(region: Region, boxes: npt.NDArray[np.float32]) -> Region:
    """A part of it that torchvision chooses, by how much it keeps of some object."""
    height, width = (int(side) for side in size_of(region))
    if not len(boxes) or min(height, width) < _MIN_CROPPED:
        return region
    offset = np.array([region[0], region[1]] * 2)
    objects = tv_tensors.BoundingBoxes(
        torch.from_numpy((boxes - offset).astype(np.float32)), format="XYXY", canvas_size=(height, width)
    )
    chosen = v2.RandomIoUCrop(min_scale=_IOU_CROP).make_params([objects])
    if not chosen:
        return region
    x0, y0 = region[0] + chosen["left"], region[1] + chosen["top"]
    return inside((x0, y0, x0 + chosen["width"], y0 + chosen["height"]), region)


def _tile(region: Region, boxes: npt.NDArray[np.float32], side: int) -> Region:
    """A square of the picture, as a rule one with the centre of some object in it."""
    height, width = (int(length) for length in size_of(region))
    w, h = min(side, width), min(side, height)
    lows, highs = np.zeros(2), np.array([width - w, height - h], np.float64)
    if len(boxes) and random.random() < _TILES_WITH_OBJECTS:
        x0, y0, x1, y1 = boxes[random.randrange(len(boxes))].astype(np.float64)
        centre = np.array([x0 + x1, y0 + y1]) / 2
        lows, highs = (np.clip(limit, 0, highs) for limit in (centre - [w, h], centre))
    left, top = (random.randint(int(low), int(high)) for low, high in zip(lows, highs, strict=True))
    return float(left), float(top), float(left + w), float(top + h)


def _dino(region: Region, preprocessing: Preprocessing) -> View:
    """Scales and crops of DINO's released training, in units of the size in evaluation."""
    if random.random() < 0.5:
        height, width = size_of(region)
        unit = min(preprocessing.input_size[1:])  # the short side in evaluation
        scale = random.choice(_DINO_SIDES_BEFORE_CROPS) * unit / min(height, width)
        h, w = (_crop_side(side * scale, unit) / scale for side in (height, width))
        x0, y0 = region[0] + random.uniform(0, width - w), region[1] + random.uniform(0, height - h)
        region = inside((x0, y0, x0 + w, y0 + h), region)
    height, width = placed_size(size_of(region), preprocessing, random.choice(_DINO_SIDES))
    return View(source=region, target=(0, 0, width, height), size=(height, width))


def _crop_side(side: float, unit: int) -> float:
    """Side of a random crop of a scaled picture, at most its own."""
    low, high = (min(limit * unit, side) for limit in _DINO_CROPS)
    return random.uniform(low, high)
