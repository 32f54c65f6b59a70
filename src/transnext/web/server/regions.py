"""Where the objects or classes of an answer are in the picture that was shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Region(TypedDict, total=False):
    """A box or a mask, as `transnext.explain.Looked.region` takes it."""

    box: Sequence[float]
    mask: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Places of the objects of a detector or of the classes of a segmenter, pixels of what was shown.

    Attributes:
        boxes: x0, y0, x1, y1 of each object.
        masks: Of each object `shown_mask`; none where the detector tells no outlines.
        labels: Class of each pixel, uint8 `[H, W]`, of a segmenter.
        classes: Which of them the answer names, in its order.
    """

    boxes: Sequence[Sequence[float]] = ()
    masks: Sequence[npt.NDArray[np.uint8]] = field(default=(), repr=False)
    labels: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    classes: Sequence[int] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes that they hold, masks above all."""
        return sum(mask.nbytes for mask in self.masks) + (0 if self.labels is None else self.labels.nbytes)

    def of(self, number: int, size: tuple[int, int]) -> Region:
        """The region of one of them: its mask, or its box where there is none or nothing in it.

        Args:
            number: Place in the answer, from 0.
            size: `(H, W)` of the image as the network saw it, padding on the right and below included.

        Raises:
            ValueError: The answer has no such object or class.
        """
        count = len(self.boxes) or len(self.classes)
        if number >= count:
            raise ValueError(f"object is {number}: the answer has {count}, counted from 0")
        if self.labels is not None:
            mask: npt.NDArray[Any] = self.labels == self.classes[number]
        elif self.masks:
            mask = np.unpackbits(self.masks[number], axis=1).astype(bool)
        else:
            return {"box": self.boxes[number]}
        if not mask.any():
            if not self.boxes:
                raise ValueError("the class has no pixel at the size that the network saw")
            return {"box": self.boxes[number]}
        whole = torch.zeros(size, dtype=torch.bool)
        part = torch.from_numpy(mask)[: size[0], : size[1]]
        whole[: part.shape[0], : part.shape[1]] = part
        return {"mask": whole}


def shown_mask(
    mask: npt.NDArray[np.bool_], to_original: npt.NDArray[np.float64], size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """A mask of a picture in pixels of what was shown, eight in a byte: of each the value at its centre.

    Args:
        mask: bool, of the picture.
        to_original: Matrix `[2, 3]` from what was shown to the picture, of scales and shifts alone.
        size: `(H, W)` of what was shown.

    Returns:
        `[H, W / 8 rounded up]`, as `numpy.packbits` has it; 0 in the bits beyond the width.
    """
    places = []
    for axis, count, limit in ((1, size[0], mask.shape[0]), (0, size[1], mask.shape[1])):
        scale, shift = to_original[axis, axis], to_original[axis, 2]
        places.append(np.floor((np.arange(count) + 0.5) * scale + shift).astype(np.int64).clip(0, limit - 1))
    return np.packbits(mask[places[0][:, None], places[1]], axis=1)
