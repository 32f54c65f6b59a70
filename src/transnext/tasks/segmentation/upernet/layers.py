"""The two heads of a UPerNet, on maps of a backbone.

They are modules of our own, under the parameter names of transformers' `UperNetForSemanticSegmentation`, whose heads
have no dropout, cannot be trained on one image, and can be exported at one size only.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.ops.pooling import pool_by_products
from transnext.ops.tracing import is_exporting, is_symbolic


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that takes a single value of each channel, too, as pooling one image to 1x1 gives it.

    Such a value is its own mean, and nothing of it would be left: it is normalised by the running statistics, which it
    does not change.
    """

    def forward(self, input: Tensor) -> Tensor:
        """See `nn.BatchNorm2d`."""
        if self.training and input.numel() == self.num_features:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class ConvNormAct(nn.Module):
    """A convolution that keeps the size, batch normalisation and ReLU.

    Args:
        in_channels: Taken.
        channels: Given.
        kernel_size: Odd, pixels.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.batch_norm = BatchNorm(channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """`[B, in_channels, H, W]` to `[B, channels, H, W]`."""
        return F.relu(self.batch_norm(self.conv(x)))


class AveragePool(nn.Module):
    """Adaptive average pooling, of maps whose size is a symbol, too.

    Args:
        bins: Rows and columns that it gives.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C, bins, bins]`."""
        if is_exporting() or is_symbolic(*x.shape[2:]):
            return pool_by_products(x.permute(0, 2, 3, 1), (self.bins, self.bins)).permute(0, 3, 1, 2)
        return F.adaptive_avg_pool2d(x, self.bins)


class PyramidHead(nn.Module):
    """Views of the coarsest map pooled to several sizes, and a feature pyramid from there to the finest map.

    Args:
        in_channels: Of the maps, the finest first.
        channels: Of all layers.
        num_classes: Classes.
        pool_scales: Rows and columns of each pooled view.
        dropout: Share of the channels that are left out before the classifier in training.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        *,
        pool_scales: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        *finer, coarsest = in_channels
        self.psp_modules = nn.ModuleList(
            nn.Sequential(AveragePool(bins), ConvNormAct(coarsest, channels, 1)) for bins in pool_scales
        )
        self.bottleneck = ConvNormAct(coarsest + len(pool_scales) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvNormAct(width, channels, 1) for width in finer)
        self.fpn_convs = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in finer)
        self.fpn_bottleneck = ConvNormAct(len(in_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = pixel_classifier(channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits `[B, num_classes, H, W]` at the size of the finest of maps `[B, in_channels, H, W]`."""
        coarsest = maps[-1]
        views = [resized(pooled(coarsest), coarsest) for pooled in self.psp_modules]
        pyramid = [self.bottleneck(torch.cat([coarsest, *views], dim=1))]
        laterals = [lateral(of_level) for lateral, of_level in zip(self.lateral_convs, maps[:-1], strict=True)]
        for lateral in reversed(laterals):
            pyramid.insert(0, lateral + resized(pyramid[0], lateral))
        levels = [conv(of_level) for conv, of_level in zip(self.fpn_convs, pyramid[:-1], strict=True)]
        levels.append(pyramid[-1])
        finest = levels[0]
        x = self.fpn_bottleneck(torch.cat([finest, *(resized(level, finest) for level in levels[1:])], dim=1))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


class AuxiliaryHead(nn.Module):
    """Convolutions and a classifier on one map, which in training teach the backbone what its middle is for.

    Args:
        in_channels: Of the map.
        channels: Of all layers.
        num_classes: Classes.
        convs: Convolutions before the classifier, at least 1.
        dropout: Share of the channels that are left out before the classifier in training.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, convs: int, dropout: float) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * (convs - 1)]
        self.convs = nn.Sequential(*(ConvNormAct(width, channels, 3) for width in widths))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = pixel_classifier(channels, num_classes)

    def forward(self, of_level: Tensor) -> Tensor:
        """`[B, in_channels, H, W]` to logits `[B, num_classes, H, W]`."""
        logits: Tensor = self.classifier(self.dropout(self.convs(of_level)))
        return logits


def pixel_classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """A new classifier of each pixel for itself, with the released initial values."""
    classifier = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)  # type: ignore[arg-type]
    return classifier


def resized(x: Tensor, like: Tensor) -> Tensor:
    """`[B, C, h, w]` at the rows and columns of another map, bilinear between the centres of pixels."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
