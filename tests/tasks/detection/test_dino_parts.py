"""Parts of DINO against plain loops in float64, and its released names and rates."""

import json
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou

from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection.dino import denoising
from transnext.tasks.detection.dino.boxes import centres, corners, generalised_iou, inverse_sigmoid
from transnext.tasks.detection.dino.denoising import Denoising, Noise
from transnext.tasks.detection.dino.losses import losses_of_outputs
from transnext.tasks.detection.dino.matching import Objects, match
from transnext.tasks.detection.dino.model import STRIDES, Dino, dino
from transnext.tasks.detection.dino.official import (
    args_of_released,
    from_released,
    load_released,
    released_name,
    to_released,
)
from transnext.tasks.detection.dino.queries import Levels, box_positions
from transnext.tasks.headed import lr_scale

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = torch.tensor([[60, 96], [64, 41]])


def some_boxes(count: int) -> Tensor:
    return torch.cat((torch.rand(count, 2) * 0.6 + 0.2, torch.rand(count, 2) * 0.3 + 0.02), 1)


def objects_of(counts: list[int], num_classes: int = 4) -> Objects:
    boxes = [corners(some_boxes(n)) * SIZES[i].flip(0).repeat(2) for i, n in enumerate(counts)]
    targets = [Instances(boxes=b, labels=torch.randint(num_classes, (len(b),))) for b in boxes]
    return Objects.of(targets, SIZES[: len(counts)])


def test_objects_are_parts_of_their_own_image() -> None:
    boxes = torch.tensor([[0.0, 6, 48, 36]])
    objects = Objects.of(
        [
            Instances(boxes=boxes, labels=torch.tensor([1])),
            Instances(boxes=boxes[:0], labels=torch.zeros(0, dtype=torch.int64)),
        ],
        SIZES,
    )
    torch.testing.assert_close(objects.boxes, torch.tensor([[0.25, 0.35, 0.5, 0.5]]))
    assert objects.counts == [1, 0]
    assert objects.scales.tolist() == [[96, 60, 96, 60], [41, 64, 41, 64]]


def test_generalised_iou() -> None:
    a, b = corners(some_boxes(5)) * 100, corners(some_boxes(7)) * 100
    found = generalised_iou(a[:, None], b)
    torch.testing.assert_close(found, generalized_box_iou(a, b), rtol=0, atol=1e-6)
    torch.testing.assert_close(generalised_iou(a, b[:5]), found[:, :5].diagonal())
    point = torch.tensor([3.0, 3, 3, 3])
    assert generalised_iou(point, point).isfinite()
    torch.testing.assert_close(centres(a), torch.cat(((a[:, :2] + a[:, 2:]) / 2, a[:, 2:] - a[:, :2]), 1))


def test_inverse_sigmoid() -> None:
    values = torch.tensor([-1.0, 0, 0.3, 1, 2])
    ends = math.log(1e-3)
    expected = torch.tensor([ends, ends, math.log(0.3 / 0.7), -ends, -ends])
    torch.testing.assert_close(inverse_sigmoid(values, 1e-3), expected, rtol=1e-5, atol=1e-5)


def test_matching_is_the_cheapest_of_all() -> None:
    objects = objects_of([3, 2])
    logits, boxes = torch.randn(2, 2, 5, 4), some_boxes(20).view(2, 2, 5, 4)
    pairs = match(logits, boxes, objects)
    assert pairs.images.tolist() == [0, 0, 0, 1, 1]
    first = [0, 3]
    for output in range(2):
        for image, count in enumerate(objects.counts):
            cost = np.zeros((5, count))
            for q in range(5):
                for j in range(count):
                    target, label = objects.boxes[first[image] + j].double(), int(objects.labels[first[image] + j])
                    p = float(logits[output, image, q, label].double().sigmoid())
                    focal = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
                    box = boxes[output, image, q].double()
                    scale = objects.scales[image].double()
                    giou = generalized_box_iou((corners(box) * scale)[None], (corners(target) * scale)[None])
                    cost[q, j] = 2 * focal + 5 * float((box - target).abs().sum()) - 2 * float(giou)
            best = min(
                permutations(range(5), count), key=lambda qs, cost=cost: sum(cost[q, j] for j, q in enumerate(qs))
            )
            own = pairs.images == image
            found = dict(
                zip(
                    (pairs.objects[output, own] - first[image]).tolist(),
                    pairs.queries[output, own].tolist(),
                    strict=True,
                )
            )
            assert found == dict(enumerate(best))


def test_matching_without_objects_and_with_too_many() -> None:
    logits, boxes = torch.randn(3, 2, 5, 4), some_boxes(30).view(3, 2, 5, 4)
    none = match(logits, boxes, objects_of([0, 0]))
    assert none.images.shape == (0,)
    assert none.queries.shape == none.objects.shape == (3, 0)
    many = match(logits, boxes, objects_of([0, 9]))
    assert many.queries.sort(1).values.tolist() == [list(range(5))] * 3
    broken = match(logits * float("nan"), boxes, objects_of([2, 1]))
    assert broken.queries.shape == (3, 3)


def test_losses_by_hand() -> None:
    objects = objects_of([2, 1])
    logits, boxes = torch.randn(2, 2, 4, 4), some_boxes(16).view(2, 2, 4, 4)
    pairs = match(logits, boxes, objects)
    found = losses_of_outputs(logits, boxes, pairs, objects, torch.tensor(7.0))
    for output in range(2):
        truth = np.zeros((2, 4, 4))
        l1 = giou = 0.0
        for image, query, place in zip(pairs.images, pairs.queries[output], pairs.objects[output], strict=True):
            truth[image, query, objects.labels[place]] = 1
            box, target = boxes[output, image, query].double(), objects.boxes[place].double()
            l1 += float((box - target).abs().sum())
            scale = objects.scales[image].double()
            giou += 1 - float(generalized_box_iou((corners(box) * scale)[None], (corners(target) * scale)[None]))
        p = logits[output].double().sigmoid().numpy()
        focal = -(0.25 * truth * (1 - p) ** 2 * np.log(p) + 0.75 * (1 - truth) * p**2 * np.log(1 - p)).sum()
        assert float(found["loss_cls"][output]) == pytest.approx(focal / 7, rel=1e-5)
        assert float(found["loss_bbox"][output]) == pytest.approx(5 * l1 / 7, rel=1e-5)
        assert float(found["loss_iou"][output]) == pytest.approx(2 * giou / 7, rel=1e-5)


def test_noisy_objects_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = objects_of([1, 3])
    groups, block = 2, 3
    drawn: list[Noise] = []
    draw = denoising.draw_noise

    def remember(*args: object) -> Noise:
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(denoising, "draw_noise", remember)
    found = Denoising.of(objects, 4, queries=8, label_noise=0.8, box_noise=0.6)
    assert (found.groups, found.block, found.count) == (groups, block, groups * 2 * block)
    (noise,) = drawn
    embedding = nn.Embedding(4, 5)
    contents, references = found.contents(embedding), found.references()
    seen = torch.zeros(2, found.count, dtype=torch.bool)
    row = 0
    for group in range(groups):
        for negative in (0, 1):
            for place, (image, j) in enumerate([(0, 0), (1, 0), (1, 1), (1, 2)]):
                query = (2 * group + negative) * block + j
                seen[image, query] = True
                changed = noise.label_chance[row] < 0.4
                label = noise.new_labels[row] if changed else objects.labels[place]
                assert torch.equal(contents[image, query], embedding.weight[label])
                x, y, w, h = objects.boxes[place].tolist()
                moved = []
                for corner, coordinate in enumerate((x - w / 2, y - h / 2, x + w / 2, y + h / 2)):
                    part = float(noise.box_parts[row, corner]) + negative
                    sign = 1 if noise.box_signs[row, corner] else -1
                    moved.append(min(1, max(0, coordinate + sign * part * (w, h)[corner % 2] / 2 * 0.6)))
                x0, y0, x1, y1 = moved
                box = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
                torch.testing.assert_close(references[image, query], inverse_sigmoid(box, 1e-3), rtol=1e-4, atol=1e-4)
                row += 1
    assert row == len(noise.label_chance)
    assert (contents[~seen] == 0).all()
    assert (references[~seen] == 0).all()
    pairs = found.pairs(2)
    assert pairs.images.tolist() == [0, 1, 1, 1] * groups
    assert pairs.queries.tolist() == [[0, 0, 1, 2, 6, 6, 7, 8]] * 2
    assert pairs.objects.tolist() == [[0, 1, 2, 3] * groups] * 2


@pytest.mark.parametrize(("most", "groups"), [(1, 100), (30, 3), (100, 1), (130, 1), (0, 1)])
def test_number_of_groups(most: int, groups: int) -> None:
    found = Denoising.of(objects_of([most, 0]), 4, queries=100, label_noise=0.5, box_noise=1.0)
    assert (found.groups, found.count) == (groups, 2 * groups * most)
    assert (found.visible(5) is None) == (most == 0)


def test_noise_is_of_pytorchs_generator() -> None:
    torch.manual_seed(3)
    one = denoising.draw_noise(50, 4, torch.device("cpu"))
    torch.manual_seed(3)
    again = denoising.draw_noise(50, 4, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert set(one.new_labels.tolist()) == {0, 1, 2, 3}
    assert set(one.box_signs.flatten().tolist()) == {0, 1}
    assert 0 <= float(one.box_parts.min()) < float(one.box_parts.max()) < 1


def test_levels_by_hand() -> None:
    canvas, shapes = (64, 96), [(8, 12), (4, 6), (2, 3), (1, 2)]
    levels = Levels.of(shapes, SIZES, canvas, 16)
    boxes, there = levels.proposals()
    for image, (rows, columns) in enumerate(SIZES.tolist()):
        token = 0
        for level, (height, width) in enumerate(shapes):
            real_rows = sum(y * canvas[0] // height < rows for y in range(height))
            real_columns = sum(x * canvas[1] // width < columns for x in range(width))
            assert levels.extents[image, level].tolist() == [real_columns, real_rows]
            assert levels.ratios[image, level].tolist() == pytest.approx([real_columns / width, real_rows / height])
            for y in range(height):
                for x in range(width):
                    inside = y < real_rows and x < real_columns
                    assert levels.valid[image, token] == inside
                    box = [(x + 0.5) / real_columns, (y + 0.5) / real_rows, 0.05 * 2**level, 0.05 * 2**level]
                    assert there[image, token] == (inside and all(0.01 < side < 0.99 for side in box))
                    if there[image, token]:
                        logits = torch.tensor(box).double().logit().float()
                        torch.testing.assert_close(boxes[image, token], logits, rtol=1e-5, atol=1e-5)
                    else:
                        assert boxes[image, token].isinf().all()
                    if inside:
                        angles = [2 * math.pi * (y + 1) / real_rows, 2 * math.pi * (x + 1) / real_columns]
                        expected = waves(angles, 8, 20)
                        torch.testing.assert_close(levels.positions[image, token], expected, rtol=0, atol=1e-4)
                    token += 1
        assert token == levels.valid.shape[1]


def waves(angles: list[float], width: int, temperature: float) -> Tensor:
    """Sine and cosine of each angle at falling frequencies."""
    return torch.tensor(
        [
            (math.sin, math.cos)[i % 2](angle / temperature ** (2 * (i // 2) / width))
            for angle in angles
            for i in range(width)
        ]
    )


def test_positions_of_boxes() -> None:
    x, y, w, h = 0.1, 0.7, 0.3, 0.2
    expected = waves([2 * math.pi * side for side in (y, x, w, h)], 8, 10000)
    torch.testing.assert_close(box_positions(torch.tensor([x, y, w, h]), 8), expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def net() -> Dino:
    torch.manual_seed(0)
    return dino(
        Backbone("transnext_pico", STRIDES[5]), 4, scales=5, size="small", num_queries=17, num_points=2, ffn_dim=96
    )


def test_released_names_go_both_ways(net: Dino) -> None:
    weights = net.state_dict()
    released = to_released(weights)
    assert {released_name(name) for name in weights} == released.keys()
    assert torch.equal(
        released["decoder.layers.1.self_attn.attn.in_proj_weight"][128:256],
        net.decoder.layers[1].self_attn.k_proj.weight,
    )
    tables = {"backbone.relative_pos_index1": torch.zeros(3), "backbone.relative_coords_table2": torch.zeros(3)}
    back = from_released(released | tables)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_arguments_of_released_weights(net: Dino) -> None:
    found = args_of_released(to_released(net.state_dict()))
    assert found.items() <= net.args().items()
    again = dino(Backbone("transnext_pico", STRIDES[5]), **found)
    load_released(again, to_released(net.state_dict()))
    assert torch.equal(again.level_embed, net.level_embed)


def test_released_weights_that_do_not_fit(net: Dino) -> None:
    released = to_released(net.state_dict())
    with pytest.raises(ValueError, match=r"1 parameters missing .level_embed."):
        load_released(net, {key: tensor for key, tensor in released.items() if key != "level_embed"})
    with pytest.raises(ValueError, match=r"1 parameters unexpected .head.weight."):
        load_released(net, {**released, "head.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 parameters of another shape .level_embed."):
        load_released(net, {**released, "level_embed": torch.zeros(4, 128)})
    with pytest.raises(ValueError, match="not those of a released DINO: there is no query_embedding"):
        args_of_released({"head.weight": torch.zeros(1)})


def recipe(shared_golden: Path) -> dict[str, dict]:
    variants: dict[str, dict] = json.loads((shared_golden / "recipes.json").read_text())["dino"]["variants"]
    return variants


@pytest.mark.parametrize("variant", ["4scale_tiny", "5scale_tiny", "5scale_small", "5scale_base"])
def test_rates_and_decay_are_those_of_the_released_training(variant: str, shared_golden: Path) -> None:
    expected = recipe(shared_golden)[variant]["param_groups"]
    scales = int(variant[0])
    with torch.device("meta"):
        net = dino(Backbone(f"transnext_{variant.split('_')[1]}", STRIDES[scales]), 80, scales=scales)
    no_decay = net.no_weight_decay()
    patterns: dict[tuple[float, float], set[str]] = {}
    numbers: dict[tuple[float, float], int] = {}
    for name, parameter in net.named_parameters():
        group = (lr_scale(name), 0.0 if parameter.ndim == 1 or name in no_decay else 1.0)
        parts = released_name(name).split(".")
        patterns.setdefault(group, set()).add(".".join("{i}" if part.isdigit() else part for part in parts))
        numbers[group] = numbers.get(group, 0) + parameter.numel()
    assert numbers == {(g["lr_mult"], g["decay_mult"]): g["num_params"] for g in expected}
    for g in expected:
        assert patterns[g["lr_mult"], g["decay_mult"]] == set(
            g.get("patterns", patterns[g["lr_mult"], g["decay_mult"]])
        )


def test_rates_of_another_backbone() -> None:
    net = dino(Backbone("resnet18", STRIDES[4]), 2, size="small")
    for name, _ in net.named_parameters():
        assert lr_scale(name) == (0.1 if name.startswith("backbone.") else 1.0)
