"""The recipes of the released detectors against the numbers of their configurations."""

import json
import re
from pathlib import Path

import pytest
import torch

from tests.helpers.rectangles import rectangle_config
from transnext.config import TrainConfig
from transnext.engine.optim import make_optimizer, make_scheduler
from transnext.models.backbone import Backbone
from transnext.tasks.detection.dino.official import released_name
from transnext.tasks.detection.mask_rcnn.official import to_released
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.detection.recipes import RECIPES
from transnext.tasks.detection.starting import fresh_net
from transnext.tasks.detection.task import preprocessing_for
from transnext.tasks.recipes import recipe

GOLDEN = Path(__file__).parents[2] / "golden" / "detection_recipes.json"
MASK_RCNN = {f"mask_rcnn_{size}_1x": size for size in ("tiny", "small", "base")}
DINO = {
    "dino_4scale_tiny_12e": "4scale_tiny",
    "dino_5scale_tiny_12e": "5scale_tiny",
    "dino_5scale_small_12e": "5scale_small",
    "dino_5scale_base_12e": "5scale_base",
}
COCO_UPDATES = 118_287 // 16


@pytest.fixture(scope="module")
def released() -> dict:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_the_numbers_are_those_of_the_full_file(released, shared_golden) -> None:
    full = json.loads((shared_golden / "recipes.json").read_text(encoding="utf-8"))
    assert {name: full[name] for name in released} == released


def of_both(numbers: dict) -> dict[str, object]:
    """What the released configurations of either say, by the name of our option."""
    return {
        "lr": numbers["lr"],
        "backbone_lr": numbers["backbone_lr_mult"],
        "weight_decay": numbers["weight_decay"],
        "epochs": numbers["epochs"],
        "batch_size": numbers["total_batch"],
        "micro_batch_size": numbers["batch_size_per_gpu"],
        "schedule": "step",
        "hflip": numbers["train_aug"]["hflip"] if "train_aug" in numbers else 0.5,
        "image_size": 800,
        "fit": "shortest",
        "augment": "released",
        "head_size": "released",
        "pretrained": True,
        "layer_decay": 1.0,
        "freeze_stages": 0,
        "ema": 0.0,
        "patience": 0,
        "repeat_factor": 0.0,
        "train_tiles": None,
        "jitter": None,
        "copy_paste": None,
    }


def check(config: TrainConfig, expected: dict) -> None:
    options = config.options()
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize("name", MASK_RCNN)
def test_every_number_of_mask_rcnn(released, name) -> None:
    numbers, size = released["mask_rcnn"], MASK_RCNN[name]
    config = recipe(name, "coco/")
    amp = numbers["amp"][size]
    expected = of_both(numbers) | {
        "model": f"transnext_{size}",
        "detector": "mask_rcnn",
        "masks": True,
        "drop_path": numbers["drop_path"][size],
        "milestones": tuple(numbers["schedule"]["milestones_epoch"]),
        "warmup_lr": numbers["lr"] * numbers["schedule"]["warmup_ratio"],
        "clip_grad": 0.0,
        "decay_biases": True,
        "precision": str(amp).split()[0] if amp else "fp32",
    }
    assert numbers["clip_grad"] is None
    check(config, {**expected, "warmup_lr": pytest.approx(expected["warmup_lr"])})
    said = RECIPES[name].__doc__
    reported = numbers["reported"][size]
    assert f"box AP {reported['box_ap']}" in said
    assert f"mask AP {reported['mask_ap']}" in said


@pytest.mark.parametrize("name", DINO)
def test_every_number_of_dino(released, name) -> None:
    numbers, variant = released["dino"], DINO[name]
    expected = of_both(numbers) | {
        "model": f"transnext_{variant.split('_')[1]}",
        "detector": "dino",
        "scales": numbers["variants"][variant]["scales"],
        "drop_path": numbers["variants"][variant]["drop_path"],
        "milestones": tuple(numbers["schedule"]["milestones"]),
        "warmup_epochs": 0.0,
        "clip_grad": numbers["clip_grad"]["max_norm"],
        "decay_biases": bool(numbers["param_rules"]["bias_decay_mult"]),
        "precision": "bf16" if numbers["amp"] else "fp32",
    }
    check(recipe(name, "coco/"), expected)
    assert numbers["accumulative_counts"] * numbers["batch_size_per_gpu"] * numbers["gpus"] == 16
    assert f"box AP {numbers['reported'][variant]['box_ap']}" in RECIPES[name].__doc__


def rates(config: TrainConfig, updates: list[int]) -> list[float]:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=config.optim.lr)
    scheduler = make_scheduler(optimizer, config, COCO_UPDATES)
    return [scheduler.step_update(update) for update in updates]


def test_the_rates_of_mask_rcnn(released) -> None:
    """The warm-up of the released training and its two steps, update by update around them."""
    schedule, lr = released["mask_rcnn"]["schedule"], released["mask_rcnn"]["lr"]
    iterations, ratio = schedule["warmup_iters"], schedule["warmup_ratio"]

    def expected(update: int) -> float:
        steps = sum(update >= epoch * COCO_UPDATES for epoch in schedule["milestones_epoch"])
        rate = lr * schedule["gamma"] ** steps
        return rate * (1 - (1 - update / iterations) * (1 - ratio)) if update < iterations else rate

    updates = [0, 1, 2, 250, 498, 499, 500, 501, COCO_UPDATES]
    for epoch in schedule["milestones_epoch"]:
        updates += [epoch * COCO_UPDATES + i for i in (-2, -1, 0, 1)]
    updates.append(12 * COCO_UPDATES - 1)
    found = rates(recipe("mask_rcnn_tiny_1x", "coco/"), updates)
    assert found == pytest.approx([expected(update) for update in updates], rel=1e-9)


@pytest.mark.parametrize("name", DINO)
def test_the_rates_of_dino(released, name) -> None:
    lr, step = released["dino"]["lr"], released["dino"]["schedule"]["milestones"][0] * COCO_UPDATES
    updates = [0, 1, step - 1, step, step + 1, 12 * COCO_UPDATES - 1]
    assert rates(recipe(name, "coco/"), updates) == pytest.approx([lr, lr, lr, lr / 10, lr / 10, lr / 10], rel=1e-9)


def built(config: TrainConfig, monkeypatch) -> DetectionNet:
    """The network of a recipe without its values."""
    monkeypatch.setattr("transnext.models.variants.load_pretrained_weights", lambda *_: None)
    with torch.device("meta"):
        net, _ = fresh_net(config, [str(i) for i in range(80)], config.task.detector == "mask_rcnn")
    return net


def groups_of(net: DetectionNet, config: TrainConfig) -> dict[tuple[float, float], dict[str, int]]:
    """Parameters, by released name, and their sizes in each group: factor of the rate, factor of the decay."""
    if config.task.detector == "mask_rcnn":
        names = dict(zip(net.state_dict(), to_released(net.state_dict()), strict=True))
        renamed = {id(p): names[name] for name, p in net.named_parameters()}
    else:
        renamed = {id(p): released_name(name) for name, p in net.named_parameters()}
    found: dict[tuple[float, float], dict[str, int]] = {}
    for group in make_optimizer(net, config).param_groups:
        key = (group.get("lr_scale", 1.0), group["weight_decay"] / config.optim.weight_decay)
        sizes = found.setdefault(key, {})
        for p in group["params"]:
            sizes[renamed[id(p)]] = sizes.get(renamed[id(p)], 0) + p.numel()
    return found


def compare(found: dict[tuple[float, float], dict[str, int]], expected: list[dict]) -> None:
    assert found.keys() == {(group["lr_mult"], group["decay_mult"]) for group in expected}
    for group in expected:
        ours = found[group["lr_mult"], group["decay_mult"]]
        if "patterns" in group:
            assert {re.sub(r"\.\d+(?=\.)", ".{i}", name) for name in ours} == set(group["patterns"])
        assert len(ours) == group["num_tensors"]
        assert sum(ours.values()) == group["num_params"]


def test_rates_and_decay_of_every_parameter_of_mask_rcnn(released, monkeypatch) -> None:
    config = recipe("mask_rcnn_tiny_1x", "coco/")
    compare(groups_of(built(config, monkeypatch), config), released["mask_rcnn"]["param_groups_tiny"])


@pytest.mark.parametrize("name", DINO)
def test_rates_and_decay_of_every_parameter_of_dino(released, name, monkeypatch) -> None:
    config = recipe(name, "coco/")
    compare(groups_of(built(config, monkeypatch), config), released["dino"]["variants"][DINO[name]]["param_groups"])


@pytest.mark.parametrize("name", [*MASK_RCNN, *DINO])
def test_sizes_of_images_and_backbone(released, name, monkeypatch) -> None:
    config = recipe(name, "coco/")
    numbers = released[config.task.detector]
    net = built(config, monkeypatch)
    args, expected = net.backbone.args(), numbers["backbone"]
    assert args["img_size"] == (expected["img_size"],) * 2
    assert args["pretrain_size"] == (expected["pretrain_size"],) * 2
    assert args["bias_mode"] == "interpolate"
    preprocessing = preprocessing_for(net.backbone, config)
    long, short = numbers["test"]["resize"]
    assert preprocessing.input_size == (3, short, long)
    assert preprocessing.crop_mode == "shortest"
    assert net.max_detections == numbers["test"].get("rcnn", numbers["test"])["max_per_img"]
    if "normalise" in numbers:
        assert [255 * value for value in preprocessing.mean] == pytest.approx(numbers["normalise"]["mean"])
        assert [255 * value for value in preprocessing.std] == pytest.approx(numbers["normalise"]["std"])


def test_the_optimizer(released, monkeypatch) -> None:
    config = recipe("mask_rcnn_tiny_1x", "coco/")
    optimizer = make_optimizer(built(config, monkeypatch), config)
    for numbers in (released["mask_rcnn"], released["dino"]):
        assert type(optimizer).__name__ == numbers["optimizer"]
        assert all(list(group["betas"]) == numbers["betas"] for group in optimizer.param_groups)


def test_own_boxes(tmp_path, rectangles) -> None:
    config = recipe("own_boxes", str(rectangles))
    assert config.start.pretrained
    assert config.optim.ema > 0
    assert config.run.patience > 0
    assert config.output == "runs/own_boxes"
    small = rectangle_config(rectangles, tmp_path / "run")
    assert small.but(model=config.model).options().keys() == config.options().keys()
    assert Backbone(config.model, device="meta") is not None
