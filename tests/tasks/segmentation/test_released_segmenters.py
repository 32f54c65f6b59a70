"""Released segmenters: names on the hub, files, conversion both ways, and the recipes that they were trained with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.helpers.hub import client_settings, serve
from transnext.cli import main
from transnext.engine.optim import make_optimizer
from transnext.loaded import load
from transnext.models.backbone import Backbone
from transnext.tasks.recipes import recipe
from transnext.tasks.released import RELEASED
from transnext.tasks.segmentation.ade20k import ADE20K_CLASSES
from transnext.tasks.segmentation.nets import build_net, strides_of
from transnext.tasks.segmentation.recipes import RECIPES
from transnext.tasks.segmentation.released import official_names
from transnext.tasks.segmentation.starting import HEADS
from transnext.tasks.segmentation.upernet.official import released_name

__all__ = ["serve"]

pytestmark = pytest.mark.usefixtures("one_thread")


def released_file(kind: str, folder: Path, randomise, classes: int = 150) -> tuple[Path, nn.Module]:
    """As mmseg wrote it: released names, with what else stands in such a file."""
    sizes = {"img_size": 512, "pretrain_size": 224, "bias_mode": "interpolate"}
    net = build_net(kind, Backbone("transnext_pico", strides_of(kind), **sizes), classes, size="small")
    randomise(net)
    weights = official_names(kind).to_released(net.state_dict())
    torch.save({"state_dict": weights, "meta": {"iter": 160000, "CLASSES": ("a",)}}, folder / f"{kind}.pth")
    return folder / f"{kind}.pth", net.eval()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_names_and_files_on_the_hub() -> None:
    assert {name: file for name, (task, file) in RELEASED.items() if task == "segmentation"} == {
        f"{kind}-transnext-{size}-ade": f"{kind}_transnext_{size}_512x512_160k_ade20k_in1k.pth"
        for kind in ("upernet", "mask2former")
        for size in ("tiny", "small", "base")
    }


CHILD = """
import json, sys, torch, transnext
torch.set_num_threads(1)
for name in sys.argv[1:]:
    try:
        loaded = transnext.load(name, image_size=64)
        found = transnext.Segmenter(loaded)(torch.zeros(64, 80, 3, dtype=torch.uint8).numpy())[0]
        said = loaded.preprocessing
        print(json.dumps({"classes": loaded.class_names[:2], "map": found.size, "size": said.input_size,
                          "mode": said.crop_mode, "window": loaded.task.metadata.get("window")}))
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
"""


def test_a_released_name_is_fetched(serve, randomise, tmp_path) -> None:
    name = "upernet-transnext-tiny-ade"
    file, _ = released_file("upernet", tmp_path, randomise)
    path = f"/DaiShiResearch/{name}/resolve/main/{RELEASED[name].file}"
    hub = serve({path: file.read_bytes()})
    env = client_settings(hub.url, tmp_path / "home", False)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, name, "mask2former-transnext-base-ade"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    first, absent = (json.loads(line) for line in done.stdout.splitlines())
    assert first == {
        "classes": ["wall", "building"],
        "map": [64, 80],
        "size": [3, 64, 256],
        "mode": "shortest",
        "window": 512,
    }
    assert hub.downloads == [path]
    assert "mask2former_transnext_base_512x512_160k_ade20k_in1k.pth" in absent["error"]
    assert "\n" not in absent["error"]


@pytest.mark.parametrize("kind", ["upernet", "mask2former"])
def test_a_file_of_the_released_code_there_and_back(kind, randomise, tmp_path, capsys) -> None:
    file, net = released_file(kind, tmp_path, randomise)
    loaded = load(file)
    assert same(loaded.model.state_dict(), net.state_dict())
    assert loaded.class_names == list(ADE20K_CLASSES)
    assert loaded.preprocessing.input_size == (3, 512, 2048)
    assert loaded.model.backbone.args()["bias_mode"] == "interpolate"
    assert ("window" in loaded.task.metadata) == (kind == "upernet")
    ours, back, again = tmp_path / "ours.safetensors", tmp_path / "back.pth", tmp_path / "again.safetensors"
    main(["convert", str(file), str(ours)])
    assert "parameters of a segmenter with our names" in capsys.readouterr().out
    assert same(load_file(ours), dict(net.state_dict()))
    assert HEADS.model_args(load(ours).model) == HEADS.model_args(loaded.model)
    main(["convert", str(ours), str(back), "--names", "official"])
    assert same(torch.load(back, weights_only=True)["state_dict"], torch.load(file, weights_only=True)["state_dict"])
    main(["convert", str(back), str(again)])
    assert again.read_bytes() == ours.read_bytes()
    weights = torch.load(file, weights_only=True)["state_dict"]
    weights.pop(next(name for name in weights if name.startswith("backbone.block4")))
    torch.save({"state_dict": weights}, file)
    with pytest.raises(ValueError, match="are missing"):
        load(file)


@pytest.fixture(scope="module")
def released(shared_golden):
    return json.loads((shared_golden / "recipes.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "own_masks"])
def test_numbers_are_the_released_ones(name, released) -> None:
    kind, size, _ = name.split("_")
    said = released[kind]
    config = recipe(name, "ade/")
    model = said["variants"][size]["drop_path"] if kind == "mask2former" else said["drop_path"][size]
    clip = said["clip_grad"]
    expected = {
        "lr": said["lr"],
        "weight_decay": said["weight_decay"],
        "backbone_lr": said["backbone_lr_mult"],
        "batch_size": said["total_batch"],
        "micro_batch_size": said["batch_size_per_gpu"],
        "poly_power": said["schedule"]["power"],
        "schedule": "poly",
        "clip_grad": 0.0 if clip is None else clip["max_norm"],
        "drop_path": model,
        "hflip": said["train_aug"]["hflip"],
        "max_class_share": said["train_aug"]["cat_max_ratio"],
    }
    assert {option: config.options()[option] for option in expected} == expected
    updates = config.epochs * (20_210 // 16)
    assert said["iters"] <= updates < said["iters"] + 20_210 // 16
    reported = said["reported"][size]
    assert f"mIoU {reported['ss'] if kind == 'upernet' else reported}" in RECIPES[name].__doc__


def test_decay_of_the_released_upernet(released) -> None:
    config = recipe("upernet_tiny_160k", "ade/").but(pretrained=False)
    with torch.device("meta"):
        net = build_net("upernet", Backbone("transnext_tiny", strides_of("upernet")), 150, size="released")
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    exempt = {
        released_name(names[id(parameter)])
        for group in make_optimizer(net, config).param_groups
        if group["weight_decay"] == 0
        for parameter in group["params"]
    }
    groups = [group for group in released["upernet"]["param_groups_tiny"] if group["decay_mult"] == 0]
    assert len(exempt) == sum(group["num_tensors"] for group in groups)
    assert not any(".bn." in name for name in exempt)
