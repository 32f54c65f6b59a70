"""D-FINE, a DETR for small sets and small machines: transformers' encoder and decoder on any backbone."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert
from transformers import DFineConfig, DFineForObjectDetection, ResNetConfig
from transformers.modeling_outputs import BaseModelOutput

from transnext.data.class_names import kept_places
from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection.d_fine_losses import d_fine_losses
from transnext.tasks.detection.net import DetectionNet, Found

STRIDES = (8, 16, 32)
MAX_DETECTIONS = 300
PRIOR = 0.01
"""Probability that every class is given at first: few objects among many queries."""
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "d_model": 128,
        "decoder_layers": 3,
        "num_queries": 100,
        "encoder_ffn_dim": 512,
        "decoder_ffn_dim": 512,
        "hidden_expansion": 0.5,
        "depth_mult": 1 / 3,
        "num_denoising": 100,
        "label_noise_ratio": 0.5,
        "box_noise_scale": 1.0,
    },
    "base": {
        "d_model": 256,
        "decoder_layers": 6,
        "num_queries": 300,
        "encoder_ffn_dim": 1024,
        "decoder_ffn_dim": 1024,
        "hidden_expansion": 1.0,
        "depth_mult": 1.0,
        "num_denoising": 100,
        "label_noise_ratio": 0.5,
        "box_noise_scale": 1.0,
    },
}
"""Arguments of transformers' `DFineConfig`; as many blocks of convolutions as three times `depth_mult`."""
_PLACES = sum((32 // stride) ** 2 for stride in STRIDES)


class DFine(DetectionNet):
    """D-FINE on a backbone.

    Under autocast the backbone and the encoder, which cost most, run in the lower precision, the decoder and the
    losses in float32: bfloat16 cannot tell neighbouring pixels of a large image apart.

    Args:
        backbone: Gives maps of strides 8, 16 and 32.
        num_classes: Classes, at least 1.
        size: Preset of `SIZES`.
        overrides: What differs from the preset.
        max_detections: Objects named of an image, at most.

    Attributes:
        head: transformers' `DFineModel` without its backbone.
        max_detections: As given; may be changed.

    Raises:
        ValueError: The backbone has other strides, or there is no such preset or entry of one.
    """

    with_masks = False

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        size: str,
        overrides: dict[str, Any],
        max_detections: int = MAX_DETECTIONS,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"d_fine has no size {size!r}: choose one of {', '.join(SIZES)}")
        if unknown := overrides.keys() - SIZES[size].keys():
            raise ValueError(f"d_fine has no {', '.join(sorted(unknown))}: there are {', '.join(SIZES[size])}")
        if tuple(backbone.strides) != STRIDES:
            raise ValueError(f"d_fine needs maps of strides {STRIDES}, the backbone gives those of {backbone.strides}")
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}: a detector has at least one class")
        self.backbone = backbone
        self.num_classes = num_classes
        self.size = size
        self.overrides = overrides
        self.max_detections = max_detections
        self.head = _head(backbone.channels, num_classes, {**SIZES[size], **overrides})

    @property
    def num_queries(self) -> int:
        """See `DetectionNet.num_queries`."""
        return int(self.head.config.num_queries)

    def args(self) -> dict[str, Any]:
        """Arguments that build the network again, of `nets.build_net`."""
        return {
            "num_classes": self.num_classes,
            "size": self.size,
            "max_detections": self.max_detections,
            **self.overrides,
        }

    def losses(self, images: Tensor, sizes: Tensor, targets: Sequence[Instances]) -> dict[str, Tensor]:
        """Losses of a batch, weights applied; see `DetectionNet.losses` and `d_fine_losses.TERMS`.

        Denoising draws from the generator of the images' device.
        """
        canvas = self._canvas(images)
        height, width = canvas.shape[-2:]
        scale = torch.tensor([width, height, width, height], dtype=torch.float32, device=canvas.device)
        labels = [
            {"class_labels": image.labels, "boxes": box_convert(image.boxes.float() / scale, "xyxy", "cxcywh")}
            for image in targets
        ]
        outputs = self._outputs(canvas, labels)
        with torch.autocast(canvas.device.type, enabled=False):
            losses = d_fine_losses(self.head.config, outputs, labels)
            if self.head.config.num_denoising > 0 and outputs.denoising_meta_values is None:
                # Without objects there is nothing to denoise, but each process must have a gradient of everything.
                losses["dn_class"] = losses["dn_class"] + 0 * self.head.denoising_class_embed.weight.sum()
        return losses

    def detect(self, images: Tensor, sizes: Tensor) -> list[Found]:
        """The likeliest pairs of query and class, `max_detections` at most; those beyond the image are left out."""
        boxes, scores, labels = self.ranked(images, sizes)
        is_there = ~(boxes[..., 2:] <= boxes[..., :2]).any(-1)  # what is not finite stays, to be refused
        return [
            Found(boxes=box[there], scores=score[there], labels=label[there])
            for box, score, label, there in zip(boxes, scores, labels, is_there, strict=True)
        ]

    def ranked(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The likeliest pairs of query and class, as many of each image; those beyond it have no area.

        Args:
            images: See `detect`.
            sizes: See `detect`.

        Returns:
            Boxes `[B, K, 4]`, scores `[B, K]` and labels `[B, K]`, as in `Found`.
        """
        logits, boxes = self.queries(images)
        scores, places = logits.sigmoid().flatten(1).topk(min(self.max_detections, logits[0].numel()))
        chosen = boxes.gather(1, (places // self.num_classes).unsqueeze(-1).expand(-1, -1, 4))
        limits = sizes.to(boxes).flip(1).repeat(1, 2).unsqueeze(1)
        return torch.minimum(chosen.clamp(min=0), limits), scores, places % self.num_classes

    def queries(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of every query.

        Args:
            images: float32 `[B, 3, H, W]`, normalised.

        Returns:
            Logits of the classes, `[B, queries, classes]`, and boxes in pixels, `[B, queries, 4]`: x0, y0, x1, y1,
            which may reach beyond the image; float32.
        """
        canvas = self._canvas(images)
        outputs = self._outputs(canvas)
        height, width = canvas.shape[-2:]
        boxes = box_convert(outputs.intermediate_reference_points[:, -1].float(), "cxcywh", "xyxy")
        return outputs.intermediate_logits[:, -1].float(), boxes * boxes.new_tensor([width, height, width, height])

    def _outputs(self, canvas: Tensor, labels: list[dict[str, Tensor]] | None = None) -> Any:
        projected = [
            project(image_map)
            for project, image_map in zip(self.head.encoder_input_proj, self.backbone(canvas), strict=True)
        ]
        maps = self.head.encoder(projected).last_hidden_state
        dtype = self.head.enc_score_head.weight.dtype
        with torch.autocast(canvas.device.type, enabled=False):
            encoded = BaseModelOutput(last_hidden_state=[image_map.to(dtype) for image_map in maps])
            # Of the first map only batch and device are asked for, as the encoder has run.
            return self.head(None, inputs_embeds=encoded.last_hidden_state[0], encoder_outputs=encoded, labels=labels)

    def _canvas(self, images: Tensor) -> Tensor:
        """Images with zeros around, so that sides are multiples of 32 and there are as many places as queries."""
        height, width = images.shape[-2:]
        rows, columns = math.ceil(height / 32), math.ceil(width / 32)
        # Batch norm in training cannot do with one place.
        while rows * columns < max(2, self.head.config.num_queries / _PLACES):
            rows, columns = (rows + 1, columns) if rows < columns else (rows, columns + 1)
        return F.pad(images, (0, 32 * columns - width, 0, 32 * rows - height))


def d_fine(
    backbone: Backbone,
    num_classes: int,
    *,
    size: Literal["small", "base"] = "small",
    max_detections: int = MAX_DETECTIONS,
    **overrides: Any,
) -> DFine:
    """Builds a D-FINE with random weights behind the backbone.

    Args:
        backbone: Gives maps of strides 8, 16 and 32.
        num_classes: Classes, at least 1.
        size: "small" (width 128, 3 layers, 100 queries) or "base" (256, 6, 300).
        max_detections: Objects named of an image, at most.
        overrides: Entries of `SIZES` that differ, for example `num_queries`.

    Raises:
        ValueError: See `DFine`.
    """
    return DFine(backbone, num_classes, size, overrides, max_detections)


def replace_classes(net: DFine, old_names: Sequence[str], new_names: Sequence[str]) -> list[str]:
    """Gives a network other classes, in place; those that it knows by name, whatever the case, keep their weights.

    Args:
        net: The network.
        old_names: What its classes are called.
        new_names: What they are to be.

    Returns:
        The new names that kept their weights.

    Raises:
        ValueError: There are not as many old names as classes, or no new ones.
    """
    if len(old_names) != net.num_classes:
        raise ValueError(f"there are {len(old_names)} names for the {net.num_classes} classes of the network")
    if not new_names:
        raise ValueError("there are no new classes: name at least one")
    kept = kept_places(old_names, new_names)
    to, taken = list(kept), list(kept.values())

    def replaced(old: nn.Linear) -> nn.Linear:
        new = nn.Linear(old.in_features, len(new_names)).to(old.weight)
        nn.init.xavier_uniform_(new.weight)
        nn.init.constant_(new.bias, -math.log((1 - PRIOR) / PRIOR))
        with torch.no_grad():
            new.weight[to] = old.weight[taken]
            new.bias[to] = old.bias[taken]
        return new

    head = net.head
    head.enc_score_head = replaced(head.enc_score_head)
    head.decoder.class_embed = nn.ModuleList(replaced(layer) for layer in head.decoder.class_embed)
    if head.config.num_denoising > 0:
        old = head.denoising_class_embed
        new = nn.Embedding(len(new_names) + 1, old.embedding_dim, padding_idx=len(new_names)).to(old.weight)
        nn.init.xavier_uniform_(new.weight)
        with torch.no_grad():
            new.weight[len(new_names)] = old.weight[net.num_classes]
            new.weight[to] = old.weight[taken]
        head.denoising_class_embed = new
    head.config.num_labels = net.num_classes = len(new_names)
    return [new_names[place] for place in to]


def _head(channels: Sequence[int], num_classes: int, preset: dict[str, Any]) -> Any:
    """Transformers' `DFineModel` with its initial weights, its backbone left out."""
    width = preset["d_model"]
    config = DFineConfig(
        **preset,
        num_labels=num_classes,
        initializer_bias_prior_prob=PRIOR,
        # PyTorch's for layers of this width: from transformers' 0.01 eight images take twice as many steps to learn.
        initializer_range=(3 * width) ** -0.5,
        # It cannot do without a backbone when it is built: this one has the channels of ours.
        backbone_config=ResNetConfig(
            hidden_sizes=list(channels), depths=[1] * len(channels), out_indices=list(range(1, len(channels) + 1))
        ),
        encoder_in_channels=list(channels),
        encoder_hidden_dim=width,
        decoder_in_channels=[width] * len(channels),
        num_feature_levels=len(channels),
        feat_strides=list(STRIDES),
        # Each layer has classifier and box head of its own, as published; transformers would share the first ones.
        tie_word_embeddings=False,
    )
    head: Any = DFineForObjectDetection(config).model
    head.backbone = None
    return head
