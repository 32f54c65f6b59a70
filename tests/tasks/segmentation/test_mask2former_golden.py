"""Mask2Former against the released code: outputs, maps, losses, matching, points and gradients."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.mask2former_golden import Mask2FormerGolden, Step, drawn_from, mask2former_files, read_mask2former
from transnext.tasks.segmentation.mask2former.model import Mask2Former
from transnext.tasks.segmentation.mask2former.official import to_released
from transnext.tasks.segmentation.net import IGNORED

pytestmark = pytest.mark.usefixtures("one_thread")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = metafunc.config.getoption("--golden")
    outputs, training = (mask2former_files(folder, training=t) for t in (False, True))
    for name, files in {"output_file": outputs, "training_file": training, "any_file": outputs + training}.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, files, ids=[file.stem for file in files])


def assert_close(found: Tensor, golden: Mask2FormerGolden, key: str) -> None:
    torch.testing.assert_close(
        found,
        golden.tensors[key].reshape(found.shape),
        rtol=0,
        atol=golden.tolerance(key),
        msg=lambda said: f"{key}: {said}",
    )


@torch.no_grad()
def test_outputs(output_file: Path) -> None:
    golden = read_mask2former(output_file)
    settings, tensors = golden.config["case_settings"], golden.tensors
    net = golden.build().eval()
    x = tensors["x"]

    memories, features = net.head.pixels(net.backbone(x))
    assert_close(features[:, :, ::2, ::2], golden, "mask_features_s2")
    for level, memory in enumerate(memories):
        assert_close(memory, golden, f"memory{level}")
    predictions = net.predict(x)
    assert_close(torch.stack(predictions.logits), golden, "cls_logits")
    assert_close(torch.stack(predictions.masks), golden, "mask_logits")

    scores = net.scores(x, torch.tensor([settings["size"]] * len(x)))
    assert_close(scores, golden, "sem_scores")
    differ = scores.argmax(1) != tensors["sem_scores"].argmax(1)
    assert differ.float().mean() <= 1e-3
    at_original = F.interpolate(scores, tuple(settings["ori"]), mode="bilinear", align_corners=False)
    assert_close(at_original[:, :, ::2, ::2], golden, "sem_scores_ori_s2")


def take_step(
    golden: Mask2FormerGolden, monkeypatch: pytest.MonkeyPatch, beginning: str = ""
) -> tuple[Mask2Former, Tensor, dict[str, Tensor], Step]:
    """The network, its input, its losses and what was seen on the way."""
    net = golden.build().train()
    x = golden.tensors["x"].clone().requires_grad_()
    maps = golden.tensors["gt_seg"].to(torch.uint8)
    if beginning:
        maps = maps.clone()
        maps[1] = IGNORED
    sizes = torch.tensor([golden.config["case_settings"]["ori"]] * len(x))
    with drawn_from(golden, beginning, monkeypatch) as step:
        losses = net.losses(x, sizes, maps)
    return net, x, losses, step


@pytest.mark.parametrize("beginning", ["", "void."])
def test_losses(training_file: Path, monkeypatch: pytest.MonkeyPatch, beginning: str) -> None:
    golden = read_mask2former(training_file)
    _, _, losses, step = take_step(golden, monkeypatch, beginning)
    names = beginning or "loss.decode."
    assert golden.expected_losses(names).keys() == losses.keys()
    for name, loss in losses.items():
        assert_close(loss, golden, names + name)
    if not beginning:
        assert_close(torch.stack(list(losses.values())).sum(), golden, "loss_total")

    assert len(step.pairs) == golden.outputs
    for output, pairs in enumerate(step.pairs):
        for image, pair in enumerate(pairs):
            expected = golden.tensors[f"{beginning}matched.{output}.{image}"]
            assert torch.equal(torch.stack(pair, 1), expected), (output, image)


def test_points(training_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read_mask2former(training_file)
    *_, step = take_step(golden, monkeypatch)
    assert len(step.used) == golden.outputs
    for output, used in enumerate(step.used):
        assert torch.equal(in_order(used), in_order(golden.tensors[f"points_used.{output}"]))


def in_order(points: Tensor) -> Tensor:
    """Points `[M, P, 2]` by x, and of one x by y."""
    for axis in (1, 0):
        order = points[..., axis].argsort(dim=1, stable=True)
        points = points.take_along_dim(order[..., None], 1)
    return points


def test_outputs_in_training(training_file: Path) -> None:
    golden = read_mask2former(training_file)
    predictions = golden.build().train().predict(golden.tensors["x"])
    assert_close(torch.stack(predictions.logits), golden, "cls_logits")
    assert_close(torch.stack(predictions.masks)[..., ::2, ::2], golden, "mask_logits_s2")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(training_file: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool) -> None:
    golden = read_mask2former(training_file)
    if checkpointing:
        build = Mask2FormerGolden.build

        def recomputing(golden: Mask2FormerGolden) -> Mask2Former:
            net = build(golden)
            net.set_grad_checkpointing()
            return net

        monkeypatch.setattr(Mask2FormerGolden, "build", recomputing)
    net, x, losses, _ = take_step(golden, monkeypatch)
    sum(losses.values()).backward()
    found = to_released({name: parameter.grad for name, parameter in net.named_parameters()})
    norms = golden.config["gradient_norms"]
    assert found.keys() == norms.keys()
    rounding = 1e-6 * max(norms.values())  # the bias `attn.cpb_fc2` of the last stage has no effect
    for name, norm in norms.items():
        assert float(found[name].norm()) == pytest.approx(norm, rel=1e-4, abs=rounding), name
    assert x.grad is not None
    assert_close(x.grad, golden, "g.x")
    assert golden.gradients
    for name in golden.gradients:
        assert_close(found[name], golden, f"g.{name}")


def test_no_image_has_a_labelled_pixel(training_file: Path) -> None:
    golden = read_mask2former(training_file)
    net = golden.build().train()
    x = golden.tensors["x"]
    losses = net.losses(x, torch.tensor([x.shape[2:]] * len(x)), torch.full((len(x), *x.shape[2:]), IGNORED))
    assert all(bool(loss == 0) for name, loss in losses.items() if "loss_cls" not in name)
    sum(losses.values()).backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert all(bool(parameter.grad.isfinite().all()) for parameter in net.parameters())


def test_released_weights_come_back(any_file: Path) -> None:
    golden = read_mask2former(any_file)
    back = to_released(golden.build().state_dict())
    assert back.keys() == golden.weights.keys()
    assert all(torch.equal(back[key], golden.weights[key]) for key in back)


def test_files_are_there(shared_golden: Path) -> None:
    assert mask2former_files(shared_golden, training=False)
    assert mask2former_files(shared_golden, training=True)
