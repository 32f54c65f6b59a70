"""Patch embedding, convolutional GLU and the block that joins them with a token mixer. Maps are `[B, H, W, C]`."""

from collections.abc import Callable

import torch
import torch.fx
from timm.layers import DropPath
from torch import Tensor, nn

from transnext.models.attention import Mixer, Product, call
from transnext.ops import Backend, depthwise_conv_gelu_gate

# Leaves for torch.fx: they look at sizes and dtypes.
torch.fx.wrap("depthwise_conv_gelu_gate")


class PatchEmbed(nn.Module):
    """Overlapping patch embedding: a strided convolution of kernel `2 * stride - 1` and a LayerNorm.

    Args:
        in_chans: Channels of the input.
        embed_dim: Channels of the output.
        stride: Pixels between patches; the output has `ceil(H / stride)` rows.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(
        self,
        in_chans: int,
        embed_dim: int,
        stride: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            in_chans, embed_dim, 2 * stride - 1, stride=stride, padding=stride - 1, device=device, dtype=dtype
        )
        self.norm = nn.LayerNorm(embed_dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, in_chans]` to `[B, ceil(H / stride), ceil(W / stride), embed_dim]`."""
        return self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class DepthwiseGate(nn.Conv2d):
    """The depthwise convolution of the convolutional GLU with its GELU and gate: `[B, H, W, 2 F]` to `[B, H, W, F]`.

    Args:
        features: Hidden channels, `F`.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(
        self, features: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(features, features, 3, padding=1, groups=features, device=device, dtype=dtype)
        self.backend: Backend = "auto"

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, 2 F]` to `[B, H, W, F]`."""
        return depthwise_conv_gelu_gate(x, self.weight, self.bias, self.backend)


class ConvGLU(nn.Module):
    """Convolutional gated linear unit, the channel mixer (TransNeXt, section 3.5).

    Args:
        dim: Channels.
        mlp_ratio: Hidden channels are `int(2 / 3 * mlp_ratio * dim)`: as many parameters as an MLP of that ratio.
        drop: Dropout probability after the gate and after the output.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float,
        drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = int(2 / 3 * mlp_ratio * dim)
        self.fc1 = nn.Linear(dim, 2 * hidden, device=device, dtype=dtype)
        self.dwconv = DepthwiseGate(hidden, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, dim, device=device, dtype=dtype)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, stand_in: Callable[["ConvGLU", Tensor], Tensor] | None = None) -> Tensor:
        """`[B, H, W, C]` to `[B, H, W, C]`, by `stand_in` instead of the layers if it is given."""
        return self.by_layers(x) if stand_in is None else stand_in(self, x)

    def by_layers(self, x: Tensor, product: Product = call) -> Tensor:
        """`[B, H, W, C]` to `[B, H, W, C]`, the Linears by `product`."""
        return self.drop(product(self.fc2, self.drop(self.dwconv(product(self.fc1, x)))))


class Block(nn.Module):
    """Pre-norm residual block: token mixer, then convolutional GLU.

    Args:
        mixer: Token mixer, `[B, H, W, C]` to the same.
        mlp: Channel mixer, likewise.
        dim: Channels.
        norm_layer: Makes a LayerNorm of `dim` channels.
        drop_path: Probability that a residual branch is skipped in training.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(
        self,
        mixer: Mixer,
        mlp: ConvGLU,
        dim: int,
        norm_layer: Callable[..., nn.Module],
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim, device=device, dtype=dtype)
        self.attn = mixer
        self.norm2 = norm_layer(dim, device=device, dtype=dtype)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, C]` to `[B, H, W, C]`."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
