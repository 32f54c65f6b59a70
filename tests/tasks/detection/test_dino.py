"""DINO as a network: what any of them does, without the released code's numbers."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection.dino import model
from transnext.tasks.detection.dino.classes import replace_classes
from transnext.tasks.detection.dino.denoising import Denoising
from transnext.tasks.detection.dino.matching import Objects
from transnext.tasks.detection.dino.model import STRIDES, Dino, dino

pytestmark = pytest.mark.usefixtures("one_thread")

CANVAS = (96, 128)
SIZES = torch.tensor([[96, 100], [71, 128], [33, 47]])
NO_OBJECTS = Instances(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
TARGETS = [
    Instances(boxes=torch.tensor([[4.0, 5, 40, 60], [50, 20, 99, 95], [0, 0, 10, 9]]), labels=torch.tensor([0, 2, 2])),
    NO_OBJECTS,
    Instances(boxes=torch.tensor([[3.0, 3, 30, 20]]), labels=torch.tensor([1])),
]
TINY = {"embed_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "ffn_dim": 64, "num_queries": 12}


def make(scales: int = 4, num_classes: int = 3, **overrides: object) -> Dino:
    backbone = Backbone("transnext_pico", STRIDES[scales], embed_dims=(16, 16, 16, 32), num_heads=(1, 1, 1, 2))
    return dino(backbone, num_classes, scales=scales, **{**TINY, "dn_queries": 10, **overrides})


@pytest.fixture
def net(randomise: Callable[[nn.Module], nn.Module]) -> Dino:
    net = randomise(make())
    assert isinstance(net, Dino)
    return net


def pictures(seed: int = 0) -> Tensor:
    """Three images, 0 beyond the size of each."""
    images = torch.randn(3, 3, *CANVAS, generator=torch.Generator().manual_seed(seed))
    for image, (rows, columns) in zip(images, SIZES.tolist(), strict=True):
        image[:, rows:] = 0
        image[:, :, columns:] = 0
    return images


def denoised(net: Dino, targets: list[Instances]) -> Denoising:
    objects = Objects.of(targets, SIZES)
    return Denoising.of(objects, net.num_classes, queries=10, label_noise=0.5, box_noise=1.0)


@torch.no_grad()
def test_groups_of_denoising_see_neither_one_another_nor_are_seen(net: Dino) -> None:
    memory, levels = net.encode(pictures(), SIZES)
    proposals = net.propose(memory, levels)
    denoising = denoised(net, TARGETS)
    assert denoising.groups == 3
    group_of = denoising.queries // (2 * denoising.block)
    before = net.predict(net.decode(proposals, memory, levels, denoising))
    for group in range(denoising.groups):
        in_group = group_of == group
        boxes = torch.where(in_group[:, None], denoising.boxes + 0.3, denoising.boxes)
        labels = torch.where(in_group, (denoising.labels + 1) % net.num_classes, denoising.labels)
        after = net.predict(net.decode(proposals, memory, levels, replace(denoising, boxes=boxes, labels=labels)))
        own = slice(group * 2 * denoising.block, (group + 1) * 2 * denoising.block)
        others = torch.ones(before.logits.shape[2], dtype=torch.bool)
        others[own] = False
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[:, :, others], new[:, :, others])
            assert (old[:, 0, own] != new[:, 0, own]).any(-1).all()


@torch.no_grad()
def test_denoising_sees_matching_queries(net: Dino) -> None:
    memory, levels = net.encode(pictures(), SIZES)
    denoising = denoised(net, TARGETS)
    proposals = net.propose(memory, levels)
    before = net.predict(net.decode(proposals, memory, levels, denoising))
    net.query_embedding.weight += 1
    after = net.predict(net.decode(proposals, memory, levels, denoising))
    assert (before.logits != after.logits).any(-1).all()


@torch.no_grad()
def test_denoising_changes_nothing_of_matching(net: Dino) -> None:
    memory, levels = net.encode(pictures(), SIZES)
    proposals = net.propose(memory, levels)
    alone = net.predict(net.decode(proposals, memory, levels))
    denoising = denoised(net, TARGETS)
    beside = net.predict(net.decode(proposals, memory, levels, denoising))
    torch.testing.assert_close(beside.logits[:, :, denoising.count :], alone.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(beside.boxes[:, :, denoising.count :], alone.boxes, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_batch_gives_what_each_image_gives(net: Dino) -> None:
    net.eval()
    images = pictures()
    together = net.detect(images, SIZES)
    for i, found in enumerate(together):
        (alone,) = net.detect(images[i : i + 1], SIZES[i : i + 1])
        torch.testing.assert_close(found.scores, alone.scores, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=0, atol=1e-3)
        assert torch.equal(found.labels, alone.labels)


@torch.no_grad()
def test_what_is_found(net: Dino) -> None:
    net.eval()
    for found, (rows, columns) in zip(net.detect(pictures(), SIZES), SIZES.tolist(), strict=True):
        assert len(found) == 3 * TINY["num_queries"]
        assert (found.scores.diff() <= 0).all()
        assert ((found.scores > 0) & (found.scores < 1)).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, 0::2] <= columns).all()
        assert (found.boxes[:, 1::2] <= rows).all()
        assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert found.masks is None
    net.max_detections = 7
    assert [len(found) for found in net.detect(pictures(), SIZES)] == [7, 7, 7]
    assert net.args()["max_detections"] == 7


@pytest.mark.parametrize("targets", [TARGETS, [NO_OBJECTS] * 3], ids=["objects", "none"])
@pytest.mark.parametrize("scales", [4, 5])
def test_every_parameter_has_a_gradient(scales: int, targets: list[Instances]) -> None:
    net = make(scales).train()
    losses = net(pictures(), SIZES, targets)
    assert all(loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_names_of_losses_do_not_depend_on_objects() -> None:
    net = make(decoder_layers=3)
    names = net.losses(pictures(), SIZES, TARGETS).keys()
    assert len(names) == 3 * (2 * 3 + 1)
    assert names == net.losses(pictures(), SIZES, [NO_OBJECTS] * 3).keys()


def test_more_objects_than_queries() -> None:
    boxes = torch.rand(40, 2).mul(20).repeat(1, 2) + torch.tensor([0.0, 0, 9, 9])
    crowded = Instances(boxes=boxes, labels=torch.randint(3, (40,)))
    losses = make().losses(pictures(), SIZES, [crowded, NO_OBJECTS, NO_OBJECTS])
    assert all(loss.isfinite() for loss in losses.values())


@torch.no_grad()
def test_more_queries_than_places() -> None:
    net = make(num_queries=900, embed_dim=64)
    (found,) = net.eval().detect(torch.randn(1, 3, 32, 32), torch.tensor([[32, 20]]))
    assert len(found) == 3 * (16 + 4 + 1 + 1)


def test_divisors_are_those_of_all_processes(net: Dino, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with an image each: the mean of their losses is that of one with both."""
    net.eval()
    images, halves = pictures(), [slice(0, 1), slice(2, 3)]
    asked: list[Tensor] = []

    def mean_of_two(counts: Tensor, least: float) -> Tensor:
        asked.append(counts)
        return counts.new_tensor([2.0, 60.0])  # 3 and 1 objects

    both = [0, 2]
    with torch.no_grad():
        one = net.losses(images[both], SIZES[both], [TARGETS[i] for i in both])
        monkeypatch.setattr(model, "mean_over_processes", mean_of_two)
        two = [net.losses(images[half], SIZES[half], TARGETS[half]) for half in halves]
    assert [counts.tolist() for counts in asked] == [[3, 9], [1, 10]]  # asked once, or processes would get out of step
    for name in (name for name in one if "dn_" not in name):
        torch.testing.assert_close((two[0][name] + two[1][name]) / 2, one[name], rtol=1e-5, atol=1e-6)


def test_checkpointing_changes_no_gradient(net: Dino) -> None:
    net.train()
    gradients = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        assert net.encoder.grad_checkpointing == enable
        net.zero_grad()
        torch.manual_seed(1)
        sum(net.losses(pictures(), SIZES, TARGETS).values()).backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-4, atol=1e-6)


def test_checkpointing_keeps_fewer_activations(net: Dino) -> None:
    net.train()
    kept = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        elements = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal elements
            elements += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            net.losses(pictures(), SIZES, TARGETS)
        kept.append(elements)
    assert kept[1] < 0.7 * kept[0]


def test_bfloat16(net: Dino) -> None:
    net.train()
    torch.manual_seed(1)
    exact = net.losses(pictures(), SIZES, TARGETS)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net.losses(pictures(), SIZES, TARGETS)
        found = net.detect(pictures(), SIZES)
    assert all(loss.dtype == torch.float32 for loss in rough.values())
    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32
    total = torch.stack(list(exact.values())).sum()
    torch.testing.assert_close(torch.stack(list(rough.values())).sum(), total, rtol=0.05, atol=0)
    sum(rough.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_losses_tell_of_what_is_not_finite(net: Dino) -> None:
    net.train()
    with torch.no_grad():
        net.reg_branches[1][-1].bias.fill_(float("nan"))
    assert not sum(net.losses(pictures(), SIZES, TARGETS).values()).isfinite()
    broken = Instances(boxes=torch.tensor([[1.0, float("nan"), 9, 9]]), labels=torch.tensor([0]))
    assert not sum(make().losses(pictures(), SIZES, [broken, NO_OBJECTS, NO_OBJECTS]).values()).isfinite()


def test_initial_values() -> None:
    torch.manual_seed(0)
    net = make()
    with torch.no_grad():
        memory, levels = net.encode(pictures(), SIZES)
        proposals = net.propose(memory, levels)
        refined = net.decode(proposals, memory, levels)
    assert all(torch.allclose(head.bias.sigmoid(), torch.tensor(0.01)) for head in net.cls_branches)
    # No box is moved at first. Those at an end of 0..1 count as 1e-3 within it.
    for moved in refined.references[1:]:
        torch.testing.assert_close(moved, refined.references[0], rtol=0, atol=1.1e-3)
    attention = net.encoder.layers[0].self_attn
    assert (attention.sampling_offsets.weight == 0).all()
    offsets = attention.sampling_offsets.bias.view(4, 4, 4, 2)
    assert torch.allclose(offsets[1, 2], torch.tensor([[0.0, 1], [0, 2], [0, 3], [0, 4]]), atol=1e-6)
    bound = (6 / (4 * 32)) ** 0.5
    assert 0.9 * bound < net.decoder.layers[0].self_attn.k_proj.weight.abs().max() <= bound


def test_args_build_it_again() -> None:
    net = make(5, num_points=2, max_detections=20, box_noise=0.4)
    again = dino(Backbone("transnext_pico"), **net.args())
    assert again.args() == net.args()
    shapes = {name: p.shape for name, p in net.named_parameters() if name.startswith(("encoder", "decoder"))}
    found = {name: p.shape for name, p in again.named_parameters() if name.startswith(("encoder", "decoder"))}
    assert shapes == found


def test_any_backbone() -> None:
    net = dino(Backbone("resnet18", STRIDES[4]), 2, size="small")
    losses = net.losses(pictures(), SIZES, [replace(t, labels=t.labels.clamp(max=1)) for t in TARGETS])
    assert all(loss.isfinite() for loss in losses.values())


def test_mistakes() -> None:
    backbone = Backbone("transnext_pico", (8, 16, 32))
    with pytest.raises(ValueError, match=r"needs maps of strides 4, 8, 16, 32, the backbone .* built without 4"):
        dino(backbone, 3, scales=5)
    with pytest.raises(ValueError, match="scales is 3"):
        dino(backbone, 3, scales=3)
    with pytest.raises(ValueError, match="no size 'large': choose one of released, small"):
        dino(backbone, 3, size="large")
    with pytest.raises(ValueError, match="DINO has no depth: it has embed_dim"):
        dino(backbone, 3, depth=3)
    with pytest.raises(ValueError, match="embed_dim is 48"):
        dino(backbone, 3, embed_dim=48)
    with pytest.raises(ValueError, match="num_queries is 0"):
        dino(backbone, 3, num_queries=0)
    with pytest.raises(ValueError, match="at least one class"):
        dino(backbone, 0)


def test_other_classes_by_name(net: Dino) -> None:
    old = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kept = replace_classes(net, ["Cat", "dog", "emu"], ["owl", "DOG", "cat", "yak"])
    assert kept == ["DOG", "cat"]
    assert net.num_classes == net.args()["num_classes"] == 4
    for i in range(3):
        for name in (f"cls_branches.{i}.weight", f"cls_branches.{i}.bias"):
            assert torch.equal(net.state_dict()[name][1:3], old[name][[1, 0]])
        assert torch.allclose(net.cls_branches[i].bias[[0, 3]].sigmoid(), torch.tensor(0.01))
    assert torch.equal(net.label_embedding.weight[1:3], old["label_embedding.weight"][[1, 0]])
    untouched = [name for name in old if not name.startswith(("cls_branches", "label_embedding"))]
    assert all(torch.equal(net.state_dict()[name], old[name]) for name in untouched)
    assert all(loss.isfinite() for loss in net.losses(pictures(), SIZES, TARGETS).values())
    assert all((found.labels < 4).all() for found in net.detect(pictures(), SIZES))
    with pytest.raises(ValueError, match="2 names are given for the 4 classes"):
        replace_classes(net, ["a", "b"], ["c"])
    with pytest.raises(ValueError, match="at least one"):
        replace_classes(net, ["a", "b", "c", "d"], [])
