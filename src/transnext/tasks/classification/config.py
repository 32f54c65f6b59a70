"""Options of classification alone."""

from dataclasses import dataclass

from transnext.choices import CropMode
from transnext.limits import check_numbers


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """The classes: how their images are drawn, cropped, augmented, mixed and scored."""

    crop_pct: float | None = None
    """Share of the image's side that evaluation looks at, 0..1; the model's own by default."""
    crop_mode: CropMode | None = None
    """How evaluation makes an image square: cut off, distorted or padded; the model's own by default."""
    auto_augment: str = "rand-m7-mstd0.5-inc1"
    """Policy in timm's notation, e.g. rand-m9-mstd0.5-inc1; empty for none."""
    color_jitter: float = 0.4
    """Strength of random brightness, contrast and saturation, 0..1; not used together with auto_augment."""
    crop_scale: tuple[float, float] = (0.4, 1.0)
    """Smallest and largest share of the image's area that a random crop takes."""
    balanced: bool = False
    """Draw images so that every class is seen equally often."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes, 0..1."""
    mixup: float = 0.2
    """Alpha of mixup; 0 for none."""
    cutmix: float = 1.0
    """Alpha of CutMix; 0 for none. With both, each batch gets one or the other."""
    mix_prob: float = 0.0
    """Probability that a batch is mixed at all, 0..1; worth 0.5 when there are hundreds of epochs."""
    erasing: float = 0.25
    """Probability that a rectangle of the image is replaced by noise."""
    dropout: float = 0.0
    """Dropout before the classifier."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        check_numbers(self, 0, names=("mixup", "cutmix"))
        check_numbers(self, 0, 1, names=("label_smoothing", "mix_prob", "erasing", "color_jitter", "dropout"))
        check_numbers(self, 0, 1, names=("crop_pct",), above=True)
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale is {self.crop_scale}: expected 0 < smallest <= largest <= 1")
