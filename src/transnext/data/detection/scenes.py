"""Scenes composed of the bundled drawings: a set with boxes and outlines by name, drawn when it is asked for.

Each scene shows one to six drawings of six classes, of any size and place, before a plain, shaded or noisy ground.
Splits are those of the drawings (`transnext.data.emoji`):

| split   | drawings                                  | scenes |
|---------|-------------------------------------------|--------|
| `train` | those of training                         | 360    |
| `val`   | other things, in the styles of training   | 60     |
| `shift` | things of training, in two other styles   | 60     |
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from transnext.data.detection.source import DetectionSource, Objects
from transnext.data.emoji import SPLITS, load_emoji
from transnext.data.names import PackedNames
from transnext.extras import require

SCENES = {"train": 360, "val": 60, "shift": 60}
"""Scenes of each split."""
SCENE_CLASSES = ("face", "hand", "building", "vehicle", "clock", "heart")
"""Classes of the drawings that are used, which a small network tells apart soon."""
SCENE_SIZE = (192, 256)
"""`(H, W)` of a scene, pixels."""
MOST_OBJECTS = 6
SIDES = (28, 104)
"""Smallest and largest side of a drawing with its transparent border, pixels."""
_VISIBLE = 0.6
"""Least share of a drawing that no other one hides."""
_TRIES = 12
_OPAQUE = 128
_ROOT = "scenes"
_VERSION = "1"
"""Another number when scenes of the same name look different, for kept copies of them."""

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """A drawing in a scene: `pixels` uint8 `[side, side, 4]` with its corner at `x`, `y`, all within the scene."""

    pixels: npt.NDArray[np.uint8]
    x: int
    y: int
    label: int


@dataclass(frozen=True, kw_only=True)
class SceneImages(DetectionSource):
    """Composed scenes, a `DetectionSource` whose pictures are drawn instead of read.

    A scene is a function of seed, split and number, which is its id. Annotations are made once, with `draw_scenes`;
    pictures whenever they are loaded.

    Attributes:
        split: The drawings that are used.
        seed: Other seeds give other scenes.
    """

    split: str
    seed: int

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Draw image `index`; `min_side` is ignored."""
        number = self._number(index)
        canvas = _ground(_generator(self.seed, self.split, number, "ground"))
        for placed in _placed(self.seed, self.split, number):
            drawing = Image.fromarray(placed.pixels)
            canvas.paste(drawing, (placed.x, placed.y), drawing)
        return canvas

    def version(self, index: int) -> str:
        """Return by what kept copies are known to be those of this scene; see `DetectionSource`."""
        return f"{_VERSION} {self.seed} {self.split} {self._number(index)}"

    def _number(self, index: int) -> int:
        return int(self.image_ids[index])


def draw_scenes(split: str, count: int | None = None, seed: int = 0) -> SceneImages:
    """Compose scenes; takes about two milliseconds each.

    Args:
        split: `train`, `val` or `shift`.
        count: How many; those of `SCENES` by default. The first of many are those of few.
        seed: Other seeds give other scenes.

    Raises:
        ValueError: There is no such split, or a package is missing.
    """
    require("composing scenes", "pycocotools", extra="detect")
    from pycocotools import mask as run_lengths

    if split not in SCENES:
        raise ValueError(f"scenes have no split {split!r}: choose one of {', '.join(SCENES)}")
    count = SCENES[split] if count is None else count
    boxes: list[list[int]] = []
    labels: list[int] = []
    areas: list[int] = []
    runs: list[bytes] = []
    starts = [0]
    for number in range(count):
        placed = _placed(seed, split, number)
        for one, mask in zip(placed, _visible(placed), strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            labels.append(one.label)
            areas.append(int(mask.sum()))
            runs.append(run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])
        starts.append(len(boxes))
    return SceneImages(
        classes=SCENE_CLASSES,
        category_ids=tuple(range(1, len(SCENE_CLASSES) + 1)),
        root=_ROOT,
        paths=PackedNames.pack([f"{_ROOT}/{split}/{number:04}" for number in range(count)]),
        sizes=np.tile(np.array(SCENE_SIZE, np.int32), (count, 1)),
        ids=np.arange(count, dtype=np.int64),
        objects=Objects(
            starts=np.array(starts, np.int64),
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.array(labels, np.int32),
            crowd=np.zeros(len(boxes), np.bool_),
            areas=np.array(areas, np.float32),
            runs=np.frombuffer(b"".join(runs), np.uint8),
            run_starts=np.cumsum([0, *map(len, runs)], dtype=np.int64),
        ),
        split=split,
        seed=seed,
    )


@functools.cache
def scene_splits() -> dict[str, SceneImages]:
    """Return the splits of the set; composing them takes one to two seconds, once."""
    return {split: draw_scenes(split) for split in SCENES}


def _generator(seed: int, split: str, number: int, part: str) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), number, ("drawings", "ground").index(part)])


@functools.cache
def _drawings(split: str) -> tuple[npt.NDArray[np.int64], ...]:
    """Places of the drawings of each class."""
    emoji = load_emoji()
    of_split = emoji.splits == SPLITS.index(split)
    labels = [emoji.class_names.index(name) for name in SCENE_CLASSES]
    return tuple(np.flatnonzero(of_split & (emoji.labels == label)) for label in labels)


def _placed(seed: int, split: str, number: int) -> list[_Placed]:
    """The drawings of a scene, those in front last. All of them are seen, the one placed first in any case."""
    rng = _generator(seed, split, number, "drawings")
    placed: list[_Placed] = []
    for _ in range(int(rng.integers(1, MOST_OBJECTS + 1))):
        label = int(rng.integers(len(SCENE_CLASSES)))
        drawing = load_emoji().images[rng.choice(_drawings(split)[label])]
        for _ in range(_TRIES):
            side = round(SIDES[0] * (SIDES[1] / SIDES[0]) ** rng.random())
            y, x = (int(rng.integers(length - side + 1)) for length in SCENE_SIZE)
            pixels = np.asarray(Image.fromarray(drawing).resize((side, side), Image.Resampling.BILINEAR))
            more = [*placed, _Placed(pixels=pixels, x=x, y=y, label=label)]
            if _all_seen(more):
                placed = more
                break
    return placed


def _all_seen(placed: list[_Placed]) -> bool:
    seen = _visible(placed)
    return all(mask.sum() >= max(1, _VISIBLE * _opaque(one).sum()) for one, mask in zip(placed, seen, strict=True))


def _opaque(one: _Placed) -> _Mask:
    return np.asarray(one.pixels[..., 3] >= _OPAQUE)


def _visible(placed: list[_Placed]) -> list[_Mask]:
    """Where each is seen, `[H, W]`."""
    free = np.ones(SCENE_SIZE, np.bool_)
    masks = []
    for one in reversed(placed):
        mask = np.zeros(SCENE_SIZE, np.bool_)
        side = len(one.pixels)
        mask[one.y : one.y + side, one.x : one.x + side] = _opaque(one)
        masks.append(mask & free)
        free &= ~mask
    return masks[::-1]


def _ground(rng: np.random.Generator) -> Image.Image:
    """A plain colour, one that changes from corner to corner, or noise of any grain."""
    height, width = SCENE_SIZE
    kind = rng.integers(3)
    colours = rng.integers(0, 256, (2, 2, 3), np.uint8)
    if kind == 0:
        return Image.new("RGB", (width, height), tuple(colours[0, 0].tolist()))
    if kind == 1:
        return Image.fromarray(colours).resize((width, height), Image.Resampling.BILINEAR)
    cells = 2 ** int(rng.integers(2, 7))  # along the shorter side
    noise = rng.normal(rng.integers(40, 216, 3), rng.uniform(8, 48), (cells, cells * width // height, 3))
    coarse = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)
