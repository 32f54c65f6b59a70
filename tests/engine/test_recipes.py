"""Every recipe against the numbers of the released configurations."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms

import transnext
from transnext.config import TrainConfig
from transnext.data.preprocessing import Preprocessing
from transnext.engine.optim import make_optimizer, make_scheduler
from transnext.models.checkpoint import read_checkpoint
from transnext.models.official import ours_to_official
from transnext.tasks.classification.recipes import RECIPES
from transnext.tasks.recipes import recipe

RELEASED = {
    "micro_in1k": "transnext_micro_224",
    "tiny_in1k": "transnext_tiny_224",
    "small_in1k": "transnext_small_224",
    "base_in1k": "transnext_base_224",
    "micro_aaaa_in1k": "transnext_micro_AAAA_256",
    "small_in1k_384": "transnext_small_384_ft",
    "base_in1k_384": "transnext_base_384_ft",
}
ARCHITECTURES = {
    "transnext_micro": "micro",
    "transnext_tiny": "tiny",
    "transnext_small": "small",
    "transnext_base": "base",
    "transnext_micro_aaaa": "micro_AAAA",
}


GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "recipes.json"


@pytest.fixture(scope="module")
def released():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))["classification"]


def test_the_numbers_are_those_of_the_full_file(released, shared_golden) -> None:
    assert json.loads((shared_golden / "recipes.json").read_text(encoding="utf-8"))["classification"] == released


def _numbers(released, name) -> dict[str, object]:
    """What the released configurations say, by the name of our option."""
    defaults, model = released["defaults"], released["models"][RELEASED[name]]
    augment, schedule = defaults["augment"], defaults["schedule"]
    constant = "constant" in model.get("schedule", "")
    return {
        "lr": model.get("lr", defaults["lr"]),
        "weight_decay": model.get("weight_decay", defaults["weight_decay"]),
        "clip_grad": model.get("clip_grad_norm", defaults["clip_grad_norm"]),
        "batch_size": model.get("total_batch_size", defaults["total_batch_size"]),
        "micro_batch_size": defaults["batch_size_per_gpu"],
        "epochs": model["epochs"],
        "seed": defaults["seed"],
        "schedule": "constant" if constant else "cosine",
        "schedule_per_epoch": True,
        "warmup_epochs": 0 if constant else schedule["warmup_epochs"],
        "warmup_lr": schedule["warmup_lr"],
        "min_lr": schedule["min_lr"],
        "dropout": defaults["drop"],
        "drop_path": model["drop_path"],
        "ema": float(defaults["model_ema"]),
        "precision": defaults["amp"].split()[0],
        "compile": defaults["torch_compile"],
        "repeats": defaults["repeated_augmentation"]["repeats"],
        "crop_scale": tuple(augment["random_resized_crop"]["scale"]),
        "hflip": augment["hflip"],
        "auto_augment": augment["auto_augment"],
        "color_jitter": augment["color_jitter"],
        "erasing": augment["random_erasing"]["prob"],
        "mixup": model.get("mixup_alpha", augment["mixup_alpha"]),
        "cutmix": model.get("cutmix_alpha", augment["cutmix_alpha"]),
        "mix_prob": augment["mixup_prob"],
        "label_smoothing": augment["label_smoothing"],
    }


@pytest.mark.parametrize("name", RELEASED)
def test_every_number_is_the_released_one(released, name) -> None:
    config = recipe(name, "imagenet/")
    expected = _numbers(released, name)
    assert {option: config.options()[option] for option in expected} == expected


@pytest.mark.parametrize("name", RELEASED)
def test_the_description_gives_the_published_accuracy(released, name) -> None:
    top1 = released["models"][RELEASED[name]]["reported"]["top1"]
    assert f"published: {top1} %" in RECIPES[name].__doc__


@pytest.mark.parametrize("name", RELEASED)
def test_nothing_is_added(name) -> None:
    """Options that the released code does not have are left as they change nothing."""
    config = recipe(name, "imagenet/")
    assert (config.optim.layer_decay, config.start.freeze_stages, config.task.balanced, config.run.patience) == (
        1.0,
        0,
        False,
        0,
    )


def _rates(config, updates_per_epoch=3):
    """The learning rate of every update, an epoch in a row."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=config.optim.lr)
    scheduler = make_scheduler(optimizer, config, updates_per_epoch)
    return [
        [scheduler.step_update(epoch * updates_per_epoch + i) for i in range(updates_per_epoch)]
        for epoch in range(config.epochs)
    ]


def test_the_learning_rate_of_every_epoch(released) -> None:
    schedule = released["defaults"]["schedule"]
    rates = _rates(recipe("tiny_in1k", "imagenet/"))
    assert all(len(set(row)) == 1 for row in rates)
    first = schedule["first_epochs_lr"]
    assert [row[0] for row in rates[: len(first)]] == pytest.approx(first, rel=1e-12, abs=0)
    assert rates[299][0] == pytest.approx(schedule["last_epoch_299_lr"], rel=1e-12, abs=0)


@pytest.mark.parametrize("name", ["small_in1k_384", "base_in1k_384"])
def test_the_rate_of_fine_tuning_stays(released, name) -> None:
    assert _rates(recipe(name, "imagenet/")) == [[1e-5] * 3] * 5


@cache
def _model(name: str):
    return timm.create_model(name, device="meta")


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("layer_decay", [1.0, 0.8])
def test_what_is_decayed(released, name, layer_decay) -> None:
    model = _model(name)
    config = TrainConfig.of(data="imagenet/", layer_decay=layer_decay, weight_decay=0.05)
    names = {id(p): ours_to_official(n) for n, p in model.named_parameters()}
    found: dict[str, dict[str, int]] = {"decay": {}, "no_decay": {}}
    for group in make_optimizer(model, config).param_groups:
        assert group["weight_decay"] in (0.0, 0.05)
        kind = "decay" if group["weight_decay"] else "no_decay"
        found[kind] |= {names[id(p)]: p.numel() for p in group["params"]}
    expected = released["architectures"][ARCHITECTURES[name]]
    for kind, parameters in found.items():
        assert len(parameters) == expected[f"{kind}_num_tensors"]
        assert sum(parameters.values()) == expected[f"{kind}_num_params"]
        if name == "transnext_tiny":
            patterns = {re.sub(r"\.\d+\.", ".{i}.", parameter) for parameter in parameters}
            assert patterns == set(released["param_groups"][kind]["patterns"])


def test_the_optimizer(released) -> None:
    optimizer = make_optimizer(_model("transnext_tiny"), recipe("tiny_in1k", "imagenet/"))
    defaults = released["defaults"]
    assert type(optimizer).__name__ == defaults["optimizer"]
    for group in optimizer.param_groups:
        assert list(group["betas"]) == defaults["betas"]
        assert group["eps"] == defaults["eps"]


@pytest.mark.parametrize("name", RELEASED)
def test_the_sizes_of_images_and_model(released, name, monkeypatch) -> None:
    """What the training builds: the size, the unit of position coordinates, and how evaluation sees an image."""
    monkeypatch.setattr("transnext.models.variants.load_pretrained_weights", lambda *_: None)
    config, expected = recipe(name, "imagenet/"), released["models"][RELEASED[name]]
    size = expected["input_size"]
    args = {} if config.images.image_size is None else {"img_size": config.images.image_size}
    model = timm.create_model(config.model, pretrained=config.start.pretrained, device="meta", **args)
    pretrain = expected["pretrain_size"] or expected.get("pretrain_size_for_other_inputs") or 224
    assert model.img_size == (size, size)
    assert model.pretrain_size == (pretrain, pretrain)

    preprocessing = Preprocessing.of_model(model, config.images.image_size, config.task.crop_pct, config.task.crop_mode)
    augment = released["defaults"]["augment"]
    assert preprocessing.input_size == (3, size, size)
    assert list(preprocessing.mean) == augment["mean"]
    assert list(preprocessing.std) == augment["std"]
    rule = released["defaults"]["eval"]["from_384" if size >= 384 else "below_384"]
    assert preprocessing.interpolation == rule["interpolation"]
    steps = [
        transforms.Resize((size, size) if size >= 384 else rule["examples"][str(size)], Image.Resampling.BICUBIC),
        transforms.CenterCrop(size),
        transforms.PILToTensor(),
    ]
    noise = torch.randint(256, (300, 520, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy())
    assert torch.equal(preprocessing.transform()(image), transforms.Compose(steps)(image))


def test_own_images_uses_what_fine_tuning_needs() -> None:
    config = recipe("own_images", "photos/")
    assert config.start.pretrained
    assert config.task.balanced
    assert config.optim.layer_decay < 1
    assert config.start.freeze_stages > 0
    assert config.run.patience > 0


def test_names_in_python() -> None:
    assert transnext.recipes.tiny_in1k("imagenet/") == transnext.recipe("tiny_in1k", data="imagenet/")
    assert transnext.recipe("tiny_in1k", "imagenet/", "runs/x").output == "runs/x"
    assert [recipe(name, "d").output for name in RECIPES] == [f"runs/{name}" for name in RECIPES]
    with pytest.raises(ValueError, match="no recipe is called 'huge': choose one of micro_in1k, tiny_in1k"):
        recipe("huge", "imagenet/")


def _on_a_few_images(config, photos, tmp_path, **values) -> TrainConfig:
    small = {"epochs": 1, "batch_size": 8, "image_size": 64, "workers": 0, "device": "cpu", "tracker": "none"}
    common = {"data": str(photos), "output": str(tmp_path / "run"), "model": "transnext_pico"}
    return config.but(**common, **small, **values)


def _trained(config) -> tuple[dict[str, torch.Tensor], dict]:
    """The last weights, and what is known of them."""
    transnext.train(config, quiet=True)
    checkpoint = read_checkpoint(Path(config.output) / "last.safetensors")
    return checkpoint.state_dict, checkpoint.metadata


def test_own_images_trains_what_is_not_frozen(photos, tmp_path) -> None:
    config = _on_a_few_images(recipe("own_images", ""), photos, tmp_path, lr=1e-2, warmup_epochs=0.0)
    weights, _ = _trained(config)
    assert TrainConfig.load(Path(config.output) / "config.json") == config
    start = timm.create_model("transnext_pico", pretrained=True).state_dict()
    moved = {name: (weights[name] - start[name]).abs().max().item() for name in start if not name.startswith("head.")}
    assert all((distance == 0) == name.startswith("stages.0.") for name, distance in moved.items())
    # AdamW moves every weight by about the same share of its rate, and that falls from layer to layer.
    assert moved["stages.3.blocks.0.mlp.fc1.weight"] > 1.2 * moved["stages.1.blocks.0.mlp.fc1.weight"]


def test_the_released_recipes_train(photos, tmp_path) -> None:
    cpu = {"precision": "fp32", "compile": False, "micro_batch_size": 4}
    config = _on_a_few_images(recipe("small_in1k_384", ""), photos, tmp_path, lr=1e-3, **cpu)
    weights, metadata = _trained(config)
    assert metadata["preprocessing"]["crop_mode"] == "squash"
    assert all(torch.isfinite(value).all() for value in weights.values())
