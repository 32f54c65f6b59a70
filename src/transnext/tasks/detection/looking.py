"""How a detector looks at pictures: each as a whole, or in tiles."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from transnext.data.joint import normalised_canvas
from transnext.data.preprocessing import Preprocessing, picture
from transnext.data.sample import Frame, collate
from transnext.limits import MAX_SIDE, check_number
from transnext.tasks.detection.images import placed_sample
from transnext.tasks.detection.net import Found
from transnext.tasks.detection.tiles import detect_in_tiles
from transnext.tasks.task import Loaded

OVERLAP = 0.2
"""Share of a tile that it has in common with the next, unless another is given."""


@dataclass(frozen=True, kw_only=True)
class Looking:
    """A way to look at pictures; by default each as a whole.

    Attributes:
        tile: Side of the squares in which a picture is looked through, pixels of the picture, each of which is brought
            to the size of evaluation; None or 0 to see it whole.
        overlap: Share of a tile that it has in common with the next, 0..0.9.
        at_once: Tiles that go through the network at once.

    Raises:
        ValueError: A number is out of range.
    """

    tile: int | None = None
    overlap: float = OVERLAP
    at_once: int = 8

    def __post_init__(self) -> None:
        check_number("tile", self.tile or 32, 32, MAX_SIDE)
        check_number("overlap", self.overlap, 0, 0.9)
        check_number("batch_size", self.at_once, 1)

    @classmethod
    def trained(cls, metadata: Mapping[str, Any]) -> "Looking":
        """That of a model, as its checkpoint says."""
        return cls(tile=metadata.get("tile"))

    def found(
        self,
        net: nn.Module,
        whole: Tensor,
        preprocessing: Preprocessing,
        device: torch.device,
        threshold: float = 0.0,
        masks: bool = True,
    ) -> Found:
        """Objects of a picture that is looked through in tiles, in its pixels.

        Args:
            net: The detector, in evaluation mode.
            whole: The picture, uint8 `[3, H, W]`.
            preprocessing: What its inputs look like.
            device: Where it is.
            threshold: Least score, 0..1.
            masks: Keep outlines.

        Raises:
            ValueError: The masks of the detector lie over the whole picture.
        """
        assert self.tile

        def ask(crops: list[Tensor]) -> list[Found]:
            samples = [placed_sample(picture(crop), preprocessing, i) for i, crop in enumerate(crops)]
            batch = collate(samples, targets=list)
            normalise = preprocessing.normalise(device)
            found = net(normalised_canvas(batch.images.to(device), batch.sizes, normalise), batch.sizes)
            return [
                _in_crop(one if masks else replace(one, masks=None), frame)
                for one, frame in zip(found, batch.frames, strict=True)
            ]

        return detect_in_tiles(
            ask, whole, self.tile, overlap=self.overlap, batch_size=self.at_once, threshold=threshold
        )


def looking_at(
    loaded: Loaded, *, tile: int | None = None, overlap: float = OVERLAP, at_once: int | None = None
) -> Loaded:
    """A detector that is judged in another way; it shares the weights.

    Args:
        loaded: The detector, as it was trained to look.
        tile: See `Looking`; 0 to see pictures whole, None as in training.
        overlap: See `Looking`.
        at_once: See `Looking`.

    Raises:
        ValueError: A number is out of range, or the masks of the detector lie over the whole picture.
    """
    task: Any = loaded.task
    trained: Looking = task.how
    looking = Looking(
        tile=trained.tile if tile is None else tile,
        overlap=overlap,
        at_once=trained.at_once if at_once is None else at_once,
    )
    if looking.tile and not can_look_in_tiles(getattr(loaded.model, "detector", "")):
        raise ValueError(f"masks of {loaded.name}, a mask2former, cannot be put together at edges: leave out --tile")
    return replace(loaded, task=replace(task, looking=looking))


def can_look_in_tiles(detector: str) -> bool:
    """Tells if what a detector finds in tiles can be put together: masks over boxes can, those over all it sees not."""
    return detector != "mask2former"


def _in_crop(found: Found, frame: Frame | None) -> Found:
    assert frame is not None
    matrix = frame.to_original
    scale, shift = matrix[:, :2].diagonal().repeat(2), matrix[:, 2].repeat(2)
    return replace(found, boxes=(found.boxes.double().cpu() * scale + shift).float())
