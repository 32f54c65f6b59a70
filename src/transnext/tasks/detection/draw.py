"""Pictures of what was found: boxes, outlines and names, readable at any size."""

import numpy as np
import numpy.typing as npt
import supervision as sv
from PIL import Image, ImageDraw

from transnext.data.names import printable
from transnext.tasks.class_colours import Colour, colour_of, font_for
from transnext.tasks.detection.answers import CLASS_NAME, crops

_OPACITY = 0.4
"""Of the colour on the pixels of an object."""


def draw(
    picture: Image.Image | npt.NDArray[np.uint8],
    found: sv.Detections,
    *,
    scores: bool = True,
    names: bool = True,
    scale: float = 1.0,
    least_side: int = 480,
) -> Image.Image:
    """A copy of a picture with what was found in it.

    Lines and letters grow with the picture. Small objects lie over large ones, names over all, where they hide few
    others.

    Args:
        picture: RGB, an image or uint8 `[H, W, 3]`.
        found: Objects in its pixels.
        scores: Write scores beside the names.
        names: Write the names of the classes, and the track of each object where there is one.
        scale: Factor for lines and letters.
        least_side: A picture whose longer side is smaller, pixels, is enlarged by a whole number.

    Raises:
        ValueError: Masks are those of a picture of another size.
    """
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture.convert("RGB")
    width, height = image.size
    if found.mask is not None and tuple(found.mask.shape[1:]) != (height, width):
        raise ValueError(
            f"masks of {found.mask.shape[2]}x{found.mask.shape[1]} pixels on a picture of {width}x{height}"
        )
    order = np.argsort(found.box_area, kind="stable")[::-1].tolist()
    colours = [colour_of(int(place)) for place in (found.class_id if found.class_id is not None else [0] * len(found))]
    image = _overlaid(image, found, order, colours)
    times = max(1, -(-least_side // max(width, height)))
    width, height = width * times, height * times
    if times > 1:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    boxes = (found.xyxy.astype(np.float64) * times).tolist()
    line = max(1, round(scale * (width * height) ** 0.5 / 320))
    canvas = ImageDraw.Draw(image)
    for i in order:
        x0, y0, x1, y1 = boxes[i]
        # Whole pixels within the picture: a line along its edge would lie half beyond.
        corner = (min(max(0, round(x0)), width - 1), min(max(0, round(y0)), height - 1))
        end = (min(max(corner[0], round(x1) - 1), width - 1), min(max(corner[1], round(y1) - 1), height - 1))
        canvas.rectangle((*corner, *end), outline=colours[i], width=min(line, 1 + (end[0] - corner[0]) // 4))
    if names:
        size = max(9, round(scale * 5.5 * line + 4))
        labels = _Labels(canvas, image.size, size)
        for i in reversed(order):
            labels.add(_words(found, i, scores), boxes[i], colours[i])
    return image


def _overlaid(image: Image.Image, found: sv.Detections, order: list[int], colours: list[Colour]) -> Image.Image:
    """The picture with the pixels of each object tinted, their border stronger."""
    if found.mask is None:
        return image.copy()
    pixels = np.array(image)
    masks = list(crops(found))
    for i in order:
        mask, x, y = masks[i]
        if not mask.any():
            continue
        region = pixels[y : y + mask.shape[0], x : x + mask.shape[1]]
        inner = np.pad(mask, 1)
        border = mask & ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])
        colour = np.array(colours[i], np.float32)
        region[mask] = (region[mask] * (1 - _OPACITY) + colour * _OPACITY).astype(np.uint8)
        region[border] = colours[i]
    return Image.fromarray(pixels)


def _words(found: sv.Detections, i: int, scores: bool) -> str:
    names = found.data.get(CLASS_NAME)
    words = [] if names is None else [printable(str(names[i]))]
    if found.tracker_id is not None and found.tracker_id[i] >= 0:
        words.append(f"#{found.tracker_id[i]}")
    if scores and found.confidence is not None:
        words.append(f"{found.confidence[i]:.2f}")
    return " ".join(words)


class _Labels:
    """Words beside boxes.

    Args:
        canvas: What to write on.
        limits: `(W, H)` of the picture.
        size: Of letters, pixels.
    """

    def __init__(self, canvas: ImageDraw.ImageDraw, limits: tuple[int, int], size: int) -> None:
        self.canvas = canvas
        self.limits = limits
        self.size = size
        self.taken = np.zeros((0, 4))

    def add(self, text: str, box: list[float], colour: Colour) -> None:
        """Writes words above a box, or at another of its edges where they hide less of those that are there."""
        if not text:
            return
        font = font_for(frozenset(text), self.size)
        left, _, right, _ = font.getbbox(text)
        pad = max(1, self.size // 8)
        ascent, descent = font.getmetrics()
        wide, high = round(right - left) + 2 * pad, ascent + descent + pad
        x0, y0, x1, y1 = (round(value) for value in box)
        places = np.array(
            [(x, y) for x in (x0, x1 - wide) for y in (y0 - high, y1, y0, y1 - high)]
            + [(min(max(0, x0), self.limits[0] - wide), min(max(0, y0), self.limits[1] - high))]
        )
        spots = np.concatenate([places, places + np.array([wide, high])], 1)
        x, y = places[int(np.argmin(self._hidden(spots)))].tolist()
        self.taken = np.concatenate([self.taken, [[x, y, x + wide, y + high]]])
        self.canvas.rectangle((x, y, x + wide, y + high), fill=colour)
        dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        self.canvas.text((x + pad - left, y + pad / 2), text, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)

    def _hidden(self, spots: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """How much of each spot would hide other words or lie beyond the picture, pixels."""
        taken = np.concatenate([self.taken, [[0, 0, *self.limits]]])
        sides = np.minimum(spots[:, None, 2:], taken[None, :, 2:]) - np.maximum(spots[:, None, :2], taken[None, :, :2])
        shared = np.maximum(sides, 0).prod(2)
        whole: npt.NDArray[np.float64] = (spots[:, 2:] - spots[:, :2]).prod(1)
        return shared[:, :-1].sum(1) + 2 * (whole - shared[:, -1])
