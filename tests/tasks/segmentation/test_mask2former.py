"""Mask2Former by itself: initial values, losses and answers against references, batches, precision, classes, names."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from tests.helpers.tiny_mask2former import TINY, tiny_backbone, tiny_net
from transnext.models.backbone import Backbone
from transnext.tasks.segmentation.mask2former import losses as losses_module
from transnext.tasks.segmentation.mask2former import model as model_module
from transnext.tasks.segmentation.mask2former.classes import replace_classes
from transnext.tasks.segmentation.mask2former.losses import choose_points, losses_of_outputs
from transnext.tasks.segmentation.mask2former.matching import Target
from transnext.tasks.segmentation.mask2former.model import (
    mask2former,
    scores_of_pixels,
    target_of_map,
)
from transnext.tasks.segmentation.mask2former.official import (
    args_of_released,
    from_released,
    is_released,
    to_released,
)
from transnext.tasks.segmentation.net import IGNORED

pytestmark = pytest.mark.usefixtures("one_thread")


def batch(count: int = 2, height: int = 64, width: int = 96, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    maps = torch.randint(0, classes, (count, height, width), dtype=torch.uint8)
    return torch.randn(count, 3, height, width), torch.tensor([[height, width]] * count), maps


@pytest.mark.parametrize("size", ["small", "released"])
def test_initial_values_are_told_by_the_seed(size: str) -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(mask2former(tiny_backbone(), 5, size=size))
    first, second = (net.state_dict() for net in nets)
    for name, value in first.items():
        assert bool(value.isfinite().all()), name
        assert torch.equal(value, second[name]), name


def test_initial_values_are_the_released_ones() -> None:
    torch.manual_seed(0)
    head = mask2former(tiny_backbone(), 5).head
    encoder, decoder = head.pixel_decoder.encoder.layers[0], head.transformer_module.decoder.layers[0]

    def normal(weight: Tensor, std: float) -> None:
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.03)

    normal(decoder.cross_attn.in_proj_weight, (2 / (4 * 256)) ** 0.5)
    normal(decoder.self_attn.q_proj.weight, (2 / (4 * 256)) ** 0.5)
    normal(decoder.self_attn.out_proj.weight, (2 / 512) ** 0.5)
    normal(encoder.fc1.weight, (2 / (256 + 1024)) ** 0.5)
    normal(head.transformer_module.queries_features.weight, 1)
    assert float(head.pixel_decoder.level_embed.detach().std()) == pytest.approx(1, rel=0.1)
    for conv, bound in (
        (head.pixel_decoder.layer_1[0], (3 / (256 * 9)) ** 0.5),
        (head.pixel_decoder.mask_projection, (3 / 256) ** 0.5),
        (head.pixel_decoder.input_projections[0][0], (6 / (48 + 256)) ** 0.5),
    ):
        assert float(conv.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
    attention = encoder.self_attn
    offsets = attention.sampling_offsets.bias.view(8, 3, 4, 2)
    # The second of eight heads looks along the diagonal, its fourth point four pixels away in x and y.
    torch.testing.assert_close(offsets[1, 2].detach(), torch.tensor([[1.0, 1], [2, 2], [3, 3], [4, 4]]))
    for tensor in (
        attention.sampling_offsets.weight,
        attention.attention_weights.weight,
        attention.attention_weights.bias,
        attention.value_proj.bias,
        decoder.cross_attn.in_proj_bias,
        decoder.self_attn.k_proj.bias,
    ):
        assert not tensor.any()


def test_batch_equals_single_images() -> None:
    net = tiny_net().eval()
    images, sizes, _ = batch(3)
    with torch.no_grad():
        together = net.scores(images, sizes)
        for i in range(3):
            alone = net.scores(images[i : i + 1], sizes[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_other_backbones_train(name: str) -> None:
    net = mask2former(tiny_backbone(name), 5, size="small", **TINY)
    images, sizes, maps = batch(1)
    sum(net(images, sizes, maps).values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert net.slow_parameters() <= {key for key, _ in net.named_parameters()}
    assert net(images, sizes).shape == (1, 5, 64, 96)


@pytest.mark.parametrize("empty", ["one", "all"])
def test_images_without_a_labelled_pixel(empty: str) -> None:
    net = tiny_net()
    images, sizes, maps = batch()
    maps[0 if empty == "one" else slice(None)] = IGNORED
    losses = net.losses(images, sizes, maps)
    assert losses.keys() == net.losses(images, sizes, batch()[2]).keys()
    sum(losses.values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


def test_targets_of_a_map() -> None:
    classes = torch.tensor([[3, 3, IGNORED], [0, 3, 0]], dtype=torch.uint8)
    target = target_of_map(classes, 4)
    assert target.labels.tolist() == [0, 3]
    assert target.masks.tolist() == [[[0, 0, 0], [1, 0, 1]], [[1, 1, 0], [0, 1, 0]]]
    assert target_of_map(torch.full((2, 3), IGNORED, dtype=torch.uint8), 4).masks.shape == (0, 2, 3)
    with pytest.raises(ValueError, match="a map has class 3, the network 3"):
        target_of_map(classes, 3)


def sampled(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear values of a mask at points, zero beyond it."""
    padded = np.pad(mask.astype(np.float64), 1)
    x, y = points[:, 0] * mask.shape[1] + 0.5, points[:, 1] * mask.shape[0] + 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    dx, dy = x - left, y - top
    above = padded[top, left] * (1 - dx) + padded[top, left + 1] * dx
    below = padded[top + 1, left] * (1 - dx) + padded[top + 1, left + 1] * dx
    return above * (1 - dy) + below * dy


def reference_losses(
    logits: np.ndarray, masks: np.ndarray, targets: list[Target], drawn: list[np.ndarray], count: int
) -> tuple[float, float, float]:
    """Class, mask and Dice loss of one output, in float64 and one query after the other."""
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    points = [drawn.pop(0)[0] for _ in targets]
    pairs = []
    for image, target in enumerate(targets):
        costs = np.zeros((masks.shape[1], len(target.labels)))
        for query in range(masks.shape[1]):
            for place, label in enumerate(target.labels.tolist()):
                z = sampled(masks[image, query], points[image])
                t = sampled(target.masks[place].numpy(), points[image])
                p = 1 / (1 + np.exp(-z))
                entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
                dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
                costs[query, place] = 5 * entropy + 5 * dice - 2 * probabilities[image, query, label]
        pairs += [(image, query, place) for query, place in zip(*linear_sum_assignment(costs), strict=True)]
    weighted = weights = 0.0
    for image in range(len(targets)):
        matched = {query: place for i, query, place in pairs if i == image}
        for query in range(masks.shape[1]):
            label = int(targets[image].labels[matched[query]]) if query in matched else logits.shape[-1] - 1
            weight = 1 if query in matched else 0.1
            weighted -= weight * np.log(probabilities[image, query, label])
            weights += weight
    many, others = drawn.pop(0), drawn.pop(0)
    entropies = dices = 0.0
    for (image, query, place), far, near in zip(pairs, many, others, strict=True):
        certainty = np.abs(sampled(masks[image, query], far))
        used = np.concatenate([far[np.argsort(certainty)[: int(0.75 * count)]], near])
        z, t = sampled(masks[image, query], used), sampled(targets[image].masks[place].numpy(), used)
        p = 1 / (1 + np.exp(-z))
        entropies -= (t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
        dices += 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    divisor = sum(max(sum(i == image for i, *_ in pairs), 1) for image in range(len(targets)))
    return 2 * weighted / weights, 5 * entropies / divisor, 5 * dices / divisor


def test_losses_against_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more masks than queries in one image, none in another, and masks of odd sizes."""
    count, drawn = 20, []

    def draw(rows: int, number: int, device: torch.device) -> Tensor:
        points = torch.rand(rows, number, 2, device=device)
        drawn.append(points.double().numpy())
        return points

    monkeypatch.setattr(losses_module, "draw_points", draw)
    logits = [torch.randn(3, 4, 8) for _ in range(2)]
    masks = [3 * torch.randn(3, 4, 7, 9) for _ in range(2)]
    targets = [Target(torch.randint(7, (n,)), (torch.rand(n, 27, 35) < 0.4).float()) for n in (2, 0, 6)]
    found = losses_of_outputs(logits, masks, targets, count)
    for name, of_output, drawn_masks in zip(("d0.", ""), logits, masks, strict=True):
        expected = reference_losses(of_output.double().numpy(), drawn_masks.double().numpy(), targets, drawn, count)
        for term, value in zip(("cls", "mask", "dice"), expected, strict=True):
            assert float(found[f"{name}loss_{term}"]) == pytest.approx(value, rel=1e-5)
    assert not drawn
    assert list(found) == [f"{name}loss_{term}" for name in ("d0.", "") for term in ("cls", "mask", "dice")]


def test_losses_of_two_processes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks = [torch.randn(3, 4, 8)], [torch.randn(3, 4, 8, 8)]
    targets = [Target(torch.randint(7, (n,)), (torch.rand(n, 32, 32) < 0.4).float()) for n in (2, 0, 3)]
    monkeypatch.setattr(
        losses_module,
        "draw_points",
        lambda rows, count, _: torch.linspace(0.01, 0.99, 2 * count).view(1, count, 2).expand(rows, -1, -1),
    )
    whole = losses_of_outputs(logits, masks, targets, 30)
    parts = (slice(0, 2), slice(2, 3))
    divisors: list[Tensor] = []
    monkeypatch.setattr(losses_module, "mean_over_processes", lambda counts: divisors.append(counts) or counts)
    for part in parts:
        losses_of_outputs([logits[0][part]], [masks[0][part]], targets[part], 30)
    monkeypatch.setattr(losses_module, "mean_over_processes", lambda _: torch.stack(divisors).mean(0))
    each = [losses_of_outputs([logits[0][part]], [masks[0][part]], targets[part], 30) for part in parts]
    for name, loss in whole.items():
        assert float((each[0][name] + each[1][name]) / 2) == pytest.approx(float(loss), rel=1e-5), name


def test_layers_are_computed_again_where_asked() -> None:
    net = tiny_net()
    calls: list[str] = []
    for name, layer in (
        ("encoder", net.head.pixel_decoder.encoder.layers[0]),
        ("decoder", net.head.transformer_module.decoder.layers[1]),
    ):
        layer.fc1.register_forward_hook(lambda *_, name=name: calls.append(name))
    images, sizes, maps = batch(1)
    for enable in (True, False):
        net.set_grad_checkpointing(enable)
        calls.clear()
        sum(net.losses(images, sizes, maps).values()).backward()
        assert sorted(calls) == sorted(["decoder", "encoder"] * (2 if enable else 1))


def test_points_come_from_the_generator_of_torch() -> None:
    masks = torch.randn(3, 1, 8, 8)
    torch.manual_seed(5)
    first = choose_points(masks, 17)
    torch.manual_seed(5)
    assert torch.equal(choose_points(masks, 17), first)
    assert first.shape == (3, 17, 2)
    assert 0 <= float(first.min()) <= float(first.max()) < 1


def test_loss_that_is_not_finite_is_seen() -> None:
    logits, masks = torch.randn(1, 4, 3), torch.randn(1, 4, 8, 8)
    masks[0, 2] = torch.nan
    target = Target(torch.tensor([0]), torch.ones(1, 32, 32))
    assert losses_of_outputs([logits], [masks], [target], 10)["loss_mask"].isnan()


def test_scores_are_sums_over_queries_in_any_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks = torch.randn(2, 7, 5), 3 * torch.randn(2, 7, 8, 12)
    large = nn.functional.interpolate(masks.double(), (31, 45), mode="bilinear", align_corners=False).sigmoid()
    expected = torch.einsum("bqc,bqhw->bchw", logits.double().softmax(-1)[..., :-1], large)
    for limit in (1, 3 * 2 * 31 * 45, 2**30):
        monkeypatch.setattr(model_module, "_AT_ONCE", limit)
        torch.testing.assert_close(scores_of_pixels(logits, masks, (31, 45)).double(), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_near_float32() -> None:
    net = tiny_net()
    images, sizes, maps = batch()
    torch.manual_seed(0)
    exact = net.losses(images, sizes, maps)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net.losses(images, sizes, maps)
        scores = net.scores(images, sizes)
    assert all(loss.dtype == torch.float32 for loss in rough.values())
    assert scores.dtype == torch.float32
    for name in exact:
        assert float(rough[name]) == pytest.approx(float(exact[name]), rel=0.05), name
    sum(rough.values()).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in net.parameters())


def test_training_after_evaluation_in_inference_mode() -> None:
    """What transformers keeps of positions in evaluation must not break training on images of the same size."""
    net = tiny_net()
    images, sizes, maps = batch()
    with torch.inference_mode():
        net.eval().scores(images, sizes)
    sum(net.train().losses(images, sizes, maps).values()).backward()


def test_what_is_not_decayed_and_what_is_slow() -> None:
    net = tiny_net()
    names = {name for name, _ in net.named_parameters()}
    undecayed = {name for name in net.no_weight_decay() if name.startswith("head.")}
    assert undecayed == {
        f"head.transformer_module.{name}.weight" for name in ("queries_embedder", "queries_features", "level_embed")
    }
    assert undecayed <= names
    slow = net.slow_parameters()
    assert slow < {name for name in names if name.startswith("backbone.")}
    fast = {name for name in names - slow if name.startswith("backbone.")}
    assert all("stages.3.patch_embed" in name or "stages.3.norm" in name for name in fast), fast


def test_arguments_build_it_again() -> None:
    net = tiny_net()
    again = mask2former(tiny_backbone(), **net.args())
    again.load_state_dict(net.state_dict())
    assert again.args() == net.args()


def test_arguments_told_by_released_names() -> None:
    net = tiny_net()
    released = to_released(net.state_dict())
    assert is_released(released)
    assert not is_released(net.state_dict())
    told = args_of_released(released)
    assert told == {key: value for key, value in net.args().items() if key != "num_points"}
    back = from_released(released)
    assert back.keys() == net.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in net.state_dict().items())
    with pytest.raises(ValueError, match="not the parameters of a released Mask2Former"):
        args_of_released(net.state_dict())


def test_older_released_names() -> None:
    net = tiny_net()
    older = {}
    for key, value in to_released(net.state_dict()).items():
        name = key
        if key.startswith("decode_head.pixel_decoder.encoder"):
            name = name.replace(".self_attn.", ".attentions.0.").replace(".ffn.", ".ffns.0.")
        elif key.startswith("decode_head.transformer_decoder"):
            name = name.replace(".cross_attn.", ".attentions.0.").replace(".self_attn.", ".attentions.1.")
            name = name.replace(".ffn.", ".ffns.0.")
        older[name] = value
    back = from_released(older)
    assert back.keys() == net.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in net.state_dict().items())
    assert args_of_released(older) == args_of_released(to_released(net.state_dict()))


def test_other_classes() -> None:
    net = tiny_net(4).eval()
    images, _, _ = batch(1)
    before = net.predict(images).logits[-1]
    assert replace_classes(net, ["sky", "Sea", "land", "road"], ["tree", "road", "sea"]) == ["road", "sea"]
    after = net.predict(images).logits[-1]
    assert net.num_classes == net.args()["num_classes"] == 3
    assert torch.equal(after[..., 1:], before[..., [3, 1, 4]])
    with pytest.raises(ValueError, match="2 names for the 3 classes"):
        replace_classes(net, ["a", "b"], ["c"])
    with pytest.raises(ValueError, match="no new classes"):
        replace_classes(net, ["a", "b", "c"], [])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"size": "huge"}, "no size 'huge'"),
        ({"layers": 3}, "has no layers"),
        ({"embed_dim": 48}, "multiple of 32"),
        ({"num_heads": 3}, "multiple of 32 and of num_heads"),
        ({"num_queries": 0}, "num_queries is 0"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"num_classes": 256}, "255 at most"),
    ],
)
def test_what_cannot_be_built(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask2former(tiny_backbone(), **{"num_classes": 5, **args})


def test_other_strides_are_refused() -> None:
    with pytest.raises(ValueError, match="strides 4, 8, 16, 32"):
        mask2former(Backbone("resnet18", (8, 16, 32)), 5)
