"""Options of classification alone."""

from dataclasses import dataclass

from transnext.limits import check_numbers


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """The classes: how their images are drawn, mixed and scored."""

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

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        check_numbers(self, 0, names=("mixup", "cutmix"))
        check_numbers(self, 0, 1, names=("label_smoothing", "mix_prob", "erasing"))
