"""Backbones by stride: maps, weights, layers and sizes, of our models and of timm's others."""

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from transnext.config import TrainConfig, task_config
from transnext.engine.optim import freeze_stages, make_optimizer
from transnext.models.backbone import Backbone, below, our_key, released_key
from transnext.models.checkpoint import save_checkpoint
from transnext.models.variants import trained_sizes
from transnext.tasks.detection.net import DetectionNet

OTHERS = ["resnet18", "convnext_atto", "pvt_v2_b0", "efficientnet_b0", "swin_tiny_patch4_window7_224"]

pytestmark = pytest.mark.usefixtures("one_thread")


class Bare(DetectionNet):
    """A backbone with the least head."""

    num_classes, with_masks = 1, False

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.channels[-1], 3, 1)

    def losses(self, images, sizes, targets) -> dict[str, Tensor]:
        return {"all": self.head(self.backbone(images)[-1]).sum()}

    def detect(self, images, sizes) -> list:
        return []

    def args(self) -> dict:
        return {}


@pytest.mark.parametrize("name", ["transnext_pico", *OTHERS])
@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 32), (8, 16)])
def test_maps_have_the_strides_that_were_asked_for(name, strides) -> None:
    backbone = Backbone(name, strides).train()
    maps = backbone(torch.randn(2, 3, 96, 160))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 96 // stride, 160 // stride) for channels, stride in zip(backbone.channels, strides, strict=True)
    ]
    sum(m.square().sum() for m in maps).backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []


def test_maps_are_those_of_timm() -> None:
    torch.manual_seed(1)
    backbone = Backbone("resnet18", (8, 32)).eval()
    reference = timm.create_model("resnet18", features_only=True, out_indices=(2, 4)).eval()
    reference.load_state_dict(backbone.net.state_dict())
    x = torch.randn(1, 3, 70, 90)
    for ours, theirs in zip(backbone(x), reference(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_stages_behind_the_last_map_are_left_out() -> None:
    whole, cut = Backbone("resnet18"), Backbone("resnet18", (4, 16))
    assert not any("layer4" in key for key in cut.state_dict())
    assert any("layer4" in key for key in whole.state_dict())


@pytest.mark.parametrize(
    ("name", "strides", "message"),
    [
        ("transnext_pico", (2, 4), r"strides \[4, 8, 16, 32\], none of \[2\]"),
        ("vit_tiny_patch16_224", (8, 16), r"none of \[8\]"),
        ("transnext_pico", (16, 8), "finest first"),
        ("transnext_pico", (), "at least one"),
        ("no_such_model", (4,), "no model is called 'no_such_model'"),
        ("transnext_pico.no_tag", (4,), "tag"),
    ],
)
def test_what_cannot_be_had_is_one_line(name, strides, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Backbone(name, strides)
    assert "\n" not in str(caught.value)


def test_models_of_one_size_say_so() -> None:
    backbone = Backbone("coatnet_pico_rw_224", (8, 16), img_size=(96, 128))
    assert [m.shape[-2:] for m in backbone(torch.zeros(1, 3, 96, 128))] == [(12, 16), (6, 8)]
    with pytest.raises(ValueError, match="images of 96 x 128 pixels alone, and these have 96 x 160"):
        backbone(torch.zeros(1, 3, 96, 160))


def equal(backbone: Backbone, weights: dict[str, Tensor]) -> bool:
    mine = backbone.net.state_dict()
    return bool(mine) and all(torch.equal(tensor, weights[key]) for key, tensor in mine.items())


def test_bundled_weights_arrive() -> None:
    weights = timm.create_model("transnext_pico.emoji", pretrained=True).state_dict()
    backbone = Backbone("transnext_pico.emoji", (8, 16, 32), pretrained=True)
    assert equal(backbone, weights)
    assert not equal(Backbone("transnext_pico.emoji", (8, 16, 32)), weights)
    assert backbone.sizes() == {"img_size": (64, 64), "pretrain_size": (64, 64)}


@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.body.model.", "module."])
@pytest.mark.parametrize("name", ["transnext_pico", *OTHERS])
def test_weights_of_classifiers_and_dense_models_arrive(name, prefix, tmp_path, randomise) -> None:
    model = randomise(timm.create_model(name, num_classes=7))
    tensors = {prefix + key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    if prefix.startswith("backbone."):
        tensors["head.weight"] = torch.zeros(3)
    save_file(tensors, tmp_path / "file.safetensors")
    backbone = Backbone(name, (8, 16))
    backbone.load_weights(tmp_path / "file.safetensors")
    assert equal(backbone, model.state_dict())


@pytest.mark.parametrize("name", ["transnext_pico", "convnext_atto"])
def test_weights_of_our_detectors_arrive(name, tmp_path, randomise) -> None:
    net = randomise(Bare(Backbone(name)))
    save_file(net.state_dict(), tmp_path / "file.safetensors")
    backbone = Backbone(name)
    backbone.load_weights(tmp_path / "file.safetensors")
    assert equal(backbone, net.backbone.net.state_dict())


@pytest.mark.parametrize(
    ("held", "name"), [("resnet34", "resnet18"), ("resnet18", "resnet34"), ("resnet18", "resnet50")]
)
def test_weights_of_another_model_are_refused(held, name, tmp_path) -> None:
    save_file(timm.create_model(held).state_dict(), tmp_path / "file.safetensors")
    backbone = Backbone(name)
    before = {key: tensor.clone() for key, tensor in backbone.net.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit resnet"):
        backbone.load_weights(tmp_path / "file.safetensors")
    assert equal(backbone, before)
    with pytest.raises(FileNotFoundError):
        backbone.load_weights(tmp_path / "none.safetensors")


def test_weights_with_another_unit_of_positions_are_refused(tmp_path) -> None:
    path = tmp_path / "file.safetensors"
    model = timm.create_model("transnext_pico", img_size=64)
    save_checkpoint(path, model.state_dict(), {"architecture": "transnext_pico", "model_args": trained_sizes(model)})
    Backbone("transnext_pico", img_size=320, pretrain_size=64).load_weights(path)
    with pytest.raises(ValueError, match=r"build it with pretrain_size=\(64, 64\)"):
        Backbone("transnext_pico", img_size=320, pretrain_size=320).load_weights(path)


def test_released_names() -> None:
    for key in Backbone("transnext_pico").state_dict():
        assert our_key(released_key(f"backbone.{key}")) == f"backbone.{key}"
    assert our_key("backbone.block2.0.attn.q.weight") == "backbone.body.model.stages.1.blocks.0.attn.q.weight"


STEMS = {
    "transnext_pico": "stages.0.patch_embed",
    "resnet18": "conv1",
    "convnext_atto": "stem",
    "pvt_v2_b0": "patch_embed",
}
FIRST = {"transnext_pico": "stages.0.", "resnet18": "layer1", "convnext_atto": "stages.0", "pvt_v2_b0": "stages.0"}
SECOND = {"transnext_pico": "stages.1.", "resnet18": "layer2", "convnext_atto": "stages.1", "pvt_v2_b0": "stages.1"}


@pytest.mark.parametrize("name", STEMS)
def test_first_stages_are_frozen(name) -> None:
    net = Bare(Backbone(name))
    freeze_stages(net, 1)
    inside = {key.removeprefix("backbone.body.model."): p.requires_grad for key, p in net.named_parameters()}
    for begin, trained in [(STEMS[name], False), (FIRST[name], False), (SECOND[name], True), ("head", True)]:
        assert {grad for key, grad in inside.items() if key.startswith(begin)} == {trained}, begin
    with pytest.raises(ValueError, match="has 4 stages"):
        freeze_stages(net, 5)


@pytest.mark.parametrize("name", STEMS)
def test_rates_decay_from_the_head_to_the_image_as_in_timms_model(name) -> None:
    config = TrainConfig(data="", task=task_config("classification")())
    config = replace(config, optim=replace(config.optim, layer_decay=0.5))

    def scales(model: nn.Module, prefix: str) -> dict[str, tuple[float, float]]:
        names = {id(p): key for key, p in model.named_parameters()}
        return {
            names[id(p)].removeprefix(prefix): (group["lr_scale"], group["weight_decay"])
            for group in make_optimizer(model, config).param_groups
            for p in group["params"]
        }

    net = scales(Bare(Backbone(name)), "backbone.body.model.")
    model = scales(timm.create_model(name, num_classes=2), "")
    assert net.pop("head.weight")[0] == net.pop("head.bias")[0] == 1
    assert net == {key: model[key] for key in net}
    assert max(scale for scale, _ in net.values()) == 0.5
    assert min(scale for scale, _ in net.values()) < 0.1


def test_what_is_not_decayed_is_named() -> None:
    net = Bare(Backbone("transnext_pico"))
    names = net.no_weight_decay()
    assert names
    assert names <= {key for key, _ in net.named_parameters()}
    assert {key.removeprefix("backbone.body.model.") for key in names} == net.backbone.net.no_weight_decay()


def test_models_without_layers_say_so() -> None:
    net = Bare(Backbone("poolformer_s12", (8,)))
    with pytest.raises(ValueError, match="poolformer_s12 does not say what its layers are"):
        freeze_stages(net, 1)


def test_patterns_keep_their_meaning_below_a_prefix() -> None:
    patterns = {"stem": r"^cls|pos", "blocks": [(r"^blocks\.([^.]+)\.", None), (r"^norm", (99999,))], "none": None}
    found = below("a.b.", patterns)
    assert found == {
        "stem": r"^a\.b\.(?:cls|pos)",
        "blocks": [(r"^a\.b\.(?:blocks\.([^.]+)\.)", None), (r"^a\.b\.(?:norm)", (99999,))],
        "none": None,
    }


@pytest.mark.parametrize("name", ["transnext_pico", "resnet18", "convnext_atto"])
def test_recomputing_changes_no_gradient(name) -> None:
    net = Bare(Backbone(name))
    x = torch.randn(2, 3, 64, 96)
    gradients = []
    for enable in (False, True):
        net.zero_grad()
        net.set_grad_checkpointing(enable)
        net.losses(x, None, [])["all"].backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)
