"""Figures to keep, as files in memory. They are drawn in the thread of `lane.py`."""

import io
from collections import OrderedDict
from typing import Any

import torch
from PIL import Image

from transnext.choices import Mode
from transnext.data import load_emoji, to_rgb
from transnext.explain.receptive_field import ReceptiveField, measure_receptive_field
from transnext.predict import asked_about
from transnext.tasks.task import Loaded
from transnext.web.server.models import Model, Seen
from transnext.web.server.regions import Region

TYPES = {"png": "image/png", "svg": "image/svg+xml"}
"""Formats, and what browsers call them."""
DRAWINGS = 8
"""Images that a receptive field is the mean of."""
_KEPT = 32


class Fields:
    """Receptive fields of models, measured once for each size and mode."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, tuple[int, ...], Mode | None], ReceptiveField] = OrderedDict()

    def of(self, model: Model, loaded: Loaded, mode: Mode | None) -> ReceptiveField:
        """The receptive field of a model.

        Args:
            model: The model.
            loaded: What `Model.sized` gave.
            mode: What `Model.known_mode` gave.

        Raises:
            ValueError: The model cannot be taken apart.
        """
        key = (model.name, loaded.preprocessing.input_size, mode)
        if key not in self._kept:
            self._kept[key] = _measured(model, loaded, mode)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def numbers(field: ReceptiveField) -> dict[str, Any]:
    """A receptive field in a few numbers, plain values; the artefact is None where the map has no room for one."""
    height, width = field.energy.shape
    return {
        "caption": field.caption(),
        "width": width,
        "height": height,
        "stride": field.stride,
        "artefact": field.artefact if field.has_room else None,
        "half": field.side(0.5),
        "most": field.side(0.95),
    }


def attention(
    seen: Seen,
    stage: int,
    block: int,
    pixel: tuple[int, int],
    head: int | None,
    kind: str,
    number: int | None = None,
) -> bytes:
    """A file of the figure of where a pixel of an image looked, or all pixels of an object of the answer.

    Args:
        seen: The image.
        stage: Of the block.
        block: Within the stage.
        pixel: Row and column in what was shown.
        head: Which; the mean over all if None.
        kind: Of `TYPES`.
        number: Of the object or class, from 0; None for the pixel.

    Raises:
        ValueError: There is no such block, head, pixel or object.
    """
    from transnext.explain.figures import attention_figure  # imports matplotlib

    if seen.looked is None:
        raise ValueError(f"{seen.model.name} does not give its attention")
    if not all(at < size for at, size in zip(pixel, seen.size, strict=True)):
        raise ValueError(f"the pixel is {pixel}, but the image has {seen.size[0]} rows and {seen.size[1]} columns")
    heads = seen.looked.kept(stage, block).place.heads
    if head is not None and head >= heads:
        raise ValueError(f"head is {head}: expected 0 to {heads - 1}")
    canvas = seen.looked.image_size
    position = ((pixel[0] + 0.5) / canvas[0], (pixel[1] + 0.5) / canvas[1])
    shown: Image.Image = Image.open(io.BytesIO(seen.shown))
    if shown.size != (canvas[1], canvas[0]):  # padded for the network
        padded = Image.new("RGB", (canvas[1], canvas[0]))
        padded.paste(shown)
        shown = padded
    with seen.model.in_mode(seen.mode):
        region: Region = {} if number is None else seen.regions.of(number, canvas)
        figure = attention_figure(shown, seen.looked, position, stage=stage, block=block, head=head, **region)
    return _file(figure, kind)


def receptive_field(field: ReceptiveField, kind: str, text: str | None = None, back: str | None = None) -> bytes:
    """A file of the figure of a receptive field, with text and a background of these colours, else dark on white."""
    from transnext.explain.figures import TEXT, receptive_field_figure  # imports matplotlib

    figure = receptive_field_figure([field], text or TEXT)
    figure.set_facecolor(back or "white")
    return _file(figure, kind)


def _measured(model: Model, loaded: Loaded, mode: Mode | None) -> ReceptiveField:
    emoji = load_emoji()
    step = len(emoji) // DRAWINGS
    net = loaded.model if model.net is None else model.net

    def batches() -> Any:
        for number in range(DRAWINGS):
            picture = to_rgb(Image.fromarray(emoji.images[number * step]))
            sample = loaded.task.sample(picture, loaded.preprocessing, 0)
            yield asked_about(loaded, ["drawing"], [picture], [sample], model.device).inputs

    with model.in_mode(mode), torch.inference_mode(False):
        return measure_receptive_field(
            net, batches(), name=model.name, weights="trained weights", images=f"{DRAWINGS} drawings"
        )


def _file(figure: Any, kind: str) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind)
    return stream.getvalue()
