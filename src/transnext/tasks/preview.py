"""A page of training pictures as the network sees them, to look at before training."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from transnext.atomic import write_atomically
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


class Figure(NamedTuple):
    """A training picture.

    Attributes:
        picture: With its target drawn into it.
        caption: What is in it.
    """

    picture: Image.Image
    caption: str


def images_of(
    batches: Iterable[Batch], divided: Callable[[Any], Sequence[Any]], skipped: list[tuple[str, str]]
) -> Iterator[tuple[Tensor, Any]]:
    """Images without their padding, and their targets.

    Args:
        batches: Training batches.
        divided: From the targets of a batch to those of its images.
        skipped: Takes what could not be read.

    Yields:
        uint8 `[3, h, w]`, and the target.
    """
    for batch in batches:
        skipped += batch.skipped
        if not len(batch.images):
            continue
        for image, (height, width), target in zip(
            batch.images, batch.sizes.tolist(), divided(batch.targets), strict=True
        ):
            yield image[:, :height, :width], target


def write_page(figures: Iterable[Figure], skipped: Sequence[tuple[str, str]], lead: str, path: str | Path) -> int:
    """Writes one page, complete in itself, of augmented training pictures.

    Args:
        figures: As many are taken as the page has room for.
        skipped: What could not be read meanwhile.
        lead: What is drawn into them, in words.
        path: The HTML file.

    Returns:
        How many pictures are on it.

    Raises:
        ValueError: No picture could be read.
        OSError: The page cannot be written.
    """
    shown: list[str] = []
    for figure in figures:
        shown.append(_html(figure))
        if len(shown) == MAX_IMAGES:
            break
    if not shown:
        reason = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise ValueError(f"there is no training picture to show{reason}")
    unread = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in skipped)
    title = "Training pictures"
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{SECURITY_POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<meta name="color-scheme" content="light dark"/><title>{title}</title><style>{STYLE}{_LARGER}</style></head>'
        f'<body><header><h1>{title}</h1><p class="summary">{count(len(shown), "picture")} as the network sees '
        f'them in training, {escape(lead)}.</p></header><main><div class="wall">{"".join(shown)}'
        f"</div>{f'<section><h2>Could not be read</h2><ul>{unread}</ul></section>' if unread else ''}</main>"
        f"<footer>Made by transnext {escape(__version__)}</footer></body></html>\n"
    )
    write_atomically(path, page)
    return len(shown)


def _html(figure: Figure) -> str:
    stream = io.BytesIO()
    picture = figure.picture
    picture.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    caption = escape(figure.caption)
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{caption}" width="{picture.width}" '
        f'height="{picture.height}"/><figcaption>{caption} · {picture.width} × {picture.height}</figcaption></figure>'
    )
