"""Options of detection alone."""

from dataclasses import dataclass
from typing import Literal

from transnext.choices import PlaceMode
from transnext.limits import MAX_SIDE, check_numbers

Detector = Literal["d_fine", "mask_rcnn", "mask2former", "dino"]
HeadSize = Literal["small", "released", "base"]
Preset = Literal["none", "light", "released", "strong"]


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """The objects: what finds them, and how their pictures are drawn, cut and augmented."""

    detector: Detector = "mask_rcnn"
    """d_fine (no NMS, quick), mask_rcnn (outlines, too), mask2former (needs outlines, no NMS), or dino (slow, for large
    data and pretrained weights)."""
    head_size: HeadSize = "small"
    """Size of all that stands on the backbone: small for small data and CPUs; d_fine has base, the others released."""
    scales: Literal[4, 5] | None = None
    """Scales that dino looks at; 4 by default."""
    num_queries: int | None = None
    """Places for objects that d_fine, dino and mask2former have in a picture; by default enough for the densest one."""
    masks: bool | None = None
    """Find outlines and not boxes alone; by default wherever the data have them and the detector can."""
    fit: PlaceMode = "fit"
    """How a picture comes to its size: fit keeps its shape and pads, squash does not, shortest has no common size."""
    augment: Preset = "light"
    """How pictures are changed at random: light (flip, scale, colour), released (as the detector was published), strong
    (large-scale jitter, crops, zooming out, colour, copy-paste), or none."""
    color_jitter: float = 0.4
    """Strength of random brightness, contrast and saturation of the light preset, 0..1; 0 also takes the others' away.
    """
    jitter: tuple[float, float] | None = None
    """Smallest and largest random scale, relative to the size in evaluation; by default the preset's."""
    copy_paste: float | None = None
    """Probability that objects of another picture are pasted in, where there are outlines; by default the preset's."""
    train_tiles: int | None = None
    """Train on random squares of this side, pixels of the picture: for small objects in large pictures. They are then
    looked through in such squares, too."""
    repeat_factor: float = 0.0
    """Classes that are in less than this share of the pictures are drawn more often; 0 to draw all alike."""
    threshold: float | None = None
    """Least score of an object that is shown, 0..1; by default the one of best F1 in validation."""
    max_detections: int | None = None
    """Most objects that are found in a picture; by default it follows the data."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        check_numbers(self, 0, 1, names=("color_jitter", "copy_paste", "repeat_factor", "threshold"))
        check_numbers(self, 32, MAX_SIDE, names=("train_tiles",))
        check_numbers(self, 1, names=("max_detections", "num_queries"))
        if self.jitter is not None and not 0.01 <= self.jitter[0] <= self.jitter[1] <= 10:
            raise ValueError(f"jitter is {self.jitter}: expected 0.01 <= smallest <= largest <= 10")
        if self.jitter is not None and self.augment == "released" and self.detector == "dino":
            raise ValueError("jitter is given, and released augmentation of dino has scales of its own: leave out one")
