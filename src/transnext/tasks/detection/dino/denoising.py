"""Contrastive denoising: queries that are noisy objects, each near its object (positive) or farther off (negative).

A group holds a block of positives and a block of negatives, with a place for each object of the fullest image; in other
images places stay free. Queries of a group see one another and the matching queries; no other query sees them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from transnext.tasks.detection.dino.boxes import centres, corners, inverse_sigmoid
from transnext.tasks.detection.dino.matching import Objects, Pairs

_BOX_EPSILON = 1e-3


class Noise(NamedTuple):
    """All that is random in denoising; one row for each noisy object.

    Attributes:
        label_chance: float32 `[M]`, 0..1: a label is replaced if it is low.
        new_labels: int64 `[M]`: by what.
        box_signs: `[M, 4]`: each corner's coordinates grow where 1 and shrink where 0.
        box_parts: float32 `[M, 4]`, 0..1: by how much.
    """

    label_chance: Tensor
    new_labels: Tensor
    box_signs: Tensor
    box_parts: Tensor


def draw_noise(rows: int, num_classes: int, device: torch.device) -> Noise:
    """Noise of `rows` objects, from PyTorch's generator of the device. All randomness of denoising is drawn here."""
    return Noise(
        torch.rand(rows, device=device),
        torch.randint(num_classes, (rows,), device=device),
        torch.randint(2, (rows, 4), device=device),
        torch.rand(rows, 4, device=device),
    )


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """Noisy objects of a batch: all its objects, repeated for the positives and negatives of each group.

    Attributes:
        groups: Groups, at least 1.
        block: Objects of the fullest image.
        batch: Images.
        positive: bool `[M]`.
        images: int64 `[M]`.
        queries: int64 `[M]`: place in the image's queries.
        objects: int64 `[M]`: place in `Objects`.
        labels: int64 `[M]`, noisy.
        boxes: float32 `[M, 4]`: logits of centre and sides, noisy.
    """

    groups: int
    block: int
    batch: int
    positive: Tensor
    images: Tensor
    queries: Tensor
    objects: Tensor
    labels: Tensor
    boxes: Tensor

    @property
    def count(self) -> int:
        """Queries of an image, free places included."""
        return 2 * self.groups * self.block

    @classmethod
    def of(
        cls, objects: Objects, num_classes: int, *, queries: int, label_noise: float, box_noise: float
    ) -> "Denoising":
        """Noisy objects of a batch.

        Args:
            objects: What is in the images.
            num_classes: Classes.
            queries: Objects of the fullest image times groups, at most, if they are more than one group.
            label_noise: Twice the probability that a label is replaced by a random one.
            box_noise: Up to how much of half a side corners move in positives; in negatives that much farther.
        """
        device = objects.boxes.device
        counts = torch.tensor(objects.counts, device=device)
        block = max(objects.counts)
        groups = max(1, queries // block) if block else 1
        total = len(objects.labels)
        images = torch.arange(len(objects.counts), device=device).repeat_interleave(counts)
        within = torch.arange(total, device=device) - (counts.cumsum(0) - counts)[images]
        blocks = torch.arange(2 * groups, device=device)
        positive = (blocks % 2 == 0).repeat_interleave(total)

        noise = draw_noise(2 * groups * total, num_classes, device)
        labels = objects.labels.repeat(2 * groups)
        labels = torch.where(noise.label_chance < label_noise / 2, noise.new_labels, labels)
        exact = objects.boxes.repeat(2 * groups, 1)
        part = (noise.box_parts + (~positive)[:, None]) * (2 * noise.box_signs - 1)
        moved = corners(exact) + part * exact[:, 2:].repeat(1, 2) * box_noise / 2
        return cls(
            groups=groups,
            block=block,
            batch=len(objects.counts),
            positive=positive,
            images=images.repeat(2 * groups),
            queries=(blocks[:, None] * block + within).flatten(),
            objects=torch.arange(total, device=device).repeat(2 * groups),
            labels=labels,
            boxes=inverse_sigmoid(centres(moved.clamp(0, 1)), _BOX_EPSILON),
        )

    def contents(self, embedding: nn.Embedding) -> Tensor:
        """Content of the queries, `[B, count, d]`: embedded labels, 0 at free places."""
        return self._placed(embedding(self.labels))

    def references(self) -> Tensor:
        """Logits of the boxes of the queries, `[B, count, 4]`, 0 at free places."""
        return self._placed(self.boxes)

    def _placed(self, values: Tensor) -> Tensor:
        empty = values.new_zeros(self.batch, self.count, values.shape[1])
        return empty.index_put((self.images, self.queries), values)

    def pairs(self, outputs: int) -> Pairs:
        """The positives and their objects, for `outputs` outputs."""
        queries, objects = (values[self.positive].expand(outputs, -1) for values in (self.queries, self.objects))
        return Pairs(self.images[self.positive], queries, objects)

    def visible(self, matching: int) -> Tensor | None:
        """Tells which query (row) may see which, bool `[queries, queries]`; None if all may see all.

        Args:
            matching: Queries that come after those of denoising.
        """
        if self.count == 0:
            return None
        device = self.boxes.device
        group = torch.arange(self.count, device=device) // (2 * self.block)
        group = torch.cat((group, group.new_full((matching,), -1)))
        return (group[:, None] == group) | (group == -1)
