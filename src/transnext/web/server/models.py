"""What a model says to the page: its answer about an image, and where each pixel looked.

All of this runs in the thread of `lane.py`, one call at a time.
"""

import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from transnext.choices import Mode
from transnext.data.preprocessing import picture as picture_of
from transnext.explain.attention import Looked, find_network, look
from transnext.explain.region import RegionAttention
from transnext.explain.weights import Attention
from transnext.loaded import load
from transnext.models.transnext import MODES, TransNeXt
from transnext.predict import asked_about
from transnext.tasks.task import Asked, Loaded
from transnext.web.server.regions import Regions, shown_mask

LARGEST = 1024
"""Side of the images that a model is asked about at most, pixels, unless its own is larger."""
STEP = 32
MOST_CLASSES = 10
MOST_OBJECTS = 100
WHOLE_ENTRIES = 1 << 22
"""Softmax weights of a block that are sent at once, 16 MB; of larger ones the page asks for single queries."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What is kept of an image.

    Attributes:
        model: Which model was asked.
        mode: In which mode; None for a model without.
        shown: What the network saw, RGB, as a PNG file.
        size: `(H, W)` of that.
        grid: `(h, w)` of the feature map of each stage; none for models whose attention is not shown.
        answer: Of the task, plain values.
        map: Colours of the classes of all pixels, as a PNG file; of segmentation alone.
        regions: Where the objects or classes of the answer are.
        looked: The network after it saw the image; None for models whose attention is not shown.
    """

    model: "Model"
    mode: Mode | None
    shown: bytes = field(repr=False)
    size: tuple[int, int]
    grid: list[tuple[int, int]]
    answer: dict[str, Any] = field(repr=False)
    map: bytes | None = field(repr=False)
    regions: Regions = field(repr=False)
    looked: Looked | None = field(repr=False)

    @property
    def num_bytes(self) -> int:
        """Bytes that it holds, with the keys that are made when a block is looked at."""
        held = len(self.shown) + len(self.map or b"") + self.regions.num_bytes
        if self.looked is None:
            return held
        for place in self.looked.blocks:
            x = self.looked.kept(place.stage, place.block).x
            held += x.numel() * x.element_size() + 4 * math.prod(place.keys) * x.shape[-1]
        return held


class Model:
    """A model of the page.

    Args:
        loaded: The model.
        name: What to call it.
    """

    def __init__(self, loaded: Loaded, name: str) -> None:
        self.loaded = loaded
        self.name = name
        self.net = _network(loaded)
        self.device = next((p.device for p in loaded.model.parameters()), torch.device("cpu"))
        self.sizes = None if self.net is None else _sizes(loaded)
        self.modes: list[Mode] = [] if self.net is None else _modes(self.net)
        if self.net is not None:
            self._own = (self.net.mode, self.net.bias_mode, self.net.fixed_pool_size)

    def describe(self, name: str) -> dict[str, Any]:
        """What the page must know of it; see `page/provider-ort.js`.

        Args:
            name: By which it is asked for.
        """
        blocks: list[dict[str, Any]] = []
        for stage, part in enumerate(() if self.net is None else self.net.stages):
            for place, block in enumerate(part.blocks):  # type: ignore[arg-type]
                blocks.append(
                    {
                        "stage": stage,
                        "block": place,
                        "stride": self.net.feature_info[stage]["reduction"],  # type: ignore[union-attr]
                        "heads": block.attn.num_heads,
                        "window": getattr(block.attn, "window_size", None),
                    }
                )
        return {
            "id": name,
            "name": self.name,
            "task": self.loaded.task.name,
            "classes": self.loaded.class_names,
            "sizes": self.sizes,
            "modes": self.modes,
            "blocks": blocks,
        }

    def sized(self, size: int | None) -> Loaded:
        """The model for images of a size.

        Args:
            size: Side, pixels; its own if None.

        Raises:
            ValueError: The model is not asked about images of that size.
        """
        if size is None:
            return self.loaded
        sizes = self.sizes
        if sizes is None:
            raise ValueError(f"{self.name} has images of one size: leave out the size")
        if not sizes["min"] <= size <= sizes["max"] or size % sizes["step"]:
            raise ValueError(
                f"size is {size}: expected {sizes['min']} to {sizes['max']} in steps of {sizes['step']} pixels"
            )
        return replace(self.loaded, preprocessing=self.loaded.preprocessing.resized(size))

    def known_mode(self, mode: str | None) -> Mode | None:
        """The mode of that name; the model's own if None.

        Raises:
            ValueError: The model has none of that name.
        """
        if mode is None:
            return self.modes[0] if self.modes else None
        for known in self.modes:
            if known == mode:
                return known
        raise ValueError(f"mode is {mode!r}: expected {' or '.join(map(repr, self.modes)) or 'none'}")

    def least_side(self, loaded: Loaded) -> int | None:
        """The shorter side below which a picture must not be shrunk when it is decoded; None for all of it."""
        return loaded.task.min_side(loaded.preprocessing)

    def see(self, loaded: Loaded, picture: Image.Image, mode: Mode | None) -> Seen:
        """Asks the model about a picture.

        Args:
            loaded: What `sized` gave.
            picture: RGB, upright.
            mode: What `known_mode` gave.

        Raises:
            ValueError: It cannot be asked about that picture.
        """
        task = loaded.task
        sample = task.sample(picture, loaded.preprocessing, 0)
        with torch.no_grad(), self.in_mode(mode):
            asked = asked_about(loaded, ["image"], [picture], [sample], self.device)
            ask = partial(_answer, loaded, asked)
            looked: Looked | None = None
            if self.net is None:
                found = ask()
            elif task.metadata.get("window"):  # it is asked in parts, and looked at as a whole
                found = ask()
                looked = look(self.net, asked.inputs, self.net.forward_features)
            else:
                looked = look(loaded.model, asked.inputs, lambda _: ask())
                found = looked.output
        if looked is not None:
            looked.output = None
        height, width = (int(n) for n in asked.sizes[0])
        answer, classes, regions = _for_page(found, asked, (height, width))
        grids = {} if looked is None else {place.stage: place.grid for place in looked.blocks}
        return Seen(
            model=self,
            mode=mode,
            shown=_png(picture_of(asked.images[0, :, :height, :width])),
            size=(height, width),
            grid=list(grids.values()),
            answer=answer,
            map=classes,
            regions=regions,
            looked=looked,
        )

    @contextmanager
    def in_mode(self, mode: Mode | None) -> Iterator[None]:
        """The network in a mode; afterwards in its own again."""
        if self.net is None or mode is None or mode == self._own[0]:
            yield
            return
        try:
            self.net.mode = mode
            yield
        finally:
            _, self.net.bias_mode, self.net.fixed_pool_size = self._own


def open_models(names: Sequence[str | Path], *, device: str | torch.device = "cpu") -> dict[str, Model]:
    """Loads the models of a page.

    Args:
        names: What `transnext.loaded.load` takes.
        device: Where to compute.

    Returns:
        The models by the names that the page asks for them by.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: One cannot be read or asked, or is named twice.
    """
    found: dict[str, Model] = {}
    for name in names:
        title = _title(name)
        key, number = title, 2
        while key in found:
            key, number = f"{title} ({number})", number + 1
        found[key] = Model(load(name, device=device), key)
    return found


def whole(seen: Seen, stage: int, block: int) -> Attention | None:
    """Attention of all queries of a block; None if it is too much to send.

    Raises:
        ValueError: There is no such block, or the model does not show its attention.
    """
    looked = _looked(seen)
    place = looked.kept(stage, block).place
    if place.heads * math.prod(place.grid) * (place.window**2 + math.prod(place.keys)) > WHOLE_ENTRIES:
        return None
    with seen.model.in_mode(seen.mode):
        return looked.block(stage, block)


def single(seen: Seen, stage: int, block: int, row: int, col: int) -> Attention:
    """Attention of one query of a block.

    Raises:
        ValueError: There is no such block or query, or the model does not show its attention.
    """
    with seen.model.in_mode(seen.mode):
        return _looked(seen).query(stage, block, row, col)


def region(seen: Seen, stage: int, block: int, number: int) -> RegionAttention:
    """Attention of an object or a class of the answer: the mean over all queries in its mask, or in its box.

    Raises:
        ValueError: There is no such block or object, or the model does not show its attention.
    """
    looked = _looked(seen)
    with seen.model.in_mode(seen.mode):
        return looked.region(stage, block, **seen.regions.of(number, looked.image_size))


def packed_region(found: RegionAttention) -> tuple[dict[str, Any], bytes]:
    """Attention of a region for the page: what it is, and float32 numbers: 1 for each query `[h, w]`, then what the
    windows and what the pooled keys have, `[M, h, w]` each.
    """
    place = found.place
    about = {"heads": place.heads, "grid": place.grid, "pool": place.pool, "window": place.window}
    return about, b"".join(_numbers(part) for part in (found.inside, found.local, found.pooled))


def packed(attention: Attention) -> tuple[dict[str, Any], bytes]:
    """Softmax weights for the page: what they are, and float32 numbers, those of the windows first."""
    place = attention.place
    about = {"heads": place.heads, "grid": place.grid, "pool": place.pool, "window": place.window}
    return about, b"".join(_numbers(part) for part in (attention.local, attention.pooled))


def _numbers(values: Tensor) -> bytes:
    return values.float().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()


def _looked(seen: Seen) -> Looked:
    if seen.looked is None:
        raise ValueError(f"{seen.model.name} does not give its attention")
    return seen.looked


def _title(name: str | Path) -> str:
    """What the page calls a model: nothing of where it lies."""
    path = Path(name)
    return path.resolve().name if path.is_dir() else path.stem if path.is_file() else os.fspath(name)


def _network(loaded: Loaded) -> TransNeXt | None:
    if getattr(loaded.model, "is_exported", False):
        return None
    try:
        return find_network(loaded.model)
    except ValueError:
        return None


def _sizes(loaded: Loaded) -> dict[str, int] | None:
    """Sides of images to choose from, pixels; None for models of images that are not square."""
    height, width = loaded.preprocessing.input_size[1:]
    if height != width and loaded.preprocessing.crop_mode != "shortest":
        return None
    step = math.gcd(STEP, height)
    return {"min": step * math.ceil(STEP / step), "max": max(LARGEST, height), "step": step, "default": height}


def _modes(net: TransNeXt) -> list[Mode]:
    """Its own first."""
    possible = [mode for mode in MODES if mode != "linear" or net.trained_pool_size is not None]
    return [net.mode, *(mode for mode in possible if mode != net.mode)]


def _answer(loaded: Loaded, asked: Asked) -> Any:
    """The answer about one image; of a classifier with its logits."""
    if loaded.task.name == "detection":
        return loaded.task.answers(loaded, asked, tile=0)[0]  # where a network looks is shown of the whole picture
    if loaded.task.name != "classification":
        return loaded.task.answers(loaded, asked)[0]
    logits: list[Tensor] = []
    handle = loaded.model.register_forward_hook(lambda _module, _args, output: logits.append(output))
    try:
        (found,) = loaded.task.answers(loaded, asked, top_k=MOST_CLASSES)
    finally:
        handle.remove()
    return found, logits[0][0].float().cpu()


def _for_page(found: Any, asked: Asked, size: tuple[int, int]) -> tuple[dict[str, Any], bytes | None, Regions]:
    """An answer as plain values, places in pixels of what was shown, the file of a map, and where all that is."""
    if isinstance(found, tuple):
        prediction, logits = found
        top = [
            {"name": name, "score": score}
            for name, score in zip(prediction.classes, prediction.probabilities, strict=True)
        ]
        return {"top": top, "logits": logits.tolist()}, None, Regions()
    if hasattr(found, "labels"):
        return _map(found, size)
    frame = asked.frames[0]
    assert frame is not None
    matrix = frame.to_original.numpy()
    shift, scale = np.tile(matrix[:, 2], 2), np.tile(matrix[:, :2].diagonal(), 2)
    boxes = ((found.xyxy - shift) / scale).tolist()
    rows = zip(found.class_names, found.scores.tolist(), boxes, strict=True)
    objects = [{"name": name, "score": score, "box": box} for name, score, box in rows][:MOST_OBJECTS]
    masks = [shown_mask(found.mask[i], matrix, size) for i in range(len(objects))] if found.mask is not None else []
    return {"objects": objects}, None, Regions(boxes=boxes[:MOST_OBJECTS], masks=masks)


def _map(found: Any, size: tuple[int, int]) -> tuple[dict[str, Any], bytes, Regions]:
    from transnext.tasks.segmentation.draw import class_colours

    colours = class_colours(len(found.class_names), found.colours)
    there = [place for place in np.argsort(-found.pixels, kind="stable").tolist() if found.pixels[place]]
    classes = [
        {
            "name": found.class_names[place],
            "colour": "#" + bytes(colours[place]).hex(),
            "share": int(found.pixels[place]) / found.labels.size,
        }
        for place in there
    ]
    labels = np.asarray(Image.fromarray(found.labels).resize((size[1], size[0]), Image.Resampling.NEAREST))
    regions = Regions(labels=labels, classes=there)
    return {"map": {"classes": classes}}, _png(Image.fromarray(colours[labels])), regions


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
