"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey pictures of clothes, 28x28, in ten classes.

They are read from where Debian's package `dataset-fashion-mnist` puts them, or downloaded to the user's cache.
"""

from __future__ import annotations

import functools
import gzip
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.datasets import FashionMNIST

from transnext.data.user_cache import user_cache
from transnext.errors import one_line

File = Literal["train", "t10k"]

CLASSES: tuple[str, ...] = tuple(FashionMNIST.classes)
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_TRAIN: File = "train"
_TEST: File = "t10k"
_MAGIC = {"images": 0x0803, "labels": 0x0801}  # unsigned bytes in three dimensions, and in one
_HEADER = {"images": 16, "labels": 8}


@dataclass(frozen=True)
class LabelledArrays:
    """The contents of one of the two files; the arrays are read-only.

    Attributes:
        images: uint8 `[n, 28, 28]`, white on black.
        labels: uint8 `[n]`, indices into `CLASSES`, equally many of each.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


class FashionMNISTImages:
    """Some pictures of one of the two files, as an `ImageSource`.

    Args:
        file: `train` or `t10k`.
        split: What the split is called.
        indices: Which pictures of the file.
    """

    classes = CLASSES

    def __init__(self, file: File, split: str, indices: npt.NDArray[np.int64]) -> None:
        self._file: File = file
        self._split = split
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Return image `index`; `min_side` is ignored."""
        return Image.fromarray(load_fashion_mnist(self._file).images[self._indices[index]]).convert("RGB")

    def target(self, index: int) -> int:
        """Return the class of image `index`."""
        return int(load_fashion_mnist(self._file).labels[self._indices[index]])

    def name(self, index: int) -> str:
        """Return `fashion_mnist/<split>/<place in the file>`."""
        return f"fashion_mnist/{self._split}/{self._indices[index]}"


def fashion_mnist_splits(val_fraction: float) -> dict[str, FashionMNISTImages]:
    """Return `train`, `val` and `test`.

    `val` is the last `val_fraction` of each class of the 60,000 training pictures, the same on any machine and for any
    seed; 0 leaves it out. `test` is the 10,000 test pictures.

    Args:
        val_fraction: 0 <= `val_fraction` < 1.

    Raises:
        FileNotFoundError: If the files are not here and cannot be downloaded.
        ValueError: If a file is damaged, or `val_fraction` is out of range.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and less than 1, got {val_fraction}")
    by_class = np.argsort(load_fashion_mnist(_TRAIN).labels, kind="stable").reshape(len(CLASSES), -1)
    held_out = round(val_fraction * by_class.shape[1])
    train, val = np.split(by_class, [by_class.shape[1] - held_out], axis=1)
    test = np.arange(len(load_fashion_mnist(_TEST).labels))
    splits = {
        "train": FashionMNISTImages(_TRAIN, "train", np.sort(train, axis=None)),
        "val": FashionMNISTImages(_TRAIN, "val", np.sort(val, axis=None)),
        "test": FashionMNISTImages(_TEST, "test", test),
    }
    return {name: source for name, source in splits.items() if len(source)}


@functools.cache
def load_fashion_mnist(file: File) -> LabelledArrays:
    """Return one of the two files, `train` or `t10k`. It takes about half a second, once, and stays in memory (47 MB).

    Raises:
        FileNotFoundError: If the files are not here and cannot be downloaded.
        ValueError: If a file is damaged.
    """
    folder = _find() or _download()
    images, labels = _read(folder, file, "images"), _read(folder, file, "labels")
    return LabelledArrays(images.reshape(-1, 28, 28), labels)


def _names() -> list[str]:
    return [_name(file, kind) for file in (_TRAIN, _TEST) for kind in _MAGIC]


def _name(file: str, kind: str) -> str:
    return f"{file}-{kind}-idx{3 if kind == 'images' else 1}-ubyte.gz"


def _find() -> Path | None:
    """Return the folder that holds all files, if there is one."""
    # The second is where torchvision downloads to.
    for folder in (_DEBIAN, user_cache() / "FashionMNIST" / "raw"):
        if all((folder / name).is_file() for name in _names()):
            return folder
    return None


def _download() -> Path:
    root = user_cache()
    folder = root / "FashionMNIST" / "raw"
    print(f"Downloading Fashion-MNIST (30 MB) to {folder}", file=sys.stderr)
    try:
        FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError, URLError) as error:
        raise FileNotFoundError(
            f"fashion_mnist is not on this machine and cannot be downloaded ({one_line(error)}): apt-get install "
            f"dataset-fashion-mnist, or put {', '.join(_names())} into {folder}"
        ) from None
    return folder


def _read(folder: Path, file: str, kind: str) -> npt.NDArray[np.uint8]:
    path = folder / _name(file, kind)
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it and try again") from None
    count = int.from_bytes(data[4:8], "big")
    size = count * (28 * 28 if kind == "images" else 1)
    if int.from_bytes(data[:4], "big") != _MAGIC[kind] or len(data) != _HEADER[kind] + size:
        raise ValueError(f"{path} is not the file of Fashion-MNIST: remove it and try again")
    return np.frombuffer(data, np.uint8, offset=_HEADER[kind])
