"""DINO against the released code: outputs, losses, denoising, matching and gradients."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.dino_golden import DinoGolden, dino_files, read_dino
from transnext.data.instances import Instances
from transnext.tasks.detection.dino import denoising, matching, model
from transnext.tasks.detection.dino.denoising import Denoising
from transnext.tasks.detection.dino.matching import Pairs
from transnext.tasks.detection.dino.model import Dino
from transnext.tasks.detection.dino.official import to_released

pytestmark = pytest.mark.usefixtures("one_thread")

NO_OBJECTS = Instances(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, training in {"output_file": False, "training_file": True}.items():
        if name in metafunc.fixturenames:
            files = dino_files(metafunc.config.getoption("--golden"), training=training)
            metafunc.parametrize(name, files, ids=[file.stem for file in files])


def assert_close(found: Tensor, golden: DinoGolden, key: str) -> None:
    torch.testing.assert_close(
        found,
        golden.tensors[key].reshape(found.shape),
        rtol=0,
        atol=golden.tolerance(key),
        msg=lambda said: f"{key}: {said}",
    )


def assert_losses_close(found: dict[str, Tensor], golden: DinoGolden, beginning: str) -> None:
    expected = golden.losses(beginning)
    assert expected
    for name in expected:
        assert_close(found[name], golden, beginning + name)


@torch.no_grad()
def test_outputs(output_file: Path) -> None:
    golden = read_dino(output_file)
    settings, tensors = golden.config["case_settings"], golden.tensors
    net = golden.build().eval()
    sizes = torch.tensor([settings["img_shape"]] * len(tensors["x"]))

    for level, found in enumerate(net.neck(net.backbone(tensors["x"]))):
        if f"neck{level}" in tensors:
            assert_close(found, golden, f"neck{level}")
    memory, levels = net.encode(tensors["x"], sizes)
    assert torch.equal(~levels.valid, tensors["memory_mask"].bool())
    assert_close(memory, golden, "memory")
    refined = net.decode(net.propose(memory, levels), memory, levels)
    assert_close(torch.stack(refined.references), golden, "references")
    predictions = net.predict(refined)
    assert_close(predictions.logits, golden, "all_cls_logits")
    assert_close(predictions.boxes, golden, "all_boxes_cxcywh")

    (found,) = net.detect(tensors["x"], sizes)
    scale = torch.tensor(settings["ori"]).flip(0).repeat(2) / torch.tensor(settings["img_shape"]).flip(0).repeat(2)
    assert_close(found.boxes * scale, golden, "boxes")
    assert_close(found.scores, golden, "scores")
    assert torch.equal(found.labels, tensors["labels"])


def test_losses_of_output_files(output_file: Path) -> None:
    """They are the losses without those of denoising, which do not depend on it."""
    golden = read_dino(output_file)
    sizes = torch.tensor(golden.config["case_settings"]["loss_shapes"])
    found = golden.build().train().losses(golden.tensors["loss_x"], sizes, golden.targets())
    assert golden.losses().keys() == {name for name in found if "dn_" not in name}
    assert_losses_close(found, golden, "loss.")


class Step:
    """A training step with the numbers of a file in place of random ones, and what was seen of it on the way."""

    def __init__(self, golden: DinoGolden, monkeypatch: pytest.MonkeyPatch) -> None:
        self.net: Dino = golden.build().train()
        self.x = golden.tensors["x"].clone().requires_grad_()
        self.sizes = torch.tensor(golden.config["case_settings"]["shapes"])
        monkeypatch.setattr(denoising, "draw_noise", lambda rows, *_: self._draw(golden, rows))
        monkeypatch.setattr(model, "match", self._match)
        self.losses = self.net.losses(self.x, self.sizes, golden.targets())

    @staticmethod
    def _draw(golden: DinoGolden, rows: int) -> denoising.Noise:
        assert rows == len(golden.tensors["dn_label_p"])
        return golden.noise()

    def _match(self, logits: Tensor, boxes: Tensor, objects: matching.Objects) -> Pairs:
        self.matched_logits, self.matched_boxes, self.objects = logits, boxes, objects
        self.pairs = matching.match(logits, boxes, objects)
        return self.pairs


def test_losses(training_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read_dino(training_file)
    step = Step(golden, monkeypatch)
    assert golden.losses().keys() == step.losses.keys()
    assert_losses_close(step.losses, golden, "loss.")
    assert_close(torch.stack(list(step.losses.values())).sum(), golden, "loss_total")
    matching_queries = step.matched_boxes.shape[2]
    assert_close(step.matched_logits[:-1], without_denoising(golden, "all_cls_logits", matching_queries), "it")
    assert_close(step.matched_boxes[:-1], without_denoising(golden, "all_boxes_cxcywh", matching_queries), "it")
    assert_close(step.matched_logits[-1], golden, "enc_cls_logits")
    assert_close(step.matched_boxes[-1], golden, "enc_boxes_cxcywh")


def without_denoising(golden: DinoGolden, key: str, queries: int) -> DinoGolden:
    """One tensor of a file, as "it", of its last `queries` queries."""
    return DinoGolden(
        {"tolerance": {"it": golden.config["tolerance"][key]}}, {"it": golden.tensors[key][:, :, -queries:]}
    )


def test_matching(training_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read_dino(training_file)
    step = Step(golden, monkeypatch)
    first = torch.tensor(step.objects.counts).cumsum(0) - torch.tensor(step.objects.counts)
    outputs = len(step.pairs.queries)
    seen = 0
    for output in range(outputs):
        for image in range(len(step.sizes)):
            own = step.pairs.images == image
            found = torch.stack((step.pairs.queries[output, own], step.pairs.objects[output, own] - first[image]), 1)
            name = "enc" if output == outputs - 1 else output
            assert torch.equal(found, golden.tensors[f"matched.{name}.{image}"])
            seen += len(found)
    assert seen == outputs * sum(step.objects.counts)


def test_denoising(training_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read_dino(training_file)
    step = Step(golden, monkeypatch)
    size = golden.config["model_config"]
    found = Denoising.of(
        step.objects,
        step.net.num_classes,
        queries=size["dn_cfg"]["group_cfg"]["num_dn_queries"],
        label_noise=size["dn_cfg"]["label_noise_scale"],
        box_noise=size["dn_cfg"]["box_noise_scale"],
    )
    assert found.groups == golden.tensors["dn_groups"].item()
    assert found.count == golden.tensors["dn_queries"].item()
    assert torch.equal(found.labels, golden.tensors["dn_labels"])
    assert_close(found.boxes, golden, "dn_boxes_logit")
    assert torch.equal(found.visible(size["num_queries"]), golden.tensors["dn_attn_mask"] == 0)


def test_gradients(training_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read_dino(training_file)
    step = Step(golden, monkeypatch)
    sum(step.losses.values()).backward()
    found = to_released({name: parameter.grad for name, parameter in step.net.named_parameters()})
    norms = golden.config["gradient_norms"]
    assert found.keys() == norms.keys()
    rounding = 1e-6 * max(norms.values())  # the bias `attn.cpb_fc2` of the last stage has no effect
    for name, norm in norms.items():
        assert float(found[name].norm()) == pytest.approx(norm, rel=1e-4, abs=rounding), name
    assert step.x.grad is not None
    assert_close(step.x.grad, golden, "g.x")
    checked = [key for key in golden.tensors if key.startswith("g.") and key != "g.x"]
    assert checked
    for key in checked:
        assert_close(found[key[2:]], golden, key)


def test_no_image_has_an_object(training_file: Path) -> None:
    golden = read_dino(training_file)
    net = golden.build().train()
    sizes = torch.tensor(golden.config["case_settings"]["shapes"])
    losses = net.losses(golden.tensors["x"], sizes, [NO_OBJECTS] * len(sizes))
    assert golden.losses("none.").keys() == losses.keys()
    assert_losses_close(losses, golden, "none.")
    sum(losses.values()).backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


def test_released_weights_come_back(training_file: Path) -> None:
    golden = read_dino(training_file)
    back = to_released(golden.build().state_dict())
    assert back.keys() == golden.weights.keys()
    assert all(torch.equal(back[key], golden.weights[key]) for key in back)


def test_files_are_there(shared_golden: Path) -> None:
    assert dino_files(shared_golden, training=False)
    assert dino_files(shared_golden, training=True)
