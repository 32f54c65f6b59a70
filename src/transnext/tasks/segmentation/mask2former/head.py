"""The head of a Mask2Former: transformers' pixel decoder and masked-attention decoder, and their initial values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoderLayer,
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
    Mask2FormerTransformerModule,
)

GROUPS = 32
"""Of the group norms."""
MAPS = 3
"""Maps that pixel decoder and queries look at; the finest of the backbone only helps to draw the masks."""
POINTS = 4
"""Points that a head of the pixel decoder looks at on each map."""


@dataclass(frozen=True, kw_only=True)
class Mask2FormerSize:
    """How large a Mask2Former is, and how it learns; by default as released.

    Attributes:
        embed_dim: Width of tokens and queries, a multiple of 32 and of `num_heads`.
        mask_dim: Width in which masks are compared with pixels.
        num_heads: Heads of each attention.
        encoder_layers: Layers of the pixel decoder.
        encoder_ffn_dim: Width inside them.
        decoder_layers: Layers that refine the queries.
        decoder_ffn_dim: Width inside them.
        num_queries: Masks of an image.
        num_points: Points of a mask that it is trained on.
    """

    embed_dim: int = 256
    mask_dim: int = 256
    num_heads: int = 8
    encoder_layers: int = 6
    encoder_ffn_dim: int = 1024
    decoder_layers: int = 9
    decoder_ffn_dim: int = 2048
    num_queries: int = 100
    num_points: int = 12544


SIZES = {
    "released": Mask2FormerSize(),
    "small": Mask2FormerSize(
        embed_dim=128,
        mask_dim=128,
        encoder_layers=3,
        encoder_ffn_dim=512,
        decoder_layers=3,
        decoder_ffn_dim=512,
        num_points=3136,
    ),
}
"""Sizes by name; heads of the released size cost many times what a small backbone does."""


class Predictions(NamedTuple):
    """Classes and masks of all queries before the first layer of the decoder and after each: `L` outputs.

    Attributes:
        logits: float32 `[B, Q, classes + 1]` each; the last class is that of no object.
        masks: Logits, float32 `[B, Q, H / 4, W / 4]` each.
    """

    logits: list[Tensor]
    masks: list[Tensor]


class _Recomputing(nn.Module):
    """A layer that may recompute its activations in the backward pass."""

    grad_checkpointing = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)
        return super().forward(*args, **kwargs)


class _EncoderLayer(_Recomputing, Mask2FormerPixelDecoderEncoderLayer):
    pass


class _DecoderLayer(_Recomputing, Mask2FormerMaskedAttentionDecoderLayer):
    pass


class Mask2FormerHead(nn.Module):
    """Pixel decoder, queries and their decoder, classes.

    Args:
        channels: Of the backbone's maps, of strides 4, 8, 16 and 32.
        num_classes: Classes.
        size: How large it is.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, size: Mask2FormerSize) -> None:
        super().__init__()
        config = Mask2FormerConfig(
            feature_size=size.embed_dim,
            hidden_dim=size.embed_dim,
            mask_feature_size=size.mask_dim,
            num_attention_heads=size.num_heads,
            encoder_layers=size.encoder_layers,
            encoder_feedforward_dim=size.encoder_ffn_dim,
            decoder_layers=size.decoder_layers + 1,  # transformers counts the output before the first layer
            dim_feedforward=size.decoder_ffn_dim,
            num_queries=size.num_queries,
            dropout=0.0,
        )
        self.pixel_decoder = Mask2FormerPixelDecoder(config, list(channels))
        self.transformer_module = Mask2FormerTransformerModule(size.embed_dim, config)
        self.class_predictor = nn.Linear(size.embed_dim, num_classes + 1)
        encoder, decoder = self.pixel_decoder.encoder, self.transformer_module.decoder
        encoder.layers = nn.ModuleList(_EncoderLayer(config) for _ in range(size.encoder_layers))
        decoder.layers = nn.ModuleList(_DecoderLayer(config) for _ in range(size.decoder_layers))
        _initialise(self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of the layers of both decoders in the backward pass."""
        for layer in (*self.pixel_decoder.encoder.layers, *self.transformer_module.decoder.layers):
            layer.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed, beside those of one dimension."""
        return {f"transformer_module.{name}.weight" for name in ("queries_embedder", "queries_features", "level_embed")}

    def pixels(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Maps for the queries to look at, and features of the pixels to compare them with.

        Args:
            maps: `[B, C, h, w]` of strides 4, 8, 16 and 32.

        Returns:
            Maps `[B, embed_dim, h, w]` of strides 32, 16 and 8, and features `[B, mask_dim, H / 4, W / 4]`.
        """
        # Under autocast, too: positions are told in the type of the maps, and bfloat16 cannot tell neighbours apart.
        dtype = self.class_predictor.weight.dtype
        decoded = self.pixel_decoder([image_map.to(dtype) for image_map in maps])
        return [image_map.to(dtype) for image_map in decoded.multi_scale_features], decoded.mask_features.to(dtype)

    def decode(self, memories: Sequence[Tensor], features: Tensor) -> Predictions:
        """Refines the queries; see `pixels`."""
        decoded = self.transformer_module(list(memories), features)
        return Predictions(
            [self.class_predictor(state.transpose(0, 1)).float() for state in decoded.intermediate_hidden_states],
            [masks.float() for masks in decoded.masks_queries_logits],
        )

    def forward(self, maps: Sequence[Tensor]) -> Predictions:
        """Classes and masks from the backbone's maps `[B, C, h, w]` of strides 4, 8, 16 and 32."""
        return self.decode(*self.pixels(maps))


def _initialise(head: Mask2FormerHead) -> None:
    """Gives the parameters their initial values in the released training; the rest keeps PyTorch's own."""
    pixel_decoder = head.pixel_decoder
    for projection in pixel_decoder.input_projections:
        nn.init.xavier_uniform_(projection[0].weight)
        nn.init.zeros_(projection[0].bias)
    for conv in (pixel_decoder.adapter_1[0], pixel_decoder.layer_1[0], pixel_decoder.mask_projection):
        nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.zeros_(pixel_decoder.mask_projection.bias)
    nn.init.normal_(pixel_decoder.level_embed)
    for layer in pixel_decoder.encoder.layers:
        nn.init.xavier_normal_(layer.fc1.weight)
        nn.init.xavier_normal_(layer.fc2.weight)
        _initialise_deformable(layer.self_attn)
    for layer in head.transformer_module.decoder.layers:
        for parameter in layer.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_normal_(parameter)
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            # They are one matrix there, which counts as one of three times as many outputs.
            nn.init.xavier_normal_(projection.weight, gain=2**-0.5)
            nn.init.zeros_(projection.bias)
        nn.init.zeros_(layer.self_attn.out_proj.bias)


def _initialise_deformable(attention: Any) -> None:
    """Lets each head look into a direction of its own at first, all points alike, each one further out."""
    angles = torch.arange(attention.n_heads) * (2 * math.pi / attention.n_heads)
    directions = torch.stack((angles.cos(), angles.sin()), -1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, attention.n_points + 1)[:, None]
    offsets = (directions[:, None, None] * steps).expand(-1, attention.n_levels, -1, -1)
    with torch.no_grad():
        attention.sampling_offsets.bias.copy_(offsets.flatten())
    nn.init.zeros_(attention.sampling_offsets.weight)
    for projection in (attention.value_proj, attention.output_proj):
        nn.init.xavier_uniform_(projection.weight)
        nn.init.zeros_(projection.bias)
    nn.init.zeros_(attention.attention_weights.weight)
    nn.init.zeros_(attention.attention_weights.bias)
