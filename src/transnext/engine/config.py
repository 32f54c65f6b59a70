"""The configuration of a training run."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from transnext.choices import CropMode
from transnext.limits import MAX_SEED, MAX_SIDE, MAX_WORKERS, check_number

Precision = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "constant"]
Strategy = Literal["ddp", "fsdp"]
Tracker = Literal["tensorboard", "wandb", "trackio", "none"]

_LIMITS: dict[tuple[str, ...], tuple[float, ...]] = {
    ("epochs", "batch_size", "micro_batch_size", "keep"): (1,),
    ("repeats",): (1, 100),
    ("lr", "warmup_lr", "min_lr", "weight_decay", "clip_grad", "mixup", "cutmix"): (0,),
    ("warmup_epochs", "freeze_stages", "patience", "checkpoint_every"): (0,),
    ("worker_timeout",): (0, 10**6),
    ("color_jitter", "label_smoothing", "mix_prob", "hflip", "erasing", "drop_path", "dropout", "ema"): (0, 1),
    ("image_size",): (32, MAX_SIDE),
    ("workers",): (0, MAX_WORKERS),
    ("seed",): (0, MAX_SEED),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides how a classifier is trained.

    The defaults suit a small model on some thousand small images.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder of images, one sub-folder for each class; tar or Parquet shards, also by URL; emoji, fashion_mnist."""
    model: str = "transnext_pico"
    """Any model that timm knows; those of this package are listed by `transnext models`."""
    output: str = "runs/latest"
    """Run folder: configuration, metrics, checkpoints, report."""
    epochs: int = 30
    """Times that every training image is seen."""
    batch_size: int = 64
    """Images of one update, over all processes."""
    micro_batch_size: int | None = None
    """Images of one forward pass on one process; the share of batch_size that falls to the process by default."""
    repeats: int = 1
    """Times that an image is seen, differently augmented, in one epoch of unchanged length (repeated augmentation)."""
    balanced: bool = False
    """Draw images so that every class is seen equally often."""
    image_size: int | None = None
    """Side of the square that images are brought to, pixels; the model's own by default."""
    crop_pct: float | None = None
    """Share of the image's side that evaluation looks at, 0..1; the model's own by default."""
    crop_mode: CropMode | None = None
    """How evaluation makes an image square: cut off, distorted or padded; the model's own by default."""
    pretrained: bool = False
    """Start from the released weights of the model."""
    checkpoint: str | None = None
    """Start from the weights in this file; a classifier of other classes is left out."""
    seed: int = 0
    """Decides the split, the order, the augmentation and the initial weights."""

    optimizer: Optimizer = "adamw"
    """AdamW, or Muon for weight matrices and AdamW for the rest."""
    lr: float = 1e-3
    """Peak learning rate, for batch_size images; Muon's steps are scaled to the size of AdamW's."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer to the one below it, 0..1; 1 trains all layers alike."""
    freeze_stages: int = 0
    """Stages, from the image on, whose weights stay as they are."""
    schedule: Schedule = "cosine"
    """Course of the learning rate after the warm-up."""
    schedule_per_epoch: bool = False
    """Change the learning rate after each epoch instead of after each update, as the released training code does."""
    warmup_epochs: float = 2.0
    """Epochs over which the learning rate grows from warmup_lr to lr; at most a fifth of all are used."""
    warmup_lr: float = 1e-6
    """Learning rate of the first update."""
    min_lr: float = 1e-5
    """Learning rate at the end of the cosine."""
    weight_decay: float = 0.05
    """Decoupled decay; biases, norms and what the model's no_weight_decay() names are exempt."""
    clip_grad: float = 1.0
    """Largest norm of the gradient of an update; 0 for no limit."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes, 0..1."""

    mixup: float = 0.2
    """Alpha of mixup; 0 for none."""
    cutmix: float = 1.0
    """Alpha of CutMix; 0 for none. With both, each batch gets one or the other."""
    mix_prob: float = 0.0
    """Probability that a batch is mixed at all, 0..1; worth 0.5 when there are hundreds of epochs."""
    auto_augment: str = "rand-m7-mstd0.5-inc1"
    """Policy in timm's notation, e.g. rand-m9-mstd0.5-inc1; empty for none."""
    color_jitter: float = 0.4
    """Strength of random brightness, contrast and saturation, 0..1; not used together with auto_augment."""
    crop_scale: tuple[float, float] = (0.4, 1.0)
    """Smallest and largest share of the image's area that a random crop takes."""
    hflip: float = 0.5
    """Probability that an image is mirrored."""
    erasing: float = 0.25
    """Probability that a rectangle of the image is replaced by noise."""
    drop_path: float = 0.05
    """Stochastic depth of the last block; grows linearly from 0."""
    dropout: float = 0.0
    """Dropout before the classifier."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is evaluated and saved; 0 for none."""

    patience: int = 0
    """Stop when validation accuracy has not improved for so many epochs; 0 to train them all."""

    precision: Precision = "fp32"
    """Arithmetic of the forward pass (autocast)."""
    compile: bool = False
    """Compile the model with torch.compile."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    strategy: Strategy = "ddp"
    """What several processes share: ddp the gradients, fsdp weights and optimiser too (FSDP2)."""
    workers: int = 1
    """Processes that read and augment images, for each training process; 0 to do it in the training process."""
    worker_timeout: float = 300.0
    """Seconds without a batch after which a reading process counts as hung; 0 to wait for ever."""
    cache: str | None = None
    """Keep decoded images: "memory", or the path of a folder on a fast disk."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    checkpoint_every: int = 0
    """Updates between checkpoints inside an epoch; 0 for one checkpoint at the end of each epoch."""
    keep: int = 3
    """Checkpoints that are kept, the newest ones; `best.safetensors` always is."""
    nan: Literal["stop", "skip"] = "stop"
    """When a loss is not finite: stop with what led to it, or leave that update out and count it."""
    tracker: Tracker = "tensorboard"
    """Where metrics also go; wandb and trackio must be installed."""

    val_fraction: float = 0.2
    """Share of images held out where the data come without val/."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        for names, limits in _LIMITS.items():
            for name in names:
                value = getattr(self, name)
                if value is not None:
                    check_number(name, value, *limits)
        for name in ("layer_decay", "crop_pct"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, 0, 1, above=True)
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}: expected more than 0 and less than 1")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale is {self.crop_scale}: expected 0 < smallest <= largest <= 1")
        if self.pretrained and self.checkpoint:
            raise ValueError(
                "pretrained and checkpoint are both given: start from one of them (--no-pretrained beside a recipe)"
            )

    def to_json(self) -> str:
        """The configuration as readable JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> "TrainConfig":
        """The configuration of a run folder's `config.json`.

        Raises:
            ValueError: The file is not a configuration.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            values["crop_scale"] = tuple(values["crop_scale"])
            return cls(**values)
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is not the configuration of a run: {error}") from None
