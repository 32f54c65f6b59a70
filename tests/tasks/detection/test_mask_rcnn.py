"""Mask R-CNN as a detector: what it answers, what it is trained on, and what becomes of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.pasting import paste_masks
from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection.mask_rcnn.boxes import iou
from transnext.tasks.detection.mask_rcnn.classes import replace_classes
from transnext.tasks.detection.mask_rcnn.model import PRESETS, MaskRCNN, mask_rcnn
from transnext.tasks.detection.mask_rcnn.official import args_of_released, from_released, to_released
from transnext.tasks.detection.net import Found

pytestmark = pytest.mark.usefixtures("one_thread")

TINY_BACKBONE: dict[str, Any] = {
    "img_size": 64,
    "embed_dims": (12, 16, 24, 32),
    "num_heads": (1, 2, 2, 4),
    "mlp_ratios": (3, 3, 2, 2),
    "depths": (1, 1, 1, 1),
}
TINY: dict[str, Any] = {
    "fpn_channels": 16,
    "fc_channels": 24,
    "mask_convs": 1,
    "mask_channels": 16,
    "candidates": 100,
    "proposals": 50,
    "train_candidates": 100,
    "train_proposals": 50,
    "roi_samples": 32,
}
CANVAS = (96, 128)
SIZES = torch.tensor([[96, 128], [70, 101], [64, 33]])


def tiny(num_classes: int = 3, **args: Any) -> MaskRCNN:
    return mask_rcnn(Backbone("transnext_pico", **TINY_BACKBONE), num_classes, **{**TINY, **args})


def images(sizes: Tensor = SIZES) -> Tensor:
    x = torch.zeros(len(sizes), 3, *CANVAS)
    for image, (height, width) in zip(x, sizes.tolist(), strict=True):
        image[:, :height, :width] = torch.randn(3, height, width)
    return x


def objects(boxes: Sequence[Sequence[float]], labels: Sequence[int], masks: bool = True) -> Instances:
    corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    painted = torch.zeros(len(corners), *CANVAS, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(painted, corners.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    return Instances(boxes=corners, labels=torch.tensor(labels, dtype=torch.int64), masks=painted if masks else None)


NONE = objects([], [])
TARGETS = [objects([[5, 8, 60, 70], [50, 20, 120, 90]], [0, 2]), objects([[10, 10, 43, 50]], [1]), NONE]


def unsure(net: MaskRCNN) -> MaskRCNN:
    """Lets an untrained network name something."""
    net.score_threshold = 0.1
    return net.eval()


def test_answers() -> None:
    net = unsure(tiny())
    with torch.no_grad():
        found = net(images(), SIZES)
    assert len(found) == 3
    for answer, (height, width) in zip(found, SIZES.tolist(), strict=True):
        assert isinstance(answer, Found)
        assert 0 < len(answer) <= 100
        assert answer.masks is not None
        assert answer.masks.shape == (len(answer), 28, 28)
        assert answer.masks_of == "box"
        assert answer.masks.min() >= 0
        assert answer.masks.max() <= 1
        assert (answer.scores.diff() <= 0).all()
        assert answer.scores.min() > 0.1
        assert set(answer.labels.tolist()) <= {0, 1, 2}
        assert (answer.boxes >= 0).all()
        assert (answer.boxes[:, 2] <= width).all()
        assert (answer.boxes[:, 3] <= height).all()


def test_thresholds_may_be_changed() -> None:
    net = unsure(tiny())
    x = images()
    with torch.no_grad():
        net.max_detections = 7
        assert [len(answer) for answer in net.detect(x, SIZES)] == [7, 7, 7]
        net.score_threshold = 1.0
        (nothing, *_) = net.detect(x, SIZES)
    assert len(nothing) == 0
    assert nothing.masks is not None
    assert nothing.masks.shape == (0, 28, 28)


def test_without_masks() -> None:
    net = unsure(tiny(masks=False))
    assert not net.with_masks
    assert not any("mask" in name for name, _ in net.named_parameters())
    with torch.no_grad():
        assert all(answer.masks is None for answer in net.detect(images(), SIZES))
    boxes_alone = [replace(target, masks=None) for target in TARGETS]
    losses = net.train().losses(images(), SIZES, boxes_alone)
    assert losses.keys() == {"proposal_objectness", "proposal_boxes", "classes", "boxes"}


def test_a_batch_says_what_each_image_alone_does() -> None:
    net, x = unsure(tiny()), images()
    with torch.no_grad():
        together = net.detect(x, SIZES)
        for number, of_batch in enumerate(together):
            (alone,) = net.detect(x[number : number + 1], SIZES[number : number + 1])
            assert torch.equal(alone.labels, of_batch.labels)
            for part in ("boxes", "scores", "masks"):
                torch.testing.assert_close(getattr(alone, part), getattr(of_batch, part), rtol=0, atol=1e-4)


def test_losses_of_a_batch_are_those_of_its_images() -> None:
    """Sums, that is: each is divided by what is counted in it."""
    net, x = tiny(anchor_samples=10**6, roi_samples=10**6), images()
    maps = net.maps(x)

    def sums(numbers: list[int]) -> list[Tensor]:
        said = net.rpn([level[numbers] for level in maps])
        sizes = SIZES[numbers].tolist()
        targets = [TARGETS[number] for number in numbers]
        anchors = [net.rpn.targets(said, size, t) for size, t in zip(sizes, targets, strict=True)]
        counted = sum(max(len(a.positives), 1) + max(len(a.negatives), 1) for a in anchors)
        proposals = net.rpn.proposals(said, sizes, 100, 50)
        rois = [net.roi_heads.targets(p.boxes, t) for p, t in zip(proposals, targets, strict=True)]
        heads = net.roi_heads.losses([level[numbers] for level in maps[:-1]], rois, targets)
        samples, positives = sum(len(r.labels) for r in rois), sum(len(r.objects) for r in rois)
        of_anchors = [loss.sum() * counted for loss in net.rpn.losses(said, anchors)]
        return [*of_anchors, heads["classes"] * samples, heads["boxes"] * samples, heads["masks"] * positives]

    with torch.no_grad():
        alone = [sums([number]) for number in range(3)]
        for together, *parts in zip(sums([0, 1, 2]), *alone, strict=True):
            torch.testing.assert_close(together, torch.stack(parts).sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", [TARGETS, [NONE] * 3, [NONE, TARGETS[0], NONE]], ids=["some", "none", "one"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_parameter_takes_part(targets: list[Instances], dtype: torch.dtype) -> None:
    net = tiny().train()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        losses = net(images(), SIZES, targets)
    assert all(loss.dtype == torch.float32 and loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    if targets is TARGETS:
        assert all(loss > 0 for loss in losses.values())


def test_training_can_be_repeated() -> None:
    net, x = tiny(roi_samples=16, anchor_samples=16).train(), images()
    torch.manual_seed(3)
    first, other = net.losses(x, SIZES, TARGETS), net.losses(x, SIZES, TARGETS)
    torch.manual_seed(3)
    again = net.losses(x, SIZES, TARGETS)
    assert first == again
    assert first["classes"] != other["classes"]


def test_boxes_without_area_are_left_out() -> None:
    net, x = tiny(roi_samples=10**6, anchor_samples=10**6).train(), images()
    flat = [objects([[5, 8, 60, 70], [30, 30, 30, 50], [50, 20, 120, 90]], [0, 1, 2]), *TARGETS[1:]]
    assert net.losses(x, SIZES, flat) == net.losses(x, SIZES, TARGETS)


def test_masks_must_be_there_and_lie_on_the_canvas() -> None:
    net, x = tiny(), images()
    with pytest.raises(ValueError, match="no masks: train with masks=False"):
        net.losses(x, SIZES, [replace(TARGETS[0], masks=None), *TARGETS[1:]])
    with pytest.raises(ValueError, match=r"masks are \(90, 128\), the images \(96, 128\)"):
        net.losses(x, SIZES, [replace(TARGETS[0], masks=TARGETS[0].masks[:, :90]), *TARGETS[1:]])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"size": "huge"}, "no size of Mask R-CNN is called 'huge': choose one of released, small"),
        ({"widths": 3}, "Mask R-CNN has no option widths"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"mask_convs": 0}, "masks=False"),
    ],
)
def test_what_cannot_be_built(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**args)


def test_strides_must_double() -> None:
    with pytest.raises(ValueError, match=r"strides are \[4, 16\]: each must be twice the one before"):
        mask_rcnn(Backbone("transnext_pico", (4, 16), **TINY_BACKBONE), 3)


def test_arguments_build_the_network_again() -> None:
    net = tiny(size="small", masks=False)
    net.max_detections, net.score_threshold = 300, 0.01
    args = net.args()
    again = mask_rcnn(Backbone("transnext_pico", **TINY_BACKBONE), **args)
    again.load_state_dict(net.state_dict())
    assert again.args() == args
    assert (again.max_detections, again.score_threshold) == (300, 0.01)
    assert all(isinstance(value, int | float | bool) for value in args.values())


def test_any_backbone() -> None:
    net = unsure(mask_rcnn(Backbone("resnet18", (8, 16, 32)), 2, **TINY))
    with torch.no_grad():
        assert len(net.detect(images(), SIZES)) == 3


def test_initial_values_are_the_released_ones() -> None:
    net = mask_rcnn(Backbone("transnext_pico", **TINY_BACKBONE), 80)
    state = {key: t for key, t in to_released(net.state_dict()).items() if not key.startswith("backbone.")}
    expected = {
        "rpn_head.rpn_conv.weight": 0.01,
        "rpn_head.rpn_cls.weight": 0.01,
        "roi_head.bbox_head.fc_cls.weight": 0.01,
        "roi_head.bbox_head.fc_reg.weight": 0.001,
        "roi_head.bbox_head.shared_fcs.0.weight": (2 / (256 * 49 + 1024)) ** 0.5,
        "neck.fpn_convs.0.conv.weight": (2 / (9 * (256 + 256))) ** 0.5,
        "roi_head.mask_head.convs.3.conv.weight": (2 / (9 * 256)) ** 0.5,
        "roi_head.mask_head.conv_logits.weight": (2 / 80) ** 0.5,
    }
    for key, std in expected.items():
        assert state[key].std().item() == pytest.approx(std, rel=0.1), key
    assert all(not t.any() for key, t in state.items() if key.endswith(".bias"))
    assert args_of_released(to_released(net.state_dict())) == {
        "num_classes": 80,
        "masks": True,
        "fpn_channels": 256,
        "fc_channels": 1024,
        "mask_convs": 4,
        "mask_channels": 256,
    }
    assert net.sizes == PRESETS["released"]


def test_released_names_of_a_faster_rcnn() -> None:
    net = tiny(masks=False)
    released = to_released(net.state_dict())
    assert all(key.startswith(("backbone.", "neck.", "rpn_head.", "roi_head.")) for key in released)
    again = tiny(**args_of_released(released))
    again.load_state_dict(from_released(released))
    assert all(torch.equal(again.state_dict()[key], t) for key, t in net.state_dict().items())
    released["roi_head.bbox_head.fc_new.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="fc_new"):
        again.load_state_dict(from_released(released))
    with pytest.raises(ValueError, match="not the parameters of a released Mask R-CNN"):
        args_of_released(net.state_dict())


def test_classes_are_replaced_by_name() -> None:
    net, x = unsure(tiny(3)), images()
    for p in net.roi_heads.box_predictor.parameters():
        torch.nn.init.normal_(p, std=0.1)
    boxes, labels = [torch.tensor([[4.0, 4, 50, 60]])] * 3, torch.tensor([1, 1, 1])
    before = net.roi_heads.boxes(net.maps(x)[:-1], boxes)
    outlines = net.roi_heads.masks(net.maps(x)[:-1], boxes, labels)

    assert replace_classes(net, ["Cat", "dog", "cow"], ["horse", "DOG", "cat", "hen"]) == ["DOG", "cat"]
    assert net.num_classes == net.args()["num_classes"] == 4
    after = net.roi_heads.boxes(net.maps(x)[:-1], boxes)
    assert torch.equal(after[0][:, [1, 2, 4]], before[0][:, [1, 0, 3]])
    assert torch.equal(after[1][:, [1, 2]], before[1][:, [1, 0]])
    assert torch.equal(net.roi_heads.masks(net.maps(x)[:-1], boxes, labels), outlines)
    assert all(loss.isfinite() for loss in net.train().losses(x, SIZES, TARGETS).values())

    assert replace_classes(net, ["a", "b", "c", "d"], ["e"]) == []
    with pytest.raises(ValueError, match="2 names for the 1 classes"):
        replace_classes(net, ["a", "b"], ["c"])
    with pytest.raises(ValueError, match="no new classes"):
        replace_classes(net, ["e"], [])


def _gradients(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", store=torch.distributed.FileStore(store, 2), rank=rank, world_size=2)
    torch.manual_seed(0)
    net = torch.nn.parallel.DistributedDataParallel(tiny(anchor_samples=10**6, roi_samples=10**6))
    own = [rank, rank + 2]
    losses = net(images(FOUR_SIZES)[own], FOUR_SIZES[own], [FOUR_TARGETS[image] for image in own])
    torch.stack(list(losses.values())).sum().backward()
    torch.save([p.grad for p in net.parameters()], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


FOUR_SIZES = torch.cat([SIZES, SIZES[:1]])
FOUR_TARGETS = [TARGETS[0], NONE, TARGETS[1], NONE]


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    """The second has no objects."""
    torch.multiprocessing.spawn(_gradients, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    net = tiny(anchor_samples=10**6, roi_samples=10**6)
    losses = net(images(FOUR_SIZES), FOUR_SIZES, FOUR_TARGETS)
    torch.stack(list(losses.values())).sum().backward()
    for rank in range(2):
        for (name, p), grad in zip(net.named_parameters(), torch.load(tmp_path / f"{rank}.pt"), strict=True):
            torch.testing.assert_close(grad, p.grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name} {text}")


def drawing(number: int) -> tuple[Tensor, Instances]:
    """Two to three rectangles and ellipses, of a colour and class each, on grey."""
    generator = torch.Generator().manual_seed(number)
    image = torch.full((3, 96, 96), 0.1) + 0.05 * torch.randn(3, 96, 96, generator=generator)
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    boxes, labels, masks = [], [], []
    for place, corner in enumerate(torch.randperm(4, generator=generator)[: 2 + number % 2].tolist()):
        width, height = torch.randint(22, 40, (2,), generator=generator).tolist()
        x0, y0 = 48 * (corner % 2) + 4, 48 * (corner // 2) + 4
        label = (number + place) % 3
        u, v = (x - x0) / width * 2 - 1, (y - y0) / height * 2 - 1
        mask = u**2 + v**2 <= 1 if label == 2 else (u.abs() <= 1) & (v.abs() <= 1)
        image[label, mask] = 1.5
        boxes.append([x0, y0, x0 + width, y0 + height])
        labels.append(label)
        masks.append(mask.to(torch.uint8))
    return image, Instances(
        boxes=torch.tensor(boxes, dtype=torch.float32), labels=torch.tensor(labels), masks=torch.stack(masks)
    )


def average_precision(answers: Sequence[Found], targets: Sequence[Instances]) -> float:
    """Area below precision over recall of all classes together, at an IoU of one half."""
    ranked: list[tuple[float, bool]] = []
    for found, there in zip(answers, targets, strict=True):
        free = [True] * len(there)
        fits = (iou(found.boxes, there.boxes) > 0.5) & (found.labels[:, None] == there.labels)
        for score, row in zip(found.scores.tolist(), fits.tolist(), strict=True):
            hit = next((n for n, fit in enumerate(row) if fit and free[n]), None)
            ranked.append((score, hit is not None))
            if hit is not None:
                free[hit] = False
    ranked.sort(key=lambda answer: -answer[0])
    right = torch.tensor([hit for _, hit in ranked]).double()
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    return float((precision.flip(0).cummax(0).values.flip(0) * right).sum() / sum(map(len, targets)))


@pytest.mark.slow
def test_a_few_drawings_are_learned_by_heart() -> None:
    drawn = [drawing(number) for number in range(4)]
    x, targets = torch.stack([image for image, _ in drawn]), [objects for _, objects in drawn]
    sizes = torch.tensor([[96, 96]] * len(drawn))
    net = mask_rcnn(Backbone("transnext_pico", img_size=96), 3, size="small", roi_samples=64, train_proposals=100)
    steps, rate = 120, 2e-3
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack(list(net(x, sizes, targets).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        answers = net.detect(x, sizes)
    assert average_precision(answers, targets) > 0.9
    for found, there in zip(answers, targets, strict=True):
        best = iou(there.boxes, found.boxes).argmax(1)
        pasted = paste_masks(found.masks[best], found.boxes[best], (96, 96))
        painted = there.masks.bool()
        overlap = (pasted & painted).sum((1, 2)) / (pasted | painted).sum((1, 2))
        assert overlap.mean() > 0.8
