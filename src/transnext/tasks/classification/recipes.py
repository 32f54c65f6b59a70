"""Named recipes: functions that return a whole configuration. `but` changes what is to
be different: `tiny_in1k("imagenet").but(lr=5e-4)`.

The ones for ImageNet-1K have the numbers of the released training code; docs/recipes.md says what is not identical.
"""

from collections.abc import Callable

from transnext.config import TrainConfig

Recipe = Callable[..., TrainConfig]
"""Takes the data, and the run folder if another than `runs/` and the name is wanted."""


def micro_in1k(data: str, output: str = "runs/micro_in1k") -> TrainConfig:
    """ImageNet-1K from scratch; published: 82.5 %."""
    return _in1k(data, output, "transnext_micro", drop_path=0.15)


def tiny_in1k(data: str, output: str = "runs/tiny_in1k") -> TrainConfig:
    """ImageNet-1K from scratch; published: 84.0 %."""
    return _in1k(data, output, "transnext_tiny", drop_path=0.25)


def small_in1k(data: str, output: str = "runs/small_in1k") -> TrainConfig:
    """ImageNet-1K from scratch; published: 84.7 %."""
    return _in1k(data, output, "transnext_small", drop_path=0.45)


def base_in1k(data: str, output: str = "runs/base_in1k") -> TrainConfig:
    """ImageNet-1K from scratch; published: 84.8 %."""
    return _in1k(data, output, "transnext_base", drop_path=0.6)


def micro_aaaa_in1k(data: str, output: str = "runs/micro_aaaa_in1k") -> TrainConfig:
    """ImageNet-1K from scratch; published: 82.6 %."""
    return _in1k(data, output, "transnext_micro_aaaa", drop_path=0.15)


def small_in1k_384(data: str, output: str = "runs/small_in1k_384") -> TrainConfig:
    """ImageNet-1K, tuned from 224; published: 86.0 %."""
    return _in1k_384(data, output, "transnext_small", drop_path=0.7)


def base_in1k_384(data: str, output: str = "runs/base_in1k_384") -> TrainConfig:
    """ImageNet-1K, tuned from 224; published: 86.2 %."""
    return _in1k_384(data, output, "transnext_base", drop_path=0.8)


def own_images(data: str, output: str = "runs/own_images") -> TrainConfig:
    """Your own images, from trained weights.

    Layers near the image, which need the least change, learn slowest, and the first stage not at all; classes with few
    images are seen as often as the others; training ends when validation accuracy stops improving.
    """
    return TrainConfig.of(
        data=data,
        output=output,
        model="transnext_tiny",
        pretrained=True,
        epochs=30,
        batch_size=64,
        balanced=True,
        lr=5e-4,
        layer_decay=0.85,
        freeze_stages=1,
        warmup_epochs=2,
        min_lr=1e-6,
        drop_path=0.1,
        patience=8,
        workers=2,
    )


def _in1k(data: str, output: str, model: str, drop_path: float) -> TrainConfig:
    """The released 300 epochs: 1024 images an update, 128 at a time on each of 8 GPUs."""
    return TrainConfig.of(
        data=data,
        output=output,
        model=model,
        epochs=300,
        batch_size=1024,
        micro_batch_size=128,
        repeats=3,
        lr=1e-3,
        schedule="cosine",
        schedule_per_epoch=True,
        warmup_epochs=5,
        warmup_lr=1e-6,
        min_lr=1e-5,
        weight_decay=0.05,
        clip_grad=1.0,
        label_smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
        mix_prob=1.0,
        auto_augment="rand-m9-mstd0.5-inc1",
        color_jitter=0.4,
        crop_scale=(0.08, 1.0),
        hflip=0.5,
        erasing=0.25,
        drop_path=drop_path,
        dropout=0.0,
        ema=0.0,
        precision="fp16",
        compile=True,
        workers=8,
    )


def _in1k_384(data: str, output: str, model: str, drop_path: float) -> TrainConfig:
    """The released 5 epochs at 384, with the position coordinates of 224."""
    return _in1k(data, output, model, drop_path).but(
        pretrained=True,
        image_size=384,
        crop_pct=1.0,
        crop_mode="squash",
        epochs=5,
        lr=1e-5,
        schedule="constant",
        warmup_epochs=0,
        cutmix=0.0,
    )


def fashion_mnist(data: str = "fashion_mnist", output: str = "runs/fashion_mnist") -> TrainConfig:
    """Fashion-MNIST from scratch on a CPU, at most 1.5 M parameters."""
    return TrainConfig.of(
        data=data,
        output=output,
        model="transnext_pico_patch2_28",
        val_fraction=0.02,
        epochs=27,
        batch_size=128,
        optimizer="muon",  # 94.1 % on the test images, AdamW 93.8 %: docs/recipes.md
        lr=3e-3,
        warmup_epochs=2,
        weight_decay=0.05,
        label_smoothing=0.1,
        # Small grey pictures of single things: shifted, mirrored and partly hidden, but not recoloured or distorted.
        auto_augment="",
        color_jitter=0.0,
        crop_scale=(0.75, 1.0),
        erasing=0.2,
        drop_path=0.05,
        ema=0.999,
        workers=0,  # reading 28x28 pixels costs a tenth of an update: a process more would take a core from the network
    )


RECIPES: dict[str, Recipe] = {
    function.__name__: function
    for function in (
        micro_in1k,
        tiny_in1k,
        small_in1k,
        base_in1k,
        micro_aaaa_in1k,
        small_in1k_384,
        base_in1k_384,
        own_images,
        fashion_mnist,
    )
}
"""The recipes by name."""
