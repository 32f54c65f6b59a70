"""UPerNet on any backbone, as the released models are built and trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor

from transnext.models.backbone import Backbone
from transnext.tasks.segmentation.losses import PixelLoss
from transnext.tasks.segmentation.net import IGNORED, SegmentationNet
from transnext.tasks.segmentation.upernet.layers import AuxiliaryHead, PyramidHead


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Widths and numbers of a UPerNet; by default the released ones.

    Attributes:
        channels: Of the pyramid.
        pool_scales: Rows and columns of each pooled view of the coarsest map.
        dropout: Share of the channels left out before the classifiers in training, 0..1.
        auxiliary_channels: Of the auxiliary head; 0 to have none.
        auxiliary_convs: Convolutions of the auxiliary head.
        auxiliary_weight: Of its loss.
    """

    channels: int = 512
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    dropout: float = 0.1
    auxiliary_channels: int = 256
    auxiliary_convs: int = 1
    auxiliary_weight: float = 0.4


PRESETS = {"released": Sizes(), "small": Sizes(channels=128, auxiliary_channels=64)}
"""Sizes by name; heads of the released size cost many times what a small backbone does."""


class UPerNet(SegmentationNet):
    """UPerNet, with an auxiliary head on the second-coarsest map.

    Args:
        backbone: Gives two maps or more.
        num_classes: Classes, at least 2.
        sizes: Widths and numbers.
        criterion: The loss of both heads.

    Attributes:
        criterion: See above; may be changed.

    Raises:
        ValueError: It cannot be built so.
    """

    def __init__(self, backbone: Backbone, num_classes: int, sizes: Sizes, criterion: PixelLoss) -> None:
        super().__init__()
        if not 2 <= num_classes <= IGNORED:
            raise ValueError(
                f"num_classes is {num_classes}: expected 2 to {IGNORED}; one kind of thing and all else are two classes"
            )
        if len(backbone.strides) < 2:
            raise ValueError(f"the backbone gives one map, of stride {backbone.strides[0]}: UPerNet needs two at least")
        if sizes.channels < 1 or not sizes.pool_scales or min(sizes.pool_scales) < 1:
            raise ValueError(
                f"channels is {sizes.channels}, pool_scales {sizes.pool_scales}: expected one at least, all positive"
            )
        if sizes.auxiliary_channels and sizes.auxiliary_convs < 1:
            raise ValueError("auxiliary_convs is 0: leave the auxiliary head out with auxiliary_channels=0")
        criterion.check(num_classes)
        self.num_classes = num_classes
        self.backbone = backbone
        self.sizes = sizes
        self.criterion = criterion
        self.decode_head = PyramidHead(
            backbone.channels, sizes.channels, num_classes, pool_scales=sizes.pool_scales, dropout=sizes.dropout
        )
        self.auxiliary_head = (
            AuxiliaryHead(
                backbone.channels[-2],
                sizes.auxiliary_channels,
                num_classes,
                convs=sizes.auxiliary_convs,
                dropout=sizes.dropout,
            )
            if sizes.auxiliary_channels
            else None
        )

    def losses(self, images: Tensor, sizes: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """See `SegmentationNet.losses`.

        Raises:
            ValueError: The maps lie on another canvas than the images.
        """
        if maps.shape[-2:] != images.shape[-2:]:
            seen, canvas = tuple(maps.shape[-2:]), tuple(images.shape[-2:])
            raise ValueError(f"maps are {seen}, the images {canvas} pixels: both must lie on the same canvas")
        features = self.backbone(images)
        losses: dict[str, Tensor] = self.criterion(self.decode_head(features), maps)
        if self.auxiliary_head is not None:
            auxiliary = self.criterion(self.auxiliary_head(features[-2]), maps)
            losses |= {f"auxiliary_{name}": self.sizes.auxiliary_weight * loss for name, loss in auxiliary.items()}
        return losses

    def scores(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Logits `[B, classes, h, w]` at the stride of the finest map; see `SegmentationNet.scores`."""
        logits: Tensor = self.decode_head(self.backbone(images))
        return logits.float()

    def args(self) -> dict[str, Any]:
        """See `SegmentationNet.args`: arguments of `upernet`."""
        sizes = asdict(self.sizes) | {"pool_scales": list(self.sizes.pool_scales)}
        return {"num_classes": self.num_classes, **self.criterion.args(), **sizes}


def upernet(
    backbone: Backbone,
    num_classes: int,
    *,
    size: str = "released",
    loss: str = "cross_entropy",
    class_weights: Sequence[float] | Tensor | None = None,
    focal_gamma: float = 2.0,
    **overrides: Any,
) -> UPerNet:
    """A UPerNet.

    Args:
        backbone: Gives two maps or more, the finest first.
        num_classes: Classes, 2 to 255; a binary mask is two.
        size: "released", or "small" for small backbones and small sets.
        loss: See `PixelLoss`, as the next two.
        class_weights: Factor of each class.
        focal_gamma: Exponent of the focal loss.
        overrides: Fields of `Sizes`.

    Raises:
        ValueError: It cannot be built so.
    """
    if size not in PRESETS:
        raise ValueError(f"no size of UPerNet is called {size!r}: choose one of {', '.join(PRESETS)}")
    known = [field.name for field in fields(Sizes)]
    if unknown := [name for name in overrides if name not in known]:
        raise ValueError(f"UPerNet has no option {', '.join(unknown)}: its options are {', '.join(known)}")
    if "pool_scales" in overrides:
        overrides["pool_scales"] = tuple(overrides["pool_scales"])
    criterion = PixelLoss(loss, class_weights=class_weights, focal_gamma=focal_gamma)
    return UPerNet(backbone, num_classes, replace(PRESETS[size], **overrides), criterion)
