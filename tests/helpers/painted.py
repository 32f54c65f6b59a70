"""Pictures on which every object has a colour of its own, by which it is found wherever it was moved to."""

import colorsys

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from transnext.data.images import UnreadableImage
from transnext.data.instances import Annotation

GROUND = (0, 0, 0)


def colour(i):
    """A colour far from that of other objects and from the grounds."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(i / 6, 1, 1))


def painted(size, boxes, *, crowd=(), round_ones=(), masks=True):
    """A picture and its annotation; box `i` has colour and label `i`, ellipses are `round_ones`, none overlap."""
    h, w = size
    pixels = np.full((h, w, 3), GROUND, np.uint8)
    outlines = np.zeros((len(boxes), h, w), np.uint8)
    rows, columns = np.mgrid[:h, :w] + 0.5
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        inside = (columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)
        if i in round_ones:
            inside &= ((2 * columns - x0 - x1) / (x1 - x0)) ** 2 + ((2 * rows - y0 - y1) / (y1 - y0)) ** 2 <= 1
        outlines[i] = inside
        pixels[inside] = colour(i)
    return Image.fromarray(pixels), Annotation(
        size=size,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(len(boxes), dtype=np.int64),
        crowd=np.isin(np.arange(len(boxes)), crowd),
        areas=outlines.sum((1, 2)).astype(np.float32),
        segmentations=tuple(run_lengths.encode(np.asfortranarray(o)) for o in outlines) if masks else None,
    )


def random_painting(seed, masks=True, most=6):
    """A picture with up to six objects that do not touch one another: without masks rectangles alone."""
    rng = np.random.default_rng(seed)
    h, w = rng.integers(60, 200, 2).tolist()
    cells = rng.permutation(6)[: rng.integers(0, most + 1)]
    boxes = []
    for cell in cells.tolist():
        left, top = cell % 3 * (w // 3), cell // 3 * (h // 2)
        x0, y0 = left + rng.integers(1, w // 9), top + rng.integers(1, h // 6)
        x1, y1 = rng.integers(x0 + 8, left + w // 3), rng.integers(y0 + 8, top + h // 2)
        boxes.append((int(x0), int(y0), int(x1), int(y1)))
    round_ones = set(rng.integers(0, 6, 3).tolist()) if masks else ()
    return painted((h, w), boxes, round_ones=round_ones, masks=masks)


class Paintings:
    """A source of such pictures."""

    def __init__(self, paintings, broken=()):
        self.paintings, self.broken = list(paintings), broken

    def __len__(self):
        return len(self.paintings)

    def load(self, index, min_side=None):
        if index in self.broken:
            raise UnreadableImage(str(index), "it is broken")
        picture = self.paintings[index][0]
        factor = 1 if min_side is None else max(1, min(picture.size) // min_side)
        return picture.reduce(factor)

    def target(self, index):
        return self.paintings[index][1]

    def name(self, index):
        return f"painting {index}"


def where(pixels, i):
    """The pixels of object `i` of an image `[3, H, W]` with ordered channels: bool `[H, W]`."""
    pixels = np.asarray(pixels).astype(int)
    return np.abs(pixels - np.array(colour(i)).reshape(3, 1, 1)).max(0) < 100


def extent(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
