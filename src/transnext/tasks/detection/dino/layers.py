"""Neck, encoder and decoder of DINO, on the layers of Deformable DETR of transformers, and their initial values."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrDecoderLayer,
    DeformableDetrEncoder,
    DeformableDetrEncoderLayer,
    DeformableDetrMultiscaleDeformableAttention,
    DeformableDetrSelfAttention,
)

from transnext.tasks.detection.dino.boxes import inverse_sigmoid
from transnext.tasks.detection.dino.queries import Levels, box_positions

_GROUPS = 32
_REFINED_EPSILON = 1e-3


def layer_config(*, embed_dim: int, num_heads: int, num_points: int, ffn_dim: int, levels: int) -> DeformableDetrConfig:
    """Parts of the layers of transformers."""
    config = DeformableDetrConfig(
        d_model=embed_dim,
        encoder_attention_heads=num_heads,
        decoder_attention_heads=num_heads,
        encoder_n_points=num_points,
        decoder_n_points=num_points,
        encoder_ffn_dim=ffn_dim,
        decoder_ffn_dim=ffn_dim,
        num_feature_levels=levels,
        dropout=0.0,
        disable_custom_kernels=True,
    )
    # Before a layer is built: the default adds a mask of True and False to the scores instead of obeying it.
    config._attn_implementation = "sdpa"
    return config


class ConvNorm(nn.Module):
    """A convolution without bias, and a group norm.

    Args:
        channels: Of the input.
        width: Of the output, a multiple of 32.
        kernel: Side of the kernel, pixels.
        stride: Pixels.
    """

    def __init__(self, channels: int, width: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.gn = nn.GroupNorm(_GROUPS, width)
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels, H, W]` to `[B, width, ceil(H / stride), ceil(W / stride)]`."""
        x = self.gn(self.conv(x))
        return x


class Neck(nn.Module):
    """Maps of one width, and one more of twice the coarsest stride.

    Args:
        channels: Of each map.
        width: Of all.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvNorm(c, width) for c in channels)
        self.extra_convs = nn.ModuleList([ConvNorm(channels[-1], width, kernel=3, stride=2)])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps `[B, channels, h, w]`, the finest first, to one more of `[B, width, h, w]`."""
        return [conv(x) for conv, x in zip((*self.convs, *self.extra_convs), (*maps, maps[-1]), strict=True)]


class Encoder(nn.Module):
    """Layers in which tokens look around themselves on all maps.

    Args:
        config: Of a layer.
        depth: Layers.

    Attributes:
        grad_checkpointing: Recompute the activations of each layer in the backward pass.
    """

    def __init__(self, config: DeformableDetrConfig, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DeformableDetrEncoderLayer(config) for _ in range(depth))
        self.grad_checkpointing = False

    def forward(self, tokens: Tensor, positions: Tensor, levels: Levels) -> Tensor:
        """Tokens `[B, T, d]` and their positions `[B, T, d]` to `[B, T, d]`."""
        around = {
            **_shapes(levels, tokens.device),
            "spatial_position_embeddings": positions,
            "reference_points": DeformableDetrEncoder.get_reference_points(
                levels.shapes, levels.ratios, device=tokens.device
            ),
        }
        for layer in self.layers:
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                tokens = checkpoint(layer, tokens, levels.valid, use_reentrant=False, **around)
            else:
                tokens = layer(tokens, levels.valid, **around)
        return tokens


class Refined(NamedTuple):
    """Outputs of the decoder after each of its layers.

    Attributes:
        states: `[B, Q, d]` each, normalised.
        references: float32 `[B, Q, 4]`, 0..1: the boxes before the first layer, and those after each.
    """

    states: list[Tensor]
    references: list[Tensor]


class Decoder(nn.Module):
    """Layers in which queries look at one another and at the tokens around their boxes, and move these.

    Args:
        config: Of a layer.
        depth: Layers.
    """

    def __init__(self, config: DeformableDetrConfig, depth: int) -> None:
        super().__init__()
        width = config.d_model
        self.layers = nn.ModuleList(DeformableDetrDecoderLayer(config) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.ref_point_head = BoxEncoding(width)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: Levels,
        box_heads: Iterable[nn.Module],
        visible: Tensor | None,
    ) -> Refined:
        """Refines queries and their boxes.

        Args:
            queries: `[B, Q, d]`.
            references: float32 `[B, Q, 4]`: logits of their boxes.
            memory: The tokens, `[B, T, d]`.
            levels: What these are.
            box_heads: Of each layer: a query to the change of its box, in logits.
            visible: bool `[Q, Q]`: which query (row) may see which; None if all may see all.
        """
        boxes = references.sigmoid()
        refined = Refined([], [boxes])
        ratios = levels.ratios.repeat(1, 1, 2)[:, None]
        shapes = _shapes(levels, memory.device)
        for layer, head in zip(self.layers, box_heads, strict=True):
            on_levels = boxes[:, :, None] * ratios
            queries = layer(
                queries,
                object_queries_position_embeddings=self.ref_point_head(on_levels[:, :, 0]),
                reference_points=on_levels,
                encoder_hidden_states=memory,
                encoder_attention_mask=levels.valid,
                attention_mask=None if visible is None else visible[None, None],
                **shapes,
            )
            # With its gradient it goes to the next layer's losses, without to the next layer: look forward twice.
            moved = (head(queries).float() + inverse_sigmoid(boxes, _REFINED_EPSILON)).sigmoid()
            boxes = moved.detach()
            refined.states.append(self.norm(queries))
            refined.references.append(moved)
        return refined


class BoxEncoding(nn.Module):
    """Boxes `[..., 4]` to what tells a query where it is, `[..., width]`.

    Args:
        width: A multiple of 4.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList([nn.Linear(2 * width, width), nn.Linear(width, width)])

    def forward(self, boxes: Tensor) -> Tensor:
        """See the class."""
        first, second = self.layers
        x: Tensor = second(first(box_positions(boxes, self.width // 2)).relu())
        return x


def box_head(width: int) -> nn.Sequential:
    """A query to a change of its box, in logits; none at first."""
    hidden = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    last = nn.Linear(width, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*hidden, last)


def class_head(width: int, num_classes: int) -> nn.Linear:
    """A query to logits of classes, each of probability 1 % at first."""
    head = nn.Linear(width, num_classes)
    nn.init.constant_(head.bias, -math.log(99))
    return head


def initialise(coder: nn.Module) -> None:
    """Gives encoder or decoder the released initial values; the layers of transformers come without any."""
    for parameter in coder.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    for module in coder.modules():
        if isinstance(module, DeformableDetrMultiscaleDeformableAttention):
            _initialise_deformable(module)
        elif isinstance(module, DeformableDetrSelfAttention):
            _initialise_self(module)


def _initialise_self(attention: DeformableDetrSelfAttention) -> None:
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        # As parts of one matrix of three times the rows, which they are in the released code.
        nn.init.xavier_uniform_(projection.weight, gain=0.5**0.5)
        nn.init.zeros_(projection.bias)
    nn.init.zeros_(attention.o_proj.bias)


def _initialise_deformable(attention: DeformableDetrMultiscaleDeformableAttention) -> None:
    """Points in a direction of each head, the n-th n pixels away along the longer axis, all weighted alike."""
    heads, points = attention.n_heads, attention.n_points
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack((angle.cos(), angle.sin()), -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    offsets = direction[:, None, None] * torch.arange(1, points + 1)[:, None]
    with torch.no_grad():
        attention.sampling_offsets.bias.copy_(offsets.expand(heads, attention.n_levels, points, 2).flatten())
    nn.init.zeros_(attention.sampling_offsets.weight)
    nn.init.zeros_(attention.attention_weights.weight)
    for layer in (attention.attention_weights, attention.value_proj, attention.output_proj):
        nn.init.zeros_(layer.bias)


def _shapes(levels: Levels, device: torch.device) -> dict[str, object]:
    """The shapes of maps as the layers of transformers want to be told."""
    shapes = torch.tensor(levels.shapes, device=device)
    areas = shapes.prod(1)
    return {
        "spatial_shapes": shapes,
        "spatial_shapes_list": levels.shapes,
        "level_start_index": areas.cumsum(0) - areas,
    }
