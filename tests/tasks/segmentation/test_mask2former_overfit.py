"""Small Mask2Formers learn four images by heart, pixels and objects."""

import pytest
import torch
from torch import Tensor

from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection.mask2former import mask2former_instances
from transnext.tasks.headed import HeadedNet
from transnext.tasks.segmentation.mask2former.model import mask2former
from transnext.tasks.segmentation.net import IGNORED

SIDE = 96
COLOURS = torch.tensor([[2.0, -1, -1], [-1, 2, -1]])
STEPS = 50
FEW = {"num_queries": 20, "num_points": 1500}
"""As many masks and points as so small pictures need."""


def scene(generator: torch.Generator) -> tuple[Tensor, Tensor, Instances]:
    """Two or three rectangles of two classes on noise, which is class 0, each in a quarter; a corner is not known."""

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    image = torch.randn(3, SIDE, SIDE, generator=generator) * 0.1
    classes = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    boxes, labels, masks = [], [], []
    for quarter in torch.randperm(4, generator=generator)[: number(2, 4)].tolist():
        width, height = number(18, 40), number(18, 40)
        x = SIDE // 2 * (quarter % 2) + number(0, SIDE // 2 - width + 1)
        y = SIDE // 2 * (quarter // 2) + number(0, SIDE // 2 - height + 1)
        label = number(0, 2)
        image[:, y : y + height, x : x + width] = COLOURS[label][:, None, None]
        classes[y : y + height, x : x + width] = label + 1
        masks.append(torch.zeros(SIDE, SIDE, dtype=torch.uint8))
        masks[-1][y : y + height, x : x + width] = 1
        boxes.append([x, y, x + width, y + height])
        labels.append(label)
    classes[:8, :8] = IGNORED
    objects = Instances(
        boxes=torch.tensor(boxes, dtype=torch.float32), labels=torch.tensor(labels), masks=torch.stack(masks)
    )
    return image, classes, objects


def four_scenes() -> tuple[Tensor, Tensor, Tensor, list[Instances]]:
    generator = torch.Generator().manual_seed(0)
    scenes = [scene(generator) for _ in range(4)]
    images, maps = (torch.stack([one[part] for one in scenes]) for part in (0, 1))
    return images, torch.full((4, 2), SIDE), maps, [one[2] for one in scenes]


def learn(net: HeadedNet, *batch: object) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net.train()
    for _ in range(STEPS):
        loss = torch.stack(list(net(*batch).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    net.eval()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_four_maps_are_learned() -> None:
    images, sizes, maps, _ = four_scenes()
    net = mask2former(Backbone("transnext_pico", pretrained=True), 3, size="small", **FEW)
    learn(net, images, sizes, maps)
    with torch.no_grad():
        named = net.scores(images, sizes).argmax(1)
    known = maps != IGNORED
    ious = [float(((named == c) & (maps == c)).sum() / (((named == c) | (maps == c)) & known).sum()) for c in range(3)]
    assert min(ious) > 0.9, ious


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_objects_of_four_images_are_learned() -> None:
    images, sizes, _, objects = four_scenes()
    net = mask2former_instances(Backbone("transnext_pico", pretrained=True), 2, size="small", **FEW)
    learn(net, images, sizes, objects)
    with torch.no_grad():
        answers = net.detect(images, sizes)
    ious = []
    for found, true in zip(answers, objects, strict=True):
        assert found.masks is not None
        assert true.masks is not None
        best = found.masks[: len(true)] >= 0.5
        common = (best[None] & true.masks[:, None].bool()).sum((2, 3))
        either = (best[None] | true.masks[:, None].bool()).sum((2, 3))
        same = found.labels[None, : len(true)] == true.labels[:, None]
        ious += (common / either * same).amax(1).tolist()
    assert min(ious) > 0.75, ious
    assert sum(ious) / len(ious) > 0.85, ious
