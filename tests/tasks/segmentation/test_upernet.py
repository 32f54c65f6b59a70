"""UPerNet as a segmenter: what it answers, what it is trained on, and what becomes of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transnext.models.backbone import Backbone
from transnext.models.checkpoint import load_strictly
from transnext.tasks.segmentation.ade20k import ADE20K_CLASSES
from transnext.tasks.segmentation.net import IGNORED
from transnext.tasks.segmentation.nets import SEGMENTERS, build_net, replace_classes, strides_of
from transnext.tasks.segmentation.placing import class_map
from transnext.tasks.segmentation.upernet.model import PRESETS, UPerNet, upernet
from transnext.tasks.segmentation.upernet.official import args_of_released, from_released, is_released, to_released

pytestmark = pytest.mark.usefixtures("one_thread")

TINY_BACKBONE: dict[str, Any] = {
    "img_size": 64,
    "embed_dims": (12, 16, 24, 32),
    "num_heads": (1, 2, 2, 4),
    "mlp_ratios": (3, 3, 2, 2),
    "depths": (1, 1, 1, 1),
}
TINY: dict[str, Any] = {"channels": 16, "auxiliary_channels": 8}
CANVAS = (96, 128)
SIZES = torch.tensor([[96, 128], [70, 101], [64, 33]])


def tiny(num_classes: int = 3, **args: Any) -> UPerNet:
    net = build_net("upernet", Backbone("transnext_pico", **TINY_BACKBONE), num_classes, **{**TINY, **args})
    assert isinstance(net, UPerNet)
    return net


def images(sizes: Tensor = SIZES) -> Tensor:
    x = torch.zeros(len(sizes), 3, *CANVAS)
    for image, (height, width) in zip(x, sizes.tolist(), strict=True):
        image[:, :height, :width] = torch.randn(3, height, width)
    return x


def maps(sizes: Tensor = SIZES) -> Tensor:
    labels = torch.full((len(sizes), *CANVAS), IGNORED, dtype=torch.uint8)
    for of_image, (height, width) in zip(labels, sizes.tolist(), strict=True):
        of_image[:height, :width] = torch.randint(0, 3, (height, width))
        of_image[: height // 3, : width // 2] = IGNORED
    return labels


def lively(net: UPerNet) -> UPerNet:
    """With statistics and classifiers that are not the initial ones, which hide mistakes."""
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif name.endswith("classifier"):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def test_answers() -> None:
    net = lively(tiny()).eval()
    with torch.no_grad():
        scores = net(images(), SIZES)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net(images(), SIZES)
    assert scores.shape == rounded.shape == (3, 3, CANVAS[0] // 4, CANVAS[1] // 4)
    assert scores.dtype == rounded.dtype == torch.float32


@torch.no_grad()
def test_a_batch_says_what_each_image_alone_does() -> None:
    net, x = lively(tiny()).eval(), images()
    together = net(x, SIZES)
    for number, of_batch in enumerate(together):
        alone = net(x[number : number + 1], SIZES[number : number + 1])[0]
        torch.testing.assert_close(alone, of_batch, rtol=0, atol=1e-4)


@pytest.mark.parametrize("labels", ["some", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "cross_entropy+focal+dice"])
def test_every_parameter_takes_part(labels: str, dtype: torch.dtype, loss: str) -> None:
    net = tiny(loss=loss, class_weights=[1, 2, 3]).train()
    target = maps() if labels == "some" else torch.full_like(maps(), IGNORED)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        losses = net(images(), SIZES, target)
    names = loss.split("+")
    assert list(losses) == [*names, *(f"auxiliary_{name}" for name in names)]
    assert all(loss.dtype == torch.float32 and loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all((loss > 0) == (labels == "some") for loss in losses.values())


def test_the_auxiliary_head_counts_by_its_weight() -> None:
    net, x, target = lively(tiny()).eval(), images(), maps()
    losses = net.losses(x, SIZES, target)
    assert net.auxiliary_head is not None
    alone = net.criterion(net.auxiliary_head(net.backbone(x)[2]), target)["cross_entropy"]
    torch.testing.assert_close(losses["auxiliary_cross_entropy"], 0.4 * alone)
    without = tiny(auxiliary_channels=0)
    assert without.auxiliary_head is None
    assert list(without.losses(x, SIZES, target)) == ["cross_entropy"]
    assert not any(name.startswith("auxiliary") for name, _ in without.named_parameters())


@pytest.mark.parametrize("side", [32, 64])
def test_one_image_can_be_trained_on(side: int) -> None:
    """Pooled to 1x1 it leaves one value of each channel, whose statistics are not worth keeping."""
    net = tiny(dropout=0.0).train()
    x, target = torch.randn(1, 3, side, side), torch.randint(0, 3, (1, side, side), dtype=torch.uint8)
    total(net(x, torch.tensor([[side, side]]), target)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    pooled, next_larger = (net.decode_head.psp_modules[i][1].batch_norm for i in (0, 1))
    assert pooled.num_batches_tracked == 0
    assert not pooled.running_mean.any()
    assert next_larger.num_batches_tracked == 1
    with torch.no_grad():
        values = torch.randn(1, 16, 1, 1)
        torch.testing.assert_close(pooled(values), values / (1 + pooled.eps) ** 0.5)
        assert torch.equal(pooled(values), pooled.eval()(values))
        assert pooled.train()(torch.randn(2, 16, 1, 1)).mean().abs() < 1e-6


def test_checkpointing_changes_nothing() -> None:
    net, x, target = lively(tiny(dropout=0.0)).train(), images(), maps()
    results = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        net.zero_grad()
        losses = net(x, SIZES, target)
        total(losses).backward()
        results.append([*losses.values(), *(p.grad for p in net.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-7)


def test_dropout_leaves_out_channels_in_training() -> None:
    net = lively(tiny(dropout=0.5))
    for head in (net.decode_head, net.auxiliary_head):
        assert head is not None
        dropped = head.dropout.train()(torch.ones(8, 50, 3, 3))
        assert {float(channel.unique()) for channel in dropped.flatten(0, 1)} == {0.0, 2.0}
    x = images()
    net.eval()
    assert torch.equal(net(x, SIZES), net(x, SIZES))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_any_backbone(name: str) -> None:
    net = build_net("upernet", Backbone(name), 2, size="small", **TINY).eval()
    with torch.no_grad():
        assert net(images(), SIZES).shape == (3, 2, 24, 32)
    assert net.train()(images(), SIZES, maps() % 2)["auxiliary_cross_entropy"].isfinite()


def test_strides_and_names() -> None:
    assert strides_of("upernet") == strides_of("mask2former") == (4, 8, 16, 32)
    with pytest.raises(ValueError, match="no segmenter is called 'unet': choose one of upernet, mask2former"):
        strides_of("unet")
    with pytest.raises(
        ValueError, match=r"needs maps of strides \(4, 8, 16, 32\), the backbone gives those of \[8, 16"
    ):
        build_net("upernet", Backbone("resnet18", (8, 16, 32)), 2)
    assert tiny().segmenter == "upernet"
    assert all(known.builder.startswith(known.classes.rpartition(".")[0]) for known in SEGMENTERS.values())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"size": "huge"}, "no size of UPerNet is called 'huge': choose one of released, small"),
        ({"widths": 3}, "UPerNet has no option widths"),
        ({"num_classes": 1}, "num_classes is 1: expected 2 to 255; one kind of thing and all else are two classes"),
        ({"num_classes": 256}, "num_classes is 256"),
        ({"class_weights": [1.0, 2.0]}, "2 class_weights for 3 classes"),
        ({"pool_scales": []}, "pool_scales"),
        ({"auxiliary_convs": 0}, "auxiliary_channels=0"),
        ({"loss": "hinge"}, "loss is 'hinge'"),
    ],
)
def test_what_cannot_be_built(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**args)
    with pytest.raises(ValueError, match="one map"):
        upernet(Backbone("resnet18", (8,)), 2)


def test_maps_must_lie_on_the_canvas() -> None:
    with pytest.raises(ValueError, match=r"maps are \(90, 128\), the images \(96, 128\) pixels"):
        tiny().losses(images(), SIZES, maps()[:, :90])


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "dice"])
def test_a_class_that_is_not_there_is_not_trained_on_in_silence(loss: str) -> None:
    wrong = maps()
    wrong[0, 50, 60] = 3
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        tiny(loss=loss).losses(images(), SIZES, wrong)


def test_arguments_build_the_network_again() -> None:
    net = tiny(size="small", loss="focal+dice", class_weights=[1, 2, 0.5], focal_gamma=3.0, pool_scales=(1, 4))
    args = net.args()
    again = upernet(Backbone("transnext_pico", **TINY_BACKBONE), **args)
    load_strictly(again, net.state_dict(), "the other")
    assert again.args() == args
    plain = (int, float, str, list)
    assert all(isinstance(value, plain) for value in args.values())
    assert PRESETS["small"].channels == 128


def test_initial_values_are_the_released_ones() -> None:
    net = upernet(Backbone("transnext_pico", **TINY_BACKBONE), 150)
    state = {key: t for key, t in to_released(net.state_dict()).items() if not key.startswith("backbone.")}
    expected = {
        "decode_head.conv_seg.weight": 0.01,
        "auxiliary_head.conv_seg.weight": 0.01,
        "decode_head.lateral_convs.0.conv.weight": (2 / 512) ** 0.5,
        "decode_head.fpn_bottleneck.conv.weight": (2 / (9 * 512)) ** 0.5,
        "auxiliary_head.convs.0.conv.weight": (2 / (9 * 256)) ** 0.5,
    }
    for key, std in expected.items():
        assert state[key].std().item() == pytest.approx(std, rel=0.05), key
    assert all(not t.any() for key, t in state.items() if key.endswith(".bias"))
    assert net.decode_head.dropout.p == 0.1
    assert isinstance(net.decode_head.dropout, nn.Dropout2d)
    assert args_of_released(to_released(net.state_dict())) == {
        "num_classes": 150,
        "channels": 512,
        "auxiliary_channels": 256,
        "auxiliary_convs": 1,
    }


def test_parameters_are_named_as_in_transformers() -> None:
    heads = pytest.importorskip("transformers.models.upernet.modeling_upernet")
    config = heads.UperNetConfig(hidden_size=16, auxiliary_channels=8, num_labels=3)
    net = lively(tiny()).eval()
    x = [torch.randn(1, width, 32 // 2**i, 48 // 2**i) for i, width in enumerate(net.backbone.channels)]
    for ours, theirs, given in (
        (net.decode_head, heads.UperNetHead(config, net.backbone.channels), x),
        (net.auxiliary_head, heads.UperNetFCNHead(config, net.backbone.channels), x[2]),
    ):
        assert ours is not None
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(given), theirs.eval()(x))


@pytest.mark.parametrize("auxiliary_convs", [0, 1, 2])
def test_released_names(auxiliary_convs: int) -> None:
    args = {"auxiliary_convs": auxiliary_convs} if auxiliary_convs else {"auxiliary_channels": 0}
    net = lively(tiny(**args))
    released = to_released(net.state_dict())
    assert is_released(released)
    assert not is_released(net.state_dict())
    assert all(key.startswith(("backbone.", "decode_head.", "auxiliary_head.")) for key in released)
    again = tiny(**args_of_released(released))
    load_strictly(again, from_released(released), "the file")
    assert all(torch.equal(again.state_dict()[key], t) for key, t in net.state_dict().items())
    with pytest.raises(ValueError, match=r"decode_head\.new"):
        load_strictly(again, from_released({**released, "decode_head.new": torch.zeros(1)}), "the file")
    with pytest.raises(ValueError, match="not the parameters of a released UPerNet"):
        args_of_released(net.state_dict())
    with pytest.raises(ValueError, match="this UPerNet has 2 pooled views, the released ones 4"):
        args_of_released(to_released(tiny(pool_scales=[1, 2]).state_dict()))


def test_classes_are_replaced_by_name() -> None:
    net, x = lively(tiny(3, loss="focal", class_weights=[1, 2, 3], focal_gamma=1.5)).eval(), images()

    def heads() -> list[Tensor]:
        features = net.backbone(x)
        assert net.auxiliary_head is not None
        return [net.decode_head(features), net.auxiliary_head(features[2])]

    before = heads()
    assert replace_classes(net, ["Cat", "dog", "cow"], ["horse", "DOG", "cat", "hen"]) == ["DOG", "cat"]
    assert net.num_classes == net.args()["num_classes"] == 4
    assert net.args()["loss"] == "focal"
    assert net.args()["focal_gamma"] == 1.5
    assert net.args()["class_weights"] is None
    for old, new in zip(before, heads(), strict=True):
        torch.testing.assert_close(new[:, [1, 2]], old[:, [1, 0]])
        assert new.shape[1] == 4
    assert total(net.train().losses(x, SIZES, maps())).isfinite()

    assert replace_classes(net, ["a", "b", "c", "d"], ["e", "f"]) == []
    with pytest.raises(ValueError, match="3 names for the 2 classes"):
        replace_classes(net, ["a", "b", "c"], ["c", "d"])
    with pytest.raises(ValueError, match="1 new classes are named"):
        replace_classes(net, ["e", "f"], ["e"])


def test_classes_of_ade20k() -> None:
    assert len(set(ADE20K_CLASSES)) == len(ADE20K_CLASSES) == 150
    assert [ADE20K_CLASSES[i] for i in (0, 12, 20, 89, 136, 149)] == [
        "wall",
        "person",
        "car",
        "television receiver",
        "traffic light",
        "flag",
    ]


def test_a_graph_takes_other_sizes() -> None:
    net = lively(tiny()).eval()
    side = torch.export.Dim("side", min=2, max=16)
    head = net.decode_head
    x = [torch.randn(1, width, 16 // 2**i, 24 // 2**i) for i, width in enumerate(net.backbone.channels)]
    dims = tuple({2: 2 ** (3 - i) * side} for i in range(4))
    program = torch.export.export(_OfMaps(head), tuple(x), dynamic_shapes=(dims,), strict=False)
    other = [torch.randn(1, width, 56 // 2**i, 24 // 2**i) for i, width in enumerate(net.backbone.channels)]
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*other), head(other), rtol=1e-5, atol=1e-5)


class _OfMaps(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, *maps: Tensor) -> Tensor:
        return self.head(maps)


FOUR_SIZES = torch.cat([SIZES, SIZES[:1]])


def _of_processes(net: nn.Module, own: list[int]) -> Tensor:
    """The loss of some of four images, normalised by running statistics: those of a batch are of one process alone."""
    torch.manual_seed(1)
    x, target = images(FOUR_SIZES), maps(FOUR_SIZES)
    target[[1, 3]] = IGNORED
    return total(net(x[own], FOUR_SIZES[own], target[own]))


def _gradients(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", store=torch.distributed.FileStore(store, 2), rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.parallel.DistributedDataParallel(tiny(loss=ALL_LOSSES).eval())
    _of_processes(net, [[0, 1, 2], [3]][rank]).backward()
    torch.save([p.grad for p in net.parameters()], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


ALL_LOSSES = "cross_entropy+focal+dice"


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    """The second has one image, the first three; nothing is labelled in the second."""
    torch.multiprocessing.spawn(_gradients, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    net = tiny(loss=ALL_LOSSES).eval()
    _of_processes(net, [0, 1, 2, 3]).backward()
    for rank in range(2):
        for (name, p), grad in zip(net.named_parameters(), torch.load(tmp_path / f"{rank}.pt"), strict=True):
            assert p.grad is not None
            torch.testing.assert_close(grad, p.grad, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name} {text}")


def drawing(number: int) -> tuple[Tensor, Tensor]:
    """Two to three rectangles and discs, of a colour and class each, on grey, which is class 0."""
    generator = torch.Generator().manual_seed(number)
    image = torch.full((3, 96, 96), 0.1) + 0.05 * torch.randn(3, 96, 96, generator=generator)
    labels = torch.zeros(96, 96, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    for place, corner in enumerate(torch.randperm(4, generator=generator)[: 2 + number % 2].tolist()):
        width, height = torch.randint(22, 40, (2,), generator=generator).tolist()
        x0, y0 = 48 * (corner % 2) + 4, 48 * (corner // 2) + 4
        colour = (number + place) % 3
        u, v = (x - x0) / width * 2 - 1, (y - y0) / height * 2 - 1
        inside = u**2 + v**2 <= 1 if colour == 2 else (u.abs() <= 1) & (v.abs() <= 1)
        image[colour, inside] = 1.5
        labels[inside] = colour + 1
    return image, labels


def mean_iou(answers: Tensor, labels: Tensor, num_classes: int) -> float:
    """Of the classes over all images together."""
    ious = []
    for c in range(num_classes):
        found, there = answers == c, labels == c
        ious.append(float((found & there).sum() / (found | there).sum()))
    return sum(ious) / num_classes


@pytest.mark.slow
def test_a_few_drawings_are_learned_by_heart() -> None:
    drawn = [drawing(number) for number in range(4)]
    x, labels = (torch.stack(part) for part in zip(*drawn, strict=True))
    sizes = torch.tensor([[96, 96]] * len(drawn))
    net = upernet(Backbone("transnext_pico", img_size=96), 4, size="small")
    steps, rate = 80, 2e-3
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        total(net(x, sizes, labels)).backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        answers = torch.stack([class_map(s, (96, 96), (96, 96), (96, 96)) for s in net(x, sizes)])
    assert mean_iou(answers, labels, 4) > 0.9
