"""Options of segmentation alone."""

import math
from dataclasses import dataclass
from typing import Literal

from transnext.choices import PlaceMode
from transnext.limits import MAX_SIDE, check_numbers

SegmenterName = Literal["upernet", "mask2former"]
HeadSize = Literal["small", "released"]
Preset = Literal["none", "light", "released"]
Targets = Literal["semantic", "panoptic"]
LossName = Literal[
    "cross_entropy",
    "focal",
    "dice",
    "cross_entropy+dice",
    "focal+dice",
    "cross_entropy+focal",
    "cross_entropy+focal+dice",
]
ClassWeights = Literal["none", "data"] | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """The maps: what names the class of each pixel, and how pictures are scaled, cut and augmented."""

    segmenter: SegmenterName = "upernet"
    """upernet (a score for each pixel), or mask2former (adds up masks; slower, for larger data)."""
    head_size: HeadSize = "small"
    """Size of all that stands on the backbone: small for small data and CPUs, or as it was released."""
    loss: LossName = "cross_entropy"
    """What upernet minimises, one or a sum; mask2former has losses of its own."""
    class_weights: ClassWeights = "none"
    """Factor of each class in cross-entropy and focal loss: none, data (rare ones weigh more), or a number for each."""
    reduce_zero_label: bool | None = None
    """In label files 0 means nothing and 1 is the first class; by default so in ADE20K, or as a class file says."""
    in_chans: int | None = None
    """Channels of the pictures. TIFFs of others than three, or of 16 bits, are read as numbers and normalised by their
    own means; by default what the data have, where four channels of 8 bits are RGB and transparency."""
    targets: Targets = "semantic"
    """What mask2former learns of COCO panoptic data: semantic, a mask for each class; or panoptic, one for each object
    and for each class without objects."""
    thing_classes: tuple[str, ...] | None = None
    """Classes that have objects, for panoptic targets and answers of mask2former; of the others all is one segment. By
    default as COCO panoptic data say."""
    fit: PlaceMode = "fit"
    """How a picture comes to its size: fit keeps its shape and pads, squash does not, shortest has no common size."""
    augment: Preset = "light"
    """How training pictures are changed at random: light (flip, scale, crop, colour), released (as the segmenter was
    published), or none."""
    color_jitter: float = 0.4
    """Strength of random brightness, contrast and saturation of the light preset, 0..1; 0 also takes the others' away.
    """
    jitter: tuple[float, float] | None = None
    """Smallest and largest random scale, relative to the size in evaluation; by default the preset's."""
    crop: int | None = None
    """Side of the random square that is trained on, pixels of the scaled picture; by default that of the input."""
    max_class_share: float = 0.75
    """Crops in which one class has more than this share of the labelled pixels are drawn anew, up to ten times; 1 to
    take any."""
    window: int | None = None
    """Side of the windows in which a picture is looked through in evaluation and use, pixels of the scaled picture; by
    default it is seen as a whole."""
    window_stride: int | None = None
    """Step from one window to the next, pixels; two thirds of a window by default."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        check_numbers(self, 0, 1, names=("color_jitter",))
        check_numbers(self, 0, 1, names=("max_class_share",), above=True)
        check_numbers(self, 32, MAX_SIDE, names=("crop", "window"))
        check_numbers(self, 1, 256, names=("in_chans",))
        if self.window_stride is not None and (self.window is None or not 1 <= self.window_stride <= self.window):
            raise ValueError(
                f"window_stride is {self.window_stride}: expected 1 to the side of the window, which is {self.window}"
            )
        if self.jitter is not None and not 0.01 <= self.jitter[0] <= self.jitter[1] <= 10:
            raise ValueError(f"jitter is {self.jitter}: expected 0.01 <= smallest <= largest <= 10")
        if self.crop is not None and self.augment == "none":
            raise ValueError(f"crop is {self.crop}, and augment none takes all of a picture: leave out one")
        if self.segmenter == "mask2former" and (self.loss != "cross_entropy" or self.class_weights != "none"):
            raise ValueError("mask2former has losses of its own: leave out loss and class_weights")
        if self.targets == "panoptic" and self.segmenter != "mask2former":
            raise ValueError(f"targets are panoptic, and {self.segmenter} tells no segments: use mask2former")
        if self.targets == "panoptic" and self.window is not None:
            raise ValueError("targets are panoptic, and segments are told of a picture as a whole: leave out window")
        if self.thing_classes is not None and self.segmenter != "mask2former":
            raise ValueError(f"thing_classes are given, and {self.segmenter} tells no segments: use mask2former")
        if self.loss == "dice" and self.class_weights != "none":
            raise ValueError("loss dice takes no class_weights: leave them out, or use cross_entropy+dice")
        weights = () if isinstance(self.class_weights, str) else self.class_weights
        fine = all(math.isfinite(weight) and weight >= 0 for weight in weights) and any(weights)
        if not isinstance(self.class_weights, str) and not fine:
            raise ValueError(f"class_weights are {weights}: expected a number of 0 or more for each class")
