"""Small DINO learns eight images by heart."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection.dino.model import STRIDES, Dino, dino

SIDE = 96
COLOURS = torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2]])


def scene(generator: torch.Generator) -> tuple[Tensor, Instances]:
    """Up to three coloured rectangles, each in a quarter of its own, on noise."""

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    image = torch.randn(3, SIDE, SIDE, generator=generator) * 0.1
    boxes, labels = [], []
    for quarter in torch.randperm(4, generator=generator)[: number(1, 4)].tolist():
        width, height = number(14, 40), number(14, 40)
        x = SIDE // 2 * (quarter % 2) + number(0, SIDE // 2 - width + 1)
        y = SIDE // 2 * (quarter // 2) + number(0, SIDE // 2 - height + 1)
        label = number(0, len(COLOURS))
        image[:, y : y + height, x : x + width] = COLOURS[label][:, None, None]
        boxes.append([x, y, x + width, y + height])
        labels.append(label)
    return image, Instances(boxes=torch.tensor(boxes, dtype=torch.float32), labels=torch.tensor(labels))


@torch.no_grad()
def recall(net: Dino, images: Tensor, sizes: Tensor, targets: list[Instances]) -> float:
    """Part of the objects found with the right label at IoU .5 among as many of the likeliest as there are objects."""
    net.eval()
    hits = total = 0
    for found, target in zip(net.detect(images, sizes), targets, strict=True):
        best = len(target)
        right = box_iou(target.boxes, found.boxes[:best]) > 0.5
        right &= target.labels[:, None] == found.labels[:best]
        hits += int(right.any(1).sum())
        total += best
    return hits / total


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_eight_images_are_learned() -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = [scene(generator) for _ in range(8)]
    images, targets = torch.stack([image for image, _ in scenes]), [target for _, target in scenes]
    sizes = torch.full((8, 2), SIDE)
    net = dino(Backbone("transnext_pico", STRIDES[4], pretrained=True), len(COLOURS), size="small")
    optimiser: Any = torch.optim.AdamW(net.parameters(), lr=5e-4)
    reached = [recall(net, images, sizes, targets)]
    for step in range(100):
        net.train()
        loss = torch.stack(list(net.losses(images, sizes, targets).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimiser.step()
        if step % 10 == 9:
            reached.append(recall(net, images, sizes, targets))
        if reached[-1] > 0.95:
            break
    assert reached[0] < 0.3
    assert reached[-1] > 0.9, reached
