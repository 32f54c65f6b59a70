"""From a source of images with targets to batches; an unreadable file costs one sample and not the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from transnext.data.images import UnreadableImage
from transnext.data.transforms import Transform


class Source(Protocol):
    """A sequence of images with targets. Implementations are cheap to pickle: each data loader worker gets a copy."""

    def __len__(self) -> int: ...

    def load(self, index: int, min_side: int | None = None) -> Image.Image:
        """Return image `index` in mode `RGB`; `min_side` as in `read_image`, and may be ignored.

        Raises:
            UnreadableImage: If it cannot be read.
            FileNotFoundError: If it is gone.
        """

    def target(self, index: int) -> Any:
        """Return what is to be found in image `index`: for classification its class."""

    def name(self, index: int) -> str:
        """Return what to call image `index` in a message: its path, or for example `emoji/twemoji/red heart`."""


class ImageSource(Source, Protocol):
    """A source whose targets are classes."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names; targets index them."""

    def target(self, index: int) -> int:
        """Return the class of image `index`."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How an input relates to its picture.

    Attributes:
        original: `(H, W)` of the picture, upright, pixels.
        to_original: float64 `[2, 3]`: takes `(x, y, 1)` of the input to pixels of the picture.
    """

    original: tuple[int, int]
    to_original: Tensor

    @classmethod
    def unchanged(cls, size: tuple[int, int]) -> Frame:
        """That of an input which is its picture, of `(H, W)` pixels."""
        return cls(original=size, to_original=torch.eye(2, 3, dtype=torch.float64))


@dataclass(frozen=True)
class Sample:
    """A transformed image.

    Attributes:
        image: uint8 `[3, H, W]`, 0..255, RGB: a batch becomes numbers on the device; or numbers, float32 `[C, H, W]`.
        target: What is to be found in it.
        index: Its place in the source.
        frame: How it relates to its picture, where answers have places.
        canvas: `(H, W)` that its batch has at least; its own size by default.
    """

    image: Tensor
    target: Any
    index: int
    frame: Frame | None = None
    canvas: tuple[int, int] | None = None


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read.

    Attributes:
        name: Its path or other name.
        reason: One line.
    """

    name: str
    reason: str


class Batch(NamedTuple):
    """What `collate` makes of `B` images.

    Attributes:
        images: uint8 `[B, 3, H, W]`, 0..255, smaller ones padded with 0 at the bottom and on the right, all to their
            largest canvas; `[0, 3, 0, 0]` if no image could be read.
        targets: What the task made of them: for classification int64 `[B]`.
        indices: int64 `[B]`, places in the source.
        skipped: Pairs `(name, reason)` of images that are missing from the batch.
        sizes: int64 `[B, 2]`: rows and columns that are image.
        frames: Of each image, where the task has them.
    """

    images: Tensor
    targets: Any
    indices: Tensor
    skipped: list[tuple[str, str]]
    sizes: Tensor
    frames: list[Frame | None]


class LabelledImages(Dataset[Sample | Skipped]):
    """The images of a source, transformed, with their targets. To be used with `collate`.

    Args:
        source: The images.
        transform: From an `RGB` PIL image to a uint8 tensor `[3, H, W]`.
        min_side: As in `read_image`; `min_side_for` gives a value that suits the transform. None reads at full size.

    Attributes:
        at_once: Most images of a batch in evaluation; None for as many as are asked for.
    """

    at_once: int | None = None

    def __init__(self, source: Source, transform: Transform, min_side: int | None = None) -> None:
        self.source = source
        self.transform = transform
        self.min_side = min_side

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample | Skipped:
        index = range(len(self))[index]
        image = self.read(index)
        if isinstance(image, Skipped):
            return image
        return Sample(self.transform(image), self.source.target(index), index)

    def canvas(self, index: int) -> tuple[int, int] | None:
        """`(H, W)` on which image `index` lies when it is evaluated, before it is read; None if all lie on one.

        Networks may see the padding of an image, so that batches of one canvas alone give what each image gives.
        """
        return None

    def read(self, index: int) -> Image.Image | Skipped:
        """The image as the source has it, or why there is none."""
        try:
            return self.source.load(index, self.min_side)
        except UnreadableImage as error:
            return Skipped(self.source.name(index), error.reason)
        except FileNotFoundError:
            return Skipped(self.source.name(index), "the file is gone")


def class_targets(targets: Sequence[int]) -> Tensor:
    """Collates classes: int64 `[B]`."""
    return torch.tensor(targets, dtype=torch.int64)


def collate(batch: Sequence[Sample | Skipped], targets: Callable[[Sequence[Any]], Any] = class_targets) -> Batch:
    """Stack what could be read and list what could not; see `Batch`.

    Args:
        batch: The images.
        targets: Collates their targets.
    """
    samples = [item for item in batch if isinstance(item, Sample)]
    sizes = torch.tensor([sample.image.shape[1:] for sample in samples], dtype=torch.int64).view(-1, 2)
    images = torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    if samples:
        canvases = [tuple(sample.image.shape[1:]) if sample.canvas is None else sample.canvas for sample in samples]
        height, width = (max(side) for side in zip(*canvases, strict=True))
        whole = all(sample.image.shape[1:] == (height, width) for sample in samples)
        images = torch.stack([s.image if whole else _padded(s.image, height, width) for s in samples])
    return Batch(
        images=images,
        targets=targets([sample.target for sample in samples]),
        indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
        skipped=[(item.name, item.reason) for item in batch if isinstance(item, Skipped)],
        sizes=sizes,
        frames=[sample.frame for sample in samples],
    )


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    return F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))
