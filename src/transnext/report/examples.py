"""Predictions to look at: the image, what it is, what it was taken for, and where the model looked."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from transnext.explain.figures import on_white, overlay
from transnext.report.text import count, escape, percent

MAX_EXAMPLES = 48
"""Shown in all, shared evenly among the splits; keeps the page small."""
PIXELS = 2 * MAX_EXAMPLES * 224**2
"""Of all pictures: they have their own size, unless that makes the page too large."""
QUALITY = 82
CENTRE = (0.5, 0.5)

CAPTION = (
    "The picture on the right shows the attention of the last aggregated-attention stage from the centre of the image, "
    "the ring: a small window around it seen in full detail, and a pooled view of the whole image, under one softmax. "
    "Bright places get the most of that attention and dark ones the least, averaged over heads."
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prediction to show.

    Attributes:
        split: Split that the image belongs to.
        name: Path or name of the image.
        image: The image as the model saw it, RGB, cut and scaled but not normalised. It is shown at its own size if
            the page has room.
        target: Name of the true class.
        predicted: Name of the class of the highest probability.
        probability: That probability, 0..1.
        heat: Where the model looks from the image centre, `[H, W]`, 0..1, as `transnext.explain.where_it_looks` gives
            it; None to show the image alone.
    """

    split: str
    name: str
    image: Image.Image
    target: str
    predicted: str
    probability: float
    heat: np.ndarray | None


def examples_section(examples: Sequence[Example]) -> str:
    """The examples by split, mistakes first."""
    if not examples:
        return '<p class="note">No predictions were kept for this page.</p>'
    by_split: dict[str, list[Example]] = {}
    for example in examples:
        by_split.setdefault(example.split, []).append(example)
    limit = max(1, MAX_EXAMPLES // len(by_split))
    parts = [f'<p class="lead">{CAPTION}</p>'] if any(e.heat is not None for e in examples) else []
    by_split = {split: _balanced(group, limit) for split, group in by_split.items()}
    pictures = sum(1 if e.heat is None else 2 for group in by_split.values() for e in group)
    side = math.isqrt(PIXELS // pictures)
    for split, group in by_split.items():
        size = "cards" if any(e.heat is not None for e in group) else "cards small"
        wrong = sum(e.target != e.predicted for e in group)
        parts.append(
            f"<h3>{escape(split)} <small>{count(len(group) - wrong)} right, {count(wrong)} wrong shown</small></h3>"
            f'<ul class="{size}">{"".join(_card(example, side) for example in group)}</ul>'
        )
    return "".join(parts)


def _balanced(group: Sequence[Example], limit: int) -> list[Example]:
    """At most `limit` examples, wrong ones first; as many of each kind as there are, up to half."""
    wrong = [e for e in group if e.target != e.predicted]
    right = [e for e in group if e.target == e.predicted]
    num_wrong = min(len(wrong), max(limit // 2, limit - len(right)))
    return wrong[:num_wrong] + right[: limit - num_wrong]


def _card(example: Example, side: int) -> str:
    """An example, its pictures at most `side` pixels wide and high."""
    correct = example.target == example.predicted
    picture = on_white(example.image)
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    pictures = _img(picture, f"{example.name}, {example.target}")
    if example.heat is not None:
        where = overlay(picture, example.heat, position=CENTRE)
        pictures += _img(where, f"Where the model looks in {example.name}")
    verdict = "right" if correct else "wrong"
    target = "" if correct else f'<span class="target">is {escape(example.target)}</span>'
    return (
        f'<li class="card {verdict}"><div class="pictures">{pictures}</div><p>'
        f'<span class="mark"><span class="hidden">{verdict}: </span></span>'
        f"<b>{escape(example.predicted)}</b> <span>{percent(example.probability, 0)}</span>{target}</p>"
        f'<p class="name" title="{escape(example.name)}">{escape(example.name)}</p></li>'
    )


def _img(image: Image.Image, alt: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" width="{image.width}" height="{image.height}"/>'
    )
