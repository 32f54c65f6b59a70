"""The configuration of a training run, in groups; a task adds one of its own.

Names of options are the same whatever group they are in: on the command line, in `config.json` and in checkpoints they
stand side by side.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import tyro

from transnext.choices import MEMORY, SET_NAMES
from transnext.limits import MAX_SEED, MAX_SIDE, MAX_WORKERS, check_numbers

Precision = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "poly", "constant", "step"]
Strategy = Literal["ddp", "fsdp"]
Tracker = Literal["tensorboard", "wandb", "trackio", "none"]
TaskConfig = TypeVar("TaskConfig")

TASK_CONFIGS = {
    "classification": "transnext.tasks.classification.config:ClassificationConfig",
    "detection": "transnext.tasks.detection.config:DetectionConfig",
    "segmentation": "transnext.tasks.segmentation.config:SegmentationConfig",
}
"""The options of each task; imported when they are needed."""
PATHS = ("data", "output", "checkpoint", "cache")
"""Options that name files or folders."""
GIVEN = "given"
"""Entry of `config.json` that holds paths as they were given."""


def task_config(name: str) -> type[Any]:
    """The class of the options of a task.

    Raises:
        ValueError: There is no such task.
    """
    if name not in TASK_CONFIGS:
        raise ValueError(f"no task is called {name!r}: choose one of {', '.join(TASK_CONFIGS)}")
    module, _, attribute = TASK_CONFIGS[name].partition(":")
    found: type[Any] = getattr(import_module(module), attribute)
    return found


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """The network: its first weights, and what it is kept from learning by heart with."""

    pretrained: bool = False
    """Start from the released weights of the model."""
    checkpoint: str | None = None
    """Start from the weights in this file; a classifier of other classes is left out."""
    freeze_stages: int = 0
    """Stages, from the image on, whose weights stay as they are."""
    drop_path: float = 0.05
    """Stochastic depth of the last block; grows linearly from 0."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        check_numbers(self, 0, names=("freeze_stages",))
        check_numbers(self, 0, 1, names=("drop_path",))
        if self.pretrained and self.checkpoint:
            raise ValueError(
                "pretrained and checkpoint are both given: start from one of them (--no-pretrained beside a recipe)"
            )


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The images: which validate, how they are read and brought to a size."""

    val_fraction: float = 0.2
    """Share of images held out where the data come without val/."""
    image_size: int | None = None
    """Side of the square that images are brought to, pixels; the model's own by default."""
    repeats: int = 1
    """Times that an image is seen, differently augmented, in one epoch of unchanged length (repeated augmentation)."""
    hflip: float = 0.5
    """Probability that an image is mirrored."""
    cache: str | None = None
    """Keep decoded images: "memory", or the path of a folder on a fast disk."""
    workers: int = 1
    """Processes that read and augment images, for each training process; 0 to do it in the training process."""
    worker_timeout: float = 300.0
    """Seconds without a batch after which a reading process counts as hung; 0 to wait for ever."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        check_numbers(self, 1, 100, names=("repeats",))
        check_numbers(self, 32, MAX_SIDE, names=("image_size",))
        check_numbers(self, 0, 10**6, names=("worker_timeout",))
        check_numbers(self, 0, 1, names=("hflip",))
        check_numbers(self, 0, MAX_WORKERS, names=("workers",))
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}: expected more than 0 and less than 1")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The steps: optimiser, learning rate and its course, regularisation."""

    optimizer: Optimizer = "adamw"
    """AdamW, or Muon for weight matrices and AdamW for the rest."""
    lr: float = 1e-3
    """Peak learning rate, for batch_size images; Muon's steps are scaled to the size of AdamW's."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer to the one below it, 0..1; 1 trains all layers alike."""
    backbone_lr: float = 1.0
    """Factor of the learning rate of the backbone of a detector or segmenter, 0..1."""
    schedule: Schedule = "cosine"
    """Course of the learning rate after the warm-up; step divides it by ten after each of the milestones, poly is what
    is left of the run, as a share, to a power."""
    poly_power: float = 0.9
    """Of schedule poly; 1 falls in a straight line."""
    milestones: tuple[int, ...] = ()
    """Epochs after which schedule step divides the learning rate by ten."""
    schedule_per_epoch: bool = False
    """Change the learning rate after each epoch instead of after each update, as the released training code does."""
    warmup_epochs: float = 2.0
    """Epochs over which the learning rate grows from warmup_lr to lr; at most a fifth of all are used."""
    warmup_lr: float = 1e-6
    """Learning rate of the first update."""
    min_lr: float = 1e-5
    """Learning rate at the end of schedules cosine and poly."""
    weight_decay: float = 0.05
    """Decoupled decay; biases, norms and what the model's no_weight_decay() names are exempt."""
    decay_biases: bool = False
    """Decay biases, too, as some released configurations do; norms and what no_weight_decay() names stay exempt."""
    clip_grad: float = 1.0
    """Largest norm of the gradient of an update; 0 for no limit."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is evaluated and saved; 0 for none."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        check_numbers(self, 0, names=("lr", "warmup_lr", "min_lr", "weight_decay", "clip_grad", "warmup_epochs"))
        if self.schedule in ("cosine", "poly") and self.min_lr > self.lr:
            raise ValueError(f"lr is {self.lr} and would rise to min_lr, {self.min_lr}: give a smaller --min-lr, too")
        check_numbers(self, 0, 1, names=("ema",))
        check_numbers(self, 0, 10, names=("poly_power",), above=True)
        check_numbers(self, 0, 1, names=("layer_decay", "backbone_lr"), above=True)
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError(
                f"schedule is {self.schedule!r} and milestones are {self.milestones}: step needs some, others have none"
            )
        if self.layer_decay != 1 and (self.backbone_lr != 1 or self.decay_biases):
            raise ValueError(
                f"layer_decay is {self.layer_decay}, which goes with neither --backbone-lr nor --decay-biases"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run: where and in what precision it computes, when it ends, what it keeps."""

    micro_batch_size: int | None = None
    """Images of one forward pass on one process; the share of batch_size that falls to the process by default."""
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

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        check_numbers(self, 1, names=("micro_batch_size", "keep"))
        check_numbers(self, 0, names=("patience", "checkpoint_every"))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Generic[TaskConfig]):
    """Everything that decides how a model is trained.

    The defaults suit a small model on some thousand small images. `TrainConfig.of(data="photos", lr=1e-3)` takes
    options by name, whatever their group.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder of images, one sub-folder for each class; tar or Parquet shards, also by URL; emoji, fashion_mnist.
    Other tasks say at the top what they take."""
    model: str = "transnext_pico"
    """Any model that timm knows; those of this package are listed by `transnext models`."""
    output: str = "runs/latest"
    """Run folder: configuration, metrics, checkpoints, report."""
    epochs: int = 30
    """Times that the training images are seen, but for the few at a time that are less than a batch."""
    batch_size: int = 64
    """Images of one update, over all processes."""
    seed: int = 0
    """Decides the split, the order, the augmentation and the initial weights."""
    task: TaskConfig = field(default_factory=lambda: cast(TaskConfig, task_config("classification")()))
    """Options of the task alone."""
    start: StartConfig = StartConfig()
    images: ImageConfig = ImageConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        check_numbers(self, 1, names=("epochs", "batch_size"))
        check_numbers(self, 0, MAX_SEED, names=("seed",))

    @classmethod
    def of(cls, task: str = "classification", **options: Any) -> "TrainConfig[Any]":
        """A configuration from options by name, whatever their group.

        Args:
            task: Name of the task, whose options may have `DEFAULTS` for those of all tasks.
            options: What is not to be as by default.

        Raises:
            TypeError: There is no such option.
            ValueError: A value cannot work.
        """
        own = task_config(task)
        values = {**getattr(own, "DEFAULTS", {}), **options}
        return TrainConfig(data=values.pop("data"), task=own()).but(**values)

    def but(self, **options: Any) -> "TrainConfig[TaskConfig]":
        """The same with other values of some options, by name.

        Raises:
            TypeError: There is no such option.
            ValueError: A value cannot work.
        """
        places = self._places()
        changed: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            if name not in places:
                raise TypeError(f"there is no option {name!r}")
            changed.setdefault(places[name], {})[name] = value
        own = changed.pop("", {})
        groups = {group: dataclasses.replace(getattr(self, group), **values) for group, values in changed.items()}
        return dataclasses.replace(self, **own, **groups)

    def options(self) -> dict[str, Any]:
        """All options by name, side by side, and the name of the task."""
        values = {
            name: getattr(getattr(self, group) if group else self, name) for name, group in self._places().items()
        }
        return {"task": self.task_name, **values}

    @property
    def task_name(self) -> str:
        """Name of the task."""
        kind = f"{type(self.task).__module__}:{type(self.task).__qualname__}"
        return next((name for name, place in TASK_CONFIGS.items() if place == kind), type(self.task).__name__)

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> "TrainConfig[Any]":
        """What `options` gave; older versions did not name the task, which was classification.

        Raises:
            TypeError: There is no such option.
            ValueError: A value cannot work, or there is no such task.
        """
        named: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls.of(**named)

    def _places(self) -> dict[str, str]:
        """The group of each option, "" for none."""
        groups = ("start", "images", "task", "optim", "run")
        places = {f.name: "" for f in dataclasses.fields(self) if f.name not in groups}
        for group in groups:
            for option in dataclasses.fields(getattr(self, group)):
                # One of the two would be set without a word, and not the one that was meant.
                assert option.name not in places, f"{option.name} is an option of {group} and of {places[option.name]}"
                places[option.name] = group
        return places

    def with_absolute_paths(self, base: str | Path = "") -> "TrainConfig[TaskConfig]":
        """The same with absolute paths. Names of sets, URLs and "memory" stay.

        Args:
            base: Where relative paths start; the current folder by default.
        """
        changed: dict[str, Any] = {}
        options = self.options()
        for name in PATHS:
            path = options[name]
            is_name = path in {"data": SET_NAMES.get(self.task_name, ()), "cache": (MEMORY,)}.get(name, ())
            if path is not None and not is_name and "://" not in path:
                changed[name] = os.path.abspath(Path(base, path))  # noqa: PTH100 - Path.resolve follows links
        return self.but(**changed)

    def to_json(self, given: "TrainConfig[Any] | None" = None) -> str:
        """The configuration as readable JSON.

        Args:
            given: The same with the paths as the user gave them, which are written beside.
        """
        values = self.options()
        if given is not None:
            paths = given.options()
            values[GIVEN] = {name: paths[name] for name in PATHS if paths[name] != values[name]}
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> "TrainConfig[Any]":
        """The configuration of a run folder's `config.json`.

        Raises:
            ValueError: The file is not a configuration.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            values.pop(GIVEN, None)
            return cls.from_options(values)
        except (json.JSONDecodeError, AttributeError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is not the configuration of a run: {error}") from None
