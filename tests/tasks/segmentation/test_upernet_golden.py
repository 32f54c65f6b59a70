"""UPerNet against the released code: outputs, and a training step with its gradients."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.segmentation_golden import SegmentationGolden, read_segmentation_golden
from transnext.models.checkpoint import load_strictly
from transnext.tasks.segmentation.losses import pixel_accuracy
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.placing import class_map, resize_scores
from transnext.tasks.segmentation.upernet.model import UPerNet
from transnext.tasks.segmentation.upernet.official import args_of_released, from_released, released_name, to_released

pytestmark = pytest.mark.usefixtures("one_thread")

LOGITS = 1e-4


def build(golden: SegmentationGolden, *, extrapolate: bool | None = None) -> UPerNet:
    config = golden.config["model_config"]
    head, auxiliary = config["decode_head"], config["auxiliary_head"]
    assert auxiliary["in_index"] == len(head["in_index"]) - 2
    args = args_of_released(golden.weights)
    assert args == {
        "num_classes": head["num_classes"],
        "channels": head["channels"],
        "auxiliary_channels": auxiliary["channels"],
        "auxiliary_convs": auxiliary["num_convs"],
    }
    net = build_net(
        "upernet",
        golden.backbone(extrapolate=extrapolate),
        **args,
        pool_scales=head["pool_scales"],
        dropout=head["dropout_ratio"],
        auxiliary_weight=auxiliary["loss_decode"]["loss_weight"],
    )
    assert isinstance(net, UPerNet)
    load_strictly(net, from_released(golden.weights), golden.config["case"])
    return net


@torch.no_grad()
def test_outputs(upernet_file: Path) -> None:
    golden = read_segmentation_golden(upernet_file)
    expected, case = golden.tensors, golden.config["case_settings"]
    net = build(golden).eval()
    canvas = tuple(expected["x"].shape[2:])
    original = tuple(case["ori"])
    scores = net(expected["x"], torch.tensor([canvas]))
    close(scores, expected["decode_logits"])
    assert net.auxiliary_head is not None
    close(net.auxiliary_head(net.backbone(expected["x"])[-2]), expected["aux_logits"])
    for size, name, step in ((canvas, "logits", 1), (original, "logits_ori_s2", 2)):
        (placed,) = (torch.cat([part for _, part in resize_scores(s, canvas, canvas, size)], 1) for s in scores)
        close(placed[None, :, ::step, ::step], expected[name])
        same_map(class_map(scores[0], canvas, canvas, size)[::step, ::step], expected[name])


@torch.no_grad()
def test_extrapolated_positions(upernet_file: Path) -> None:
    golden = read_segmentation_golden(upernet_file)
    if "extra_decode_logits" not in golden.tensors:
        pytest.skip("the file has no such outputs")
    x, expected = golden.tensors["x"], golden.tensors["extra_decode_logits"]
    scores = build(golden, extrapolate=True).eval()(x, torch.tensor([x.shape[2:]]))
    close(scores, expected)
    same_map(scores[0].argmax(0), expected)


@torch.no_grad()
def test_windows(upernet_file: Path) -> None:
    """The mean over overlapping windows, as the released code takes it, of logits at the size of the window."""
    golden = read_segmentation_golden(upernet_file)
    test = golden.config["model_config"]["test_cfg"]
    x, (rows, columns) = golden.tensors["x"], test["crop_size"]
    net = build(golden).eval()
    total, times = torch.zeros(1, net.num_classes, *x.shape[2:]), torch.zeros(x.shape[2:])
    starts = [
        sorted({min(start, side - crop) for start in range(0, side - crop + step, step)})
        for side, crop, step in zip(x.shape[2:], test["crop_size"], test["stride"], strict=True)
    ]
    for top in starts[0]:
        for left in starts[1]:
            window = (..., slice(top, top + rows), slice(left, left + columns))
            scores = net(x[window], torch.tensor([[rows, columns]]))
            total[window] += F.interpolate(scores, (rows, columns), mode="bilinear", align_corners=False)
            times[window] += 1
    mean = (total / times)[..., ::2, ::2]
    close(mean, golden.tensors["slide_logits_s2"])
    same_map(mean[0].argmax(0), golden.tensors["slide_logits_s2"])


def test_training_step(upernet_training_file: Path) -> None:
    golden = read_segmentation_golden(upernet_training_file)
    expected = golden.tensors
    x, maps = expected["x"].clone().requires_grad_(), expected["gt_seg"].to(torch.uint8)
    net = build(golden).train()
    sizes = torch.tensor([maps.shape[1:]] * len(maps))
    losses = net(x, sizes, maps)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    seen = {
        "loss.decode.loss_ce": losses["cross_entropy"][None],
        "loss.aux.loss_ce": losses["auxiliary_cross_entropy"][None],
        "loss_total": total[None],
        "g.x": x.grad,
    }
    seen |= {f"after.{name}": buffer.clone() for name, buffer in to_released(dict(net.named_buffers())).items()}
    gradients = to_released({name: p.grad for name, p in net.named_parameters()})
    seen |= {f"g.{name}": gradient for name, gradient in gradients.items()}
    seen |= {f"{name}_s2": t[..., ::2, ::2] for name, t in seen.items() if t.ndim >= 2}

    assert net.auxiliary_head is not None
    with torch.no_grad():  # batch statistics, so the same numbers as in the step
        features = net.backbone(x)
        for name, logits in (("decode", net.decode_head(features)), ("aux", net.auxiliary_head(features[-2]))):
            seen[f"{name}_logits"] = logits
            seen[f"value.{name}.acc_seg"] = 100 * pixel_accuracy(logits, maps)[None]

    assert seen.keys() >= golden.config["tolerance"].keys()
    for name in golden.config["tolerance"]:
        close(seen[name], expected[name], golden.tolerance(name), name)
    norms = golden.config["gradient_norms"]
    assert gradients.keys() == norms.keys()
    for key, norm in norms.items():
        # The bias of global attention's position bias cancels: its gradient is rounding alone.
        assert gradients[key].norm() == pytest.approx(norm, rel=7e-4, abs=1e-6), key


def test_released_names_there_and_back(upernet_file: Path) -> None:
    weights = read_segmentation_golden(upernet_file).weights
    back = to_released(from_released(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], t) for key, t in weights.items())
    assert all(released_name(key) in weights for key in from_released(weights))


def close(ours: Tensor, expected: Tensor, tolerance: float = LOGITS, name: str = "") -> None:
    assert ours.shape == expected.shape, name
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance, msg=lambda text: f"{name}: {text}")


def same_map(ours: Tensor, logits: Tensor) -> None:
    """The likeliest classes differ at no more than a thousandth of the pixels."""
    expected = logits[0].argmax(0)
    assert len(expected.unique()) > 1
    assert (ours.long() != expected).float().mean() <= 1e-3
