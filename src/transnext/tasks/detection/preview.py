"""A page of training pictures as the network sees them, with their objects: to look at before training."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from transnext.atomic import write_atomically
from transnext.data.instances import Instances
from transnext.data.preprocessing import picture
from transnext.data.sample import Batch
from transnext.report.page import SECURITY_POLICY
from transnext.report.style import STYLE
from transnext.report.text import count, escape
from transnext.version import __version__

MAX_IMAGES = 64
"""Most images on a page."""
_QUALITY = 85
_LARGER = (
    ".wall { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: .9rem; "
    "margin: 1.25rem 0 0; } .wall figure { margin: 0; padding: .6rem; background: var(--card); border: 1px solid "
    "var(--line); border-radius: .75rem; min-width: 0; } .wall img { display: block; width: 100%; height: auto; } "
    ".wall figcaption { margin-top: .4rem; font-size: .8125rem; color: var(--soft); overflow-wrap: anywhere; }"
)


def preview_page(batches: Iterable[Batch], classes: Sequence[str], path: str | Path) -> int:
    """Writes one page, complete in itself, of augmented training pictures.

    Args:
        batches: Training batches, whose targets are `InstanceBatch`es; as many are drawn as the page has room for.
        classes: Names, by label.
        path: The HTML file.

    Returns:
        How many pictures are on it.

    Raises:
        ValueError: No picture could be read.
        OSError: The page cannot be written.
    """
    figures: list[str] = []
    skipped: list[tuple[str, str]] = []
    for image, objects in _images(batches, skipped):
        figures.append(_figure(image, objects, classes))
        if len(figures) == MAX_IMAGES:
            break
    if not figures:
        reason = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise ValueError(f"there is no training picture to show{reason}")
    unread = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in skipped)
    title = "Training pictures"
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{SECURITY_POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<meta name="color-scheme" content="light dark"/><title>{title}</title><style>{STYLE}{_LARGER}</style></head>'
        f'<body><header><h1>{title}</h1><p class="summary">{count(len(figures), "picture")} as the network sees '
        f'them in training, with the objects it is to find.</p></header><main><div class="wall">{"".join(figures)}'
        f"</div>{f'<section><h2>Could not be read</h2><ul>{unread}</ul></section>' if unread else ''}</main>"
        f"<footer>Made by transnext {escape(__version__)}</footer></body></html>\n"
    )
    write_atomically(path, page)
    return len(figures)


def drawn(image: Tensor, objects: Instances, classes: Sequence[str]) -> Image.Image:
    """An image with the boxes, outlines and names of objects.

    Args:
        image: uint8 `[3, H, W]`.
        objects: In it, with masks of its size or larger if at all.
        classes: Names, by label.
    """
    canvas = picture(image)
    if objects.masks is not None:
        pixels = np.array(canvas)
        for mask, label in zip(objects.masks.numpy(), objects.labels.tolist(), strict=True):
            pixels[outline(mask[: canvas.height, : canvas.width])] = colour(label)
        canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    for box, label in zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True):
        x0, y0, x1, y1 = box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)
        draw.rectangle((x0, y0, x1, y1), outline=colour(label))
        name = classes[label]
        left, top, right, bottom = draw.textbbox((0, 0), name)
        width, height = right - left + 4, bottom - top + 4
        x, y = max(0, min(x0, canvas.width - width)), max(0, y0 - height)
        draw.rectangle((x, y, x + width, y + height), fill=colour(label))
        draw.text((x + 2 - left, y + 2 - top), name, fill=(0, 0, 0))
    return canvas


def colour(label: int) -> tuple[int, int, int]:
    """A bright colour for a class; neighbours in the list are far apart on the wheel."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1.0, 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def outline(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """The pixels of a mask `[H, W]` with a neighbour outside of it."""
    inner = np.pad(mask.astype(bool), 1)
    surrounded = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    return np.asarray(inner[1:-1, 1:-1] & ~surrounded)


def _images(batches: Iterable[Batch], skipped: list[tuple[str, str]]) -> Iterator[tuple[Tensor, Instances]]:
    """Images without their padding, and their objects; what could not be read is added to a list."""
    for batch in batches:
        skipped += batch.skipped
        if not len(batch.images):
            continue
        for image, (height, width), objects in zip(
            batch.images, batch.sizes.tolist(), batch.targets.split(), strict=True
        ):
            yield image[:, :height, :width], objects


def _figure(image: Tensor, objects: Instances, classes: Sequence[str]) -> str:
    shown = drawn(image, objects, classes)
    stream = io.BytesIO()
    shown.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    labels, counts = np.unique(objects.labels.numpy(), return_counts=True)
    named = ", ".join(f"{n} {escape(classes[label])}" for label, n in zip(labels, counts, strict=True))
    caption = f"{named or 'no objects'} · {shown.width} × {shown.height}"
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{named or "no objects"}" width="{shown.width}" '
        f'height="{shown.height}"/><figcaption>{caption}</figcaption></figure>'
    )
