"""Anchors, boxes, matching, sampling, pooling and pasting against loops in float64."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import roi_align

from tests.helpers.pasting import paste_masks
from transnext.data.instances import Instances
from transnext.tasks.detection.mask_rcnn.align import aligned
from transnext.tasks.detection.mask_rcnn.anchors import anchor_boxes, on_own_canvas
from transnext.tasks.detection.mask_rcnn.boxes import decode, encode, iou
from transnext.tasks.detection.mask_rcnn.matching import IGNORED, NEGATIVE, match, sample
from transnext.tasks.detection.mask_rcnn.pooling import level_of, pool
from transnext.tasks.detection.mask_rcnn.roi_heads import MaskPredictor, mask_targets

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def random_boxes(number: int, extent: float = 60.0) -> Tensor:
    corners = torch.rand(number, 2) * extent
    return torch.cat([corners, corners + 1 + torch.rand(number, 2) * extent / 2], dim=1)


def slow_iou(a: Tensor, b: Tensor) -> float:
    ax0, ay0, ax1, ay1 = a.tolist()
    bx0, by0, bx1, by1 = b.tolist()
    both = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - both
    return both / union if union > 0 else 0.0


def test_anchors_lie_around_their_places() -> None:
    anchors = anchor_boxes((3, 5), 8, 4.0, CPU).view(3, 5, 3, 4)
    for row, column, (number, ratio) in product(range(3), range(5), enumerate((0.5, 1.0, 2.0))):
        width, height = 32 / math.sqrt(ratio), 32 * math.sqrt(ratio)
        x, y = 8 * column, 8 * row
        expected = torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        torch.testing.assert_close(anchors[row, column, number], expected)


def test_anchors_of_the_own_canvas() -> None:
    used = on_own_canvas((12, 16), 8, (33, 96), 32, CPU).view(12, 16, 3)
    assert used[:8, :12].all()
    assert used.sum() == 8 * 12 * 3
    assert on_own_canvas((2, 3), 64, (65, 130), 32, CPU).view(2, 3, 3).all(), "a place is used that begins within"


def test_iou() -> None:
    a, b = random_boxes(7), random_boxes(5)
    expected = torch.tensor([[slow_iou(x, y) for y in b] for x in a])
    torch.testing.assert_close(iou(a, b), expected, rtol=1e-5, atol=1e-6)
    point = torch.tensor([[3.0, 3, 3, 3]])
    assert iou(point, point).item() == 0


def test_boxes_come_back_from_their_differences() -> None:
    references, boxes, scales = random_boxes(20), random_boxes(20), (0.1, 0.1, 0.2, 0.2)
    deltas = encode(references, boxes, scales)
    torch.testing.assert_close(decode(references, deltas, scales), boxes, rtol=0, atol=1e-4)
    half = encode(torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 10, 40]]), scales)
    torch.testing.assert_close(half, torch.tensor([[2.5, 5.0, 5 * math.log(0.5), 5 * math.log(2)]]))


def test_sides_grow_and_shrink_to_a_limit() -> None:
    huge, tiny = decode(
        torch.tensor([[0.0, 0, 16, 16]] * 2), torch.tensor([[0, 0, 99.0, 99], [0, 0, -99, -99]]), (1.0,) * 4
    )
    torch.testing.assert_close(huge[2:] - huge[:2], torch.tensor([1000.0, 1000]))
    torch.testing.assert_close(tiny[2:] - tiny[:2], torch.tensor([0.256, 0.256]))


def slow_match(objects: Tensor, boxes: Tensor, positive: float, negative: float, rescue: float) -> list[int]:
    overlaps = iou(objects, boxes).numpy()
    matched = []
    for place in range(len(boxes)):
        best = int(np.argmax(overlaps[:, place]))
        value = overlaps[best, place]
        matched.append(best if value >= positive else NEGATIVE if value < negative else IGNORED)
    for number, row in enumerate(overlaps):
        if row.max() >= rescue:
            for place in np.flatnonzero(row == row.max()):
                matched[place] = number
    return matched


@pytest.mark.parametrize(("positive", "negative", "rescue"), [(0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.3, 0.2, 0.1)])
def test_matching(positive: float, negative: float, rescue: float) -> None:
    anchors = anchor_boxes((6, 7), 8, 2.0, CPU)
    kinds = set()
    for _ in range(30):
        objects = random_boxes(4, 40)
        objects = torch.cat([objects, objects[:1], torch.tensor([[4.0, 4, 12, 12], [200, 200, 210, 210]])])
        matched = match(objects, anchors, positive=positive, negative=negative, rescue=rescue)
        assert matched.tolist() == slow_match(objects, anchors, positive, negative, rescue)
        kinds |= set(matched.clamp(max=0).tolist())
    assert kinds == {0, NEGATIVE} | ({IGNORED} if negative < positive else set())


def test_of_equal_objects_the_last_gets_the_best_boxes() -> None:
    objects = torch.tensor([[0.0, 0, 8, 8]] * 2)
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 7]])
    assert match(objects, boxes, positive=0.5, negative=0.5, rescue=0.5).tolist() == [1, 0]


def test_matching_of_nothing() -> None:
    boxes, none = random_boxes(3), torch.zeros(0, 4)
    assert match(none, boxes, positive=0.5, negative=0.5, rescue=0.5).tolist() == [NEGATIVE] * 3
    assert match(boxes, none, positive=0.5, negative=0.5, rescue=0.5).tolist() == []


def test_sampling() -> None:
    matched = torch.tensor([0] * 40 + [NEGATIVE] * 60 + [IGNORED] * 10)
    positives, negatives = sample(matched, 32, 0.25)
    assert len(positives) == 8
    assert len(negatives) == 24
    assert (matched[positives] == 0).all()
    assert (matched[negatives] == NEGATIVE).all()
    assert positives.tolist() == sorted(set(positives.tolist()))
    assert negatives.tolist() == sorted(set(negatives.tolist()))
    few = sample(matched[36:], 32, 0.25)
    assert [len(part) for part in few] == [4, 28], "negatives take the place of positives that are missing"
    assert [len(part) for part in sample(matched[:40], 32, 0.25)] == [8, 0]


def test_sampling_follows_the_generator_of_torch() -> None:
    matched = torch.tensor([0, NEGATIVE] * 100)
    torch.manual_seed(5)
    first, other = sample(matched, 16, 0.5), sample(matched, 16, 0.5)
    torch.manual_seed(5)
    again = sample(matched, 16, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_levels_of_boxes() -> None:
    sides = [0, 1, 111, 112, 113, 223, 224, 447, 448, 3000]
    boxes = torch.tensor([[5.0, 5, 5 + side, 5 + side] for side in sides])
    assert level_of(boxes, (4, 8, 16, 32)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert level_of(boxes, (8, 16)).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]


def slow_roi_align(level: Tensor, box: Tensor, stride: int, size: int) -> Tensor:
    """RoIAlign of one box, by its definition: means of bilinear samples, in float64."""
    x0, y0, x1, y1 = (box.double() / stride - 0.5).tolist()
    rows, columns = math.ceil((y1 - y0) / size), math.ceil((x1 - x0) / size)
    y = y0 + (torch.arange(size * rows, dtype=torch.float64) + 0.5) * (y1 - y0) / (size * rows)
    x = x0 + (torch.arange(size * columns, dtype=torch.float64) + 0.5) * (x1 - x0) / (size * columns)
    height, width = level.shape[-2:]
    grid = torch.stack(torch.meshgrid(y / (height - 1), x / (width - 1), indexing="ij")[::-1], dim=-1) * 2 - 1
    values = F.grid_sample(level[None].double(), grid[None], align_corners=True, padding_mode="border")[0]
    return values.unflatten(1, (size, rows)).unflatten(3, (size, columns)).mean((2, 4))


def test_pooling() -> None:
    strides = (4, 8, 16)
    maps = [torch.randn(2, 3, 512 // stride, 512 // stride) for stride in strides]
    sides = [[10.0, 300.0, 100.0, 150.0], [230.0, 20.0]]
    boxes = [torch.tensor([[7.3, 11.8, 7.3 + side, 11.8 + 0.9 * side] for side in of_image]) for of_image in sides]
    pooled = pool(maps, strides, boxes, 7)
    row = 0
    for image, of_image in enumerate(boxes):
        for box, level in zip(of_image, level_of(of_image, strides).tolist(), strict=True):
            expected = slow_roi_align(maps[level][image], box, strides[level], 7)
            torch.testing.assert_close(pooled[row].double(), expected, rtol=0, atol=1e-4)
            row += 1
    assert row == len(pooled)
    assert set(level_of(torch.cat(boxes), strides).tolist()) == {0, 1, 2}
    assert pool(maps, strides, [torch.zeros(0, 4)] * 2, 7).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("map_size", [(1, 1), (5, 40), (24, 17)])
def test_the_gradient_of_pooling_is_that_of_torchvision(map_size, dtype) -> None:
    torch.manual_seed(sum(map_size))
    corners = torch.rand(40, 2) * 110 - 15
    sides = torch.exp(torch.rand(40, 2) * 5.5) - 1  # many samples in a cell, one, none
    rois = torch.cat([torch.randint(2, (40, 1)).float(), corners, corners + sides], dim=1)
    rois[0, 1:] = torch.tensor([8.0, 8, 8, 8])
    rois[1, 1:] = torch.tensor([4.0, 300, 60, 400])  # beside the map
    rois[2, 1:] = torch.tensor([2.0, 2, 2 + 4 * 7 * 3, 2 + 4 * 7 * 2])  # cells of whole numbers of samples
    maps = torch.randn(2, 3, *map_size).to(dtype)
    # torchvision rounds sums to bfloat16 one after the other.
    exact = maps.float().requires_grad_() if dtype == torch.bfloat16 else maps.clone().requires_grad_()
    expected = roi_align(exact, rois.to(exact.dtype), 7, 0.25, sampling_ratio=0, aligned=True)
    own = maps.clone().requires_grad_()
    pooled = aligned(own, rois.to(exact.dtype), 7, 0.25)
    assert pooled.dtype == dtype
    assert torch.equal(pooled.to(exact.dtype), expected.to(dtype).to(exact.dtype))
    gradient = torch.randn(pooled.shape).to(dtype)
    expected.backward(gradient.to(exact.dtype))
    pooled.backward(gradient)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.02}[dtype]
    difference = (own.grad.double() - exact.grad.double()).abs().max()
    assert difference <= tolerance * exact.grad.abs().max()


@pytest.mark.parametrize("rois", [torch.zeros(0, 5), torch.tensor([[0.0, 4, 4, 4, 4], [0, 900, 900, 950, 950]])])
def test_nothing_pooled_has_a_gradient_of_nothing(rois) -> None:
    maps = torch.randn(1, 2, 6, 6, requires_grad=True)
    aligned(maps, rois, 7, 0.25).sum().backward()
    assert not maps.grad.any()


@pytest.mark.parametrize(("boxes", "classes"), [(5, 3), (1, 1), (0, 4)])
def test_finer_masks_are_those_of_a_transposed_convolution(boxes, classes) -> None:
    torch.manual_seed(boxes)
    head = MaskPredictor(6, 6, classes).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(boxes, 6, 5, 7, dtype=torch.float64)
    expected, own = MaskRCNNPredictor.forward(head, x), head(x)
    torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)
    inputs = list(head.parameters())
    weights = torch.randn_like(own)
    for found, true in zip(*(torch.autograd.grad(y, inputs, weights) for y in (own, expected)), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-11, atol=1e-11)


def test_mask_targets_are_the_masks_in_the_boxes() -> None:
    masks = torch.zeros(3, 64, 96, dtype=torch.uint8)
    masks[0, 10:40, 20:60] = 1
    masks[2, :, ::2] = 1
    objects = Instances(boxes=torch.zeros(3, 4), labels=torch.zeros(3, dtype=torch.int64), masks=masks)
    boxes = torch.tensor([[0.0, 0, 56, 56], [6, 3, 34, 31], [20, 10, 60, 40], [80, 50, 120, 90]])
    targets = mask_targets(boxes, torch.tensor([0, 2, 0, 0]), objects)
    whole = torch.zeros(28, 28)
    whole[5:20, 10:28] = 1
    assert torch.equal(targets[0], whole)
    assert torch.equal(targets[1], masks[2, 3:31, 6:34].float()), "a cell of a pixel is that pixel"
    assert targets[2].all()
    assert not targets[3].any()
    assert mask_targets(boxes[:0], torch.zeros(0, dtype=torch.int64), objects).shape == (0, 28, 28)


def slow_paste(mask: Tensor, box: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Bilinear samples of a mask padded by zeros, pixel by pixel."""
    cells = np.pad(mask.numpy().astype(np.float64), 1)
    x0, y0, x1, y1 = box.tolist()
    pasted = np.zeros(size)
    for row, column in product(range(size[0]), range(size[1])):
        y = (row + 0.5 - y0) / (y1 - y0) * mask.shape[0] + 0.5
        x = (column + 0.5 - x0) / (x1 - x0) * mask.shape[1] + 0.5
        if 0 <= y < cells.shape[0] - 1 and 0 <= x < cells.shape[1] - 1:
            i, j = int(y), int(x)
            v, u = y - i, x - j
            pasted[row, column] = (
                (1 - v) * (1 - u) * cells[i, j]
                + (1 - v) * u * cells[i, j + 1]
                + v * (1 - u) * cells[i + 1, j]
                + v * u * cells[i + 1, j + 1]
            )
    return pasted


def test_pasting() -> None:
    size = (37, 53)
    masks = torch.rand(6, 28, 28)
    boxes = torch.tensor(
        [
            [3.2, 4.7, 40.1, 30.9],
            [-20.5, -3.0, 12.0, 70.0],
            [10.0, 10.0, 11.3, 12.6],
            [60.0, 1.0, 70.0, 9.0],
            [20.0, 5.0, 20.0, 30.0],
            [0.0, 0.0, 53.0, 37.0],
        ]
    )
    pasted = paste_masks(masks, boxes, size)
    assert pasted.dtype == torch.bool
    for number in (0, 1, 2, 3, 5):
        expected = slow_paste(masks[number], boxes[number], size)
        clear = np.abs(expected - 0.5) > 1e-4
        assert np.array_equal(pasted[number].numpy()[clear], expected[clear] >= 0.5)
    assert not pasted[3].any()
    assert not pasted[4].any(), "no area, no pixel"
    assert torch.equal(paste_masks(torch.ones(1, 28, 28), boxes[5:], size)[0], torch.ones(size, dtype=torch.bool))
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), size).shape == (0, *size)
