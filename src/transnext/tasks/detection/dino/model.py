"""DINO (Zhang et al., "DETR with Improved DeNoising Anchor Boxes", ICLR 2023), as the released code trains it.

Queries start at the boxes that the encoder proposes and with learned contents (mixed query selection); each layer moves
the boxes. Beside the matching queries, which are paired with objects by the cheapest assignment, noisy objects are
queries in training (contrastive denoising). There is no suppression of overlapping boxes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection.dino.boxes import corners, inverse_sigmoid, rows_at
from transnext.tasks.detection.dino.denoising import Denoising
from transnext.tasks.detection.dino.layers import (
    Decoder,
    Encoder,
    Neck,
    Refined,
    box_head,
    class_head,
    initialise,
    layer_config,
)
from transnext.tasks.detection.dino.losses import losses_of_outputs
from transnext.tasks.detection.dino.matching import Objects, match
from transnext.tasks.detection.dino.queries import Levels
from transnext.tasks.detection.net import DetectionNet, Found
from transnext.tasks.headed import lr_scale, mean_over_processes

STRIDES = {4: (8, 16, 32), 5: (4, 8, 16, 32)}
"""Scales -> strides of the maps that the backbone gives; one more, of stride 64, is made of the last."""
_HEAD_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class DinoSize:
    """How large a DINO is, and how it learns.

    Attributes:
        embed_dim: Width of tokens and queries, a multiple of 32 and of `num_heads`.
        num_heads: Heads of each attention.
        num_points: Points that a head looks at on each map.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        ffn_dim: Width inside the layers.
        num_queries: Objects that can be found in an image.
        dn_queries: Objects of the fullest image times denoising groups, at most, if they are more than one group.
        label_noise: Twice the part of denoising labels that are random.
        box_noise: Up to how much of half a side denoising corners move.
        max_detections: Objects that are named in an image, at most.
    """

    embed_dim: int = 256
    num_heads: int = 8
    num_points: int = 4
    encoder_layers: int = 6
    decoder_layers: int = 6
    ffn_dim: int = 2048
    num_queries: int = 900
    dn_queries: int = 100
    label_noise: float = 0.5
    box_noise: float = 1.0
    max_detections: int = 300


SIZES = {
    "released": DinoSize(),
    "small": DinoSize(embed_dim=128, encoder_layers=2, decoder_layers=3, ffn_dim=512, num_queries=100, dn_queries=50),
}


def dino(backbone: Backbone, num_classes: int, *, scales: int = 4, size: str = "released", **overrides: Any) -> "Dino":
    """A DINO with its initial values.

    Args:
        backbone: Has maps of strides 8, 16, 32 and, for 5 scales, 4.
        num_classes: Classes.
        scales: Maps that it looks at, 4 or 5.
        size: "released", or "small" for small backbones.
        overrides: What differs from that size, see `DinoSize`.

    Raises:
        ValueError: There is no such size or number of scales, or the backbone lacks a map.
    """
    if size not in SIZES:
        raise ValueError(f"DINO has no size {size!r}: choose one of {', '.join(SIZES)}")
    known = [field.name for field in fields(DinoSize)]
    if unknown := [name for name in overrides if name not in known]:
        raise ValueError(f"DINO has no {', '.join(unknown)}: it has {', '.join(known)}")
    return Dino(backbone, num_classes, scales, replace(SIZES[size], **overrides))


class Proposals(NamedTuple):
    """What the encoder proposes: the best of a box around each token.

    Attributes:
        logits: float32 `[B, Q, C]`.
        boxes: float32 `[B, Q, 4]`: logits of centre and sides.
    """

    logits: Tensor
    boxes: Tensor


class Predictions(NamedTuple):
    """Classes and boxes of all queries after each layer of the decoder.

    Attributes:
        logits: float32 `[L, B, Q, C]`.
        boxes: float32 `[L, B, Q, 4]`: centre and sides as parts of the image, 0..1.
    """

    logits: Tensor
    boxes: Tensor


class Dino(DetectionNet):
    """DINO on any backbone; see `dino`.

    Args:
        backbone: Has maps of `STRIDES[scales]`.
        num_classes: Classes.
        scales: 4 or 5.
        size: How large it is.

    Attributes:
        max_detections: Objects that are named in an image, at most; may be changed.

    Raises:
        ValueError: It cannot be built so.
    """

    with_masks = False

    def __init__(self, backbone: Backbone, num_classes: int, scales: int, size: DinoSize) -> None:
        super().__init__()
        self._levels_used = _levels_used(backbone, scales)
        _check(num_classes, size)
        self.backbone = backbone
        self.num_classes = num_classes
        self.max_detections = size.max_detections
        self._scales, self._size = scales, size

        width = size.embed_dim
        config = layer_config(
            embed_dim=width,
            num_heads=size.num_heads,
            num_points=size.num_points,
            ffn_dim=size.ffn_dim,
            levels=scales,
        )
        self.neck = Neck([backbone.channels[level] for level in self._levels_used], width)
        self.level_embed = nn.Parameter(torch.randn(scales, width))
        self.encoder = Encoder(config, size.encoder_layers)
        self.memory_trans_fc = nn.Linear(width, width)
        self.memory_trans_norm = nn.LayerNorm(width)
        self.query_embedding = nn.Embedding(size.num_queries, width)
        self.label_embedding = nn.Embedding(num_classes, width)
        self.decoder = Decoder(config, size.decoder_layers)
        # The last of each is for what the encoder proposes.
        self.cls_branches = nn.ModuleList(class_head(width, num_classes) for _ in range(size.decoder_layers + 1))
        self.reg_branches = nn.ModuleList(box_head(width) for _ in range(size.decoder_layers + 1))
        initialise(self.encoder)
        initialise(self.decoder)
        nn.init.xavier_uniform_(self.memory_trans_fc.weight)
        nn.init.xavier_uniform_(self.query_embedding.weight)

    @property
    def num_queries(self) -> int:
        """See `DetectionNet.num_queries`."""
        return self._size.num_queries

    def args(self) -> dict[str, Any]:
        """See `DetectionNet.args`."""
        size = {**asdict(self._size), "max_detections": self.max_detections}
        return {"num_classes": self.num_classes, "scales": self._scales, **size}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of the backbone's blocks and the encoder's layers in the backward pass."""
        self.backbone.set_grad_checkpointing(enable)
        self.encoder.grad_checkpointing = enable

    def slow_parameters(self) -> set[str]:
        """See `DetectionNet.slow_parameters`: not all of the backbone, as in the released configurations."""
        return {name for name, _ in self.named_parameters() if lr_scale(name) < 1}

    def losses(self, images: Tensor, sizes: Tensor, targets: Sequence[Instances]) -> dict[str, Tensor]:
        """See `DetectionNet.losses`; named as in the released training.

        `loss_cls`, `loss_bbox` and `loss_iou` are those of the last layer, with `d0.`, `d1.`, ... before them of the
        first, second, ...; `enc_loss_*` of the encoder's proposals, `dn_loss_*` of denoising.
        """
        sizes = sizes.to(images.device)
        objects = Objects.of(targets, sizes)
        denoising = Denoising.of(
            objects,
            self.num_classes,
            queries=self._size.dn_queries,
            label_noise=self._size.label_noise,
            box_noise=self._size.box_noise,
        )
        memory, levels = self.encode(images, sizes)
        proposals = self.propose(memory, levels)
        predictions = self.predict(self.decode(proposals, memory, levels, denoising))
        noisy = Predictions(*(values[:, :, : denoising.count] for values in predictions))
        matching = Predictions(*(values[:, :, denoising.count :] for values in predictions))

        # The encoder's proposals are one more output, matched by itself.
        logits = torch.cat((matching.logits, proposals.logits[None]))
        boxes = torch.cat((matching.boxes, proposals.boxes.sigmoid()[None]))
        pairs = match(logits, boxes, objects)
        layers = len(matching.logits)
        noisy_pairs = denoising.pairs(layers)
        counts = torch.tensor([len(pairs.images), len(noisy_pairs.images)], dtype=torch.float32, device=images.device)
        matched, denoised = mean_over_processes(counts, least=1)
        of_matching = losses_of_outputs(logits, boxes, pairs, objects, matched)
        of_denoising = losses_of_outputs(noisy.logits, noisy.boxes, noisy_pairs, objects, denoised)

        losses: dict[str, Tensor] = {}
        for layer in range(layers):
            prefix = "" if layer == layers - 1 else f"d{layer}."
            losses |= {f"{prefix}{name}": values[layer] for name, values in of_matching.items()}
            losses |= {f"{prefix}dn_{name}": values[layer] for name, values in of_denoising.items()}
        return losses | {f"enc_{name}": values[-1] for name, values in of_matching.items()}

    def detect(self, images: Tensor, sizes: Tensor) -> list[Found]:
        """See `DetectionNet.detect`: the likeliest `max_detections` of all queries and classes."""
        return [
            Found(boxes=box, scores=score, labels=label)
            for box, score, label in zip(*self.ranked(images, sizes), strict=True)
        ]

    def ranked(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The likeliest pairs of query and class, as many of each image.

        Args:
            images: See `detect`.
            sizes: See `detect`.

        Returns:
            Boxes `[B, K, 4]`, scores `[B, K]` and labels `[B, K]`, as in `Found`.
        """
        sizes = sizes.to(images.device)
        memory, levels = self.encode(images, sizes)
        predictions = self.predict(self.decode(self.propose(memory, levels), memory, levels))
        every = predictions.logits[-1].sigmoid().flatten(1)
        scores, places = every.topk(min(self.max_detections, every.shape[1]))
        rows, columns = sizes[:, :1, None], sizes[:, 1:, None]
        sides = torch.cat((columns, rows, columns, rows), -1).float()
        boxes = corners(predictions.boxes[-1]) * sides
        boxes = torch.minimum(boxes.clamp(min=0), sides)
        return rows_at(boxes, places // self.num_classes), scores, places % self.num_classes

    def encode(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Levels]:
        """The tokens of images after the encoder, `[B, T, d]`, and what they are; see `losses`."""
        maps = self.backbone(images)
        maps = self.neck([maps[level] for level in self._levels_used])
        shapes = [(x.shape[2], x.shape[3]) for x in maps]
        height, width = images.shape[2:]
        levels = Levels.of(shapes, sizes, (height, width), self._size.embed_dim)
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        lengths = torch.tensor([rows * columns for rows, columns in shapes], device=images.device)
        positions = levels.positions + self.level_embed.repeat_interleave(lengths, 0)
        return self.encoder(tokens, positions, levels), levels

    def propose(self, memory: Tensor, levels: Levels) -> Proposals:
        """The likeliest `num_queries` boxes around tokens, or all where a canvas has fewer tokens."""
        boxes, there = levels.proposals()
        tokens = self.memory_trans_norm(self.memory_trans_fc(memory.masked_fill(~there[..., None], 0)))
        logits = self.cls_branches[-1](tokens).float()
        best = logits.amax(-1).topk(min(self._size.num_queries, logits.shape[1]))[1]
        moved = self.reg_branches[-1](rows_at(tokens, best)).float() + rows_at(boxes, best)
        return Proposals(rows_at(logits, best), moved)

    def decode(
        self, proposals: Proposals, memory: Tensor, levels: Levels, denoising: Denoising | None = None
    ) -> Refined:
        """Refines the queries of denoising, which come first, and those at the proposals; see `Decoder.forward`."""
        references = proposals.boxes.detach()
        batch, count = references.shape[:2]
        queries = self.query_embedding.weight[:count].expand(batch, -1, -1)
        visible = None
        if denoising is not None:
            queries = torch.cat((denoising.contents(self.label_embedding), queries), 1)
            references = torch.cat((denoising.references(), references), 1)
            visible = denoising.visible(count)
        return self.decoder(queries, references, memory, levels, self.reg_branches[:-1], visible)

    def predict(self, refined: Refined) -> Predictions:
        """Classes and boxes after each layer."""
        logits, boxes = [], []
        # Without the last references: a layer's box is a change of the one that it was given.
        for layer, (state, reference) in enumerate(zip(refined.states, refined.references[:-1], strict=True)):
            logits.append(self.cls_branches[layer](state).float())
            moved = self.reg_branches[layer](state).float() + inverse_sigmoid(reference, _HEAD_EPSILON)
            boxes.append(moved.sigmoid())
        return Predictions(torch.stack(logits), torch.stack(boxes))


def _levels_used(backbone: Backbone, scales: int) -> list[int]:
    """Places of the maps of a backbone that a DINO looks at."""
    if scales not in STRIDES:
        raise ValueError(f"scales is {scales!r}: DINO looks at 4 or 5")
    if missing := [stride for stride in STRIDES[scales] if stride not in backbone.strides]:
        raise ValueError(
            f"DINO with {scales} scales needs maps of strides {', '.join(map(str, STRIDES[scales]))}, the backbone "
            f"{backbone.name} was built without {', '.join(map(str, missing))}"
        )
    return [backbone.strides.index(stride) for stride in STRIDES[scales]]


def _check(num_classes: int, size: DinoSize) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}: a detector needs at least one class")
    for field in fields(size):
        value = getattr(size, field.name)
        least = 0 if field.name in ("label_noise", "box_noise") else 1
        if value < least:
            raise ValueError(f"{field.name} is {value}: it must be at least {least}")
    if size.embed_dim % 32 or size.embed_dim % size.num_heads:
        raise ValueError(
            f"embed_dim is {size.embed_dim}: it must be a multiple of 32 and of num_heads, which is {size.num_heads}"
        )
