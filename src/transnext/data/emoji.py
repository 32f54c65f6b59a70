"""The bundled set: emoji of 22 classes in six drawing styles, made to measure what happens when the style changes.

A class is a kind of thing (`fruit`), a concept one thing (`red apple`), a style one vendor's way of drawing it.
Concepts are seen in training or held out, and so are styles, which gives four splits:

| split   | styles            | concepts | images |
|---------|-------------------|----------|--------|
| `train` | `TRAINING_STYLES` | seen     | 2185   |
| `val`   | `TRAINING_STYLES` | held out | 592    |
| `shift` | `SHIFTED_STYLES`  | seen     | 863    |
| `both`  | `SHIFTED_STYLES`  | held out | 231    |

Who drew the images, and under which licences, is in `bundled/ATTRIBUTION.md`.
"""

from __future__ import annotations

import functools
import io
import lzma
from dataclasses import dataclass
from importlib import resources
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

SPLITS = ("train", "val", "shift", "both")
TRAINING_STYLES = ("noto", "noto-v1", "twemoji", "emojione")
SHIFTED_STYLES = ("fluent-emoji-flat", "fxemoji")

# One after another in the file; images first, where numpy's header leaves each pixel aligned to four bytes, which the
# compressor is told to exploit.
_ARRAYS = ("images", "labels", "concepts", "styles", "splits", "class_names", "concept_names", "style_names")


@dataclass(frozen=True)
class EmojiSet:
    """The bundled emoji; `n` images, sorted by style and then by concept. The arrays are read-only.

    Attributes:
        images: uint8 `[n, 64, 64, 4]`, RGBA with straight alpha; fully transparent pixels are all zero.
        labels: uint8 `[n]`, indices into `class_names`.
        concepts: uint16 `[n]`, indices into `concept_names`.
        styles: uint8 `[n]`, indices into `style_names`.
        splits: uint8 `[n]`, indices into `SPLITS`.
        class_names: Names of the 22 classes.
        concept_names: Names of the concepts.
        style_names: `TRAINING_STYLES` and `SHIFTED_STYLES`.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    concepts: npt.NDArray[np.uint16]
    styles: npt.NDArray[np.uint8]
    splits: npt.NDArray[np.uint8]
    class_names: tuple[str, ...]
    concept_names: tuple[str, ...]
    style_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


@functools.cache
def load_emoji() -> EmojiSet:
    """Return the bundled emoji. Decoding takes about a third of a second, once; they then stay in memory (63 MB)."""
    return decode_emoji((resources.files("transnext.data") / "bundled" / "emoji.npy.xz").read_bytes())


def encode_emoji(emoji: EmojiSet) -> bytes:
    """Return the contents of the bundled file: the arrays in `npy` format, one after another, compressed by xz."""
    stream = io.BytesIO()
    for name in _ARRAYS:
        np.save(stream, np.asarray(getattr(emoji, name)), allow_pickle=False)
    # Literals and matches are modelled per position in the four bytes of a pixel (lp, pb).
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 2, "lp": 2, "pb": 2, "nice_len": 273}
    return lzma.compress(stream.getvalue(), format=lzma.FORMAT_XZ, filters=[lzma2])


def decode_emoji(data: bytes) -> EmojiSet:
    """Return what `encode_emoji` encoded."""
    stream = io.BytesIO(lzma.decompress(data))
    fields: dict[str, Any] = {}
    for name in _ARRAYS:
        array = _read_array(stream)
        fields[name] = tuple(array.tolist()) if name.endswith("_names") else array
    return EmojiSet(**fields)


def _read_array(stream: BinaryIO) -> npt.NDArray[np.generic]:
    array = np.load(stream, allow_pickle=False)
    array.flags.writeable = False
    return array
