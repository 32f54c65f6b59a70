"""Classification as a task of the engine."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import timm
import torch
import torch.nn.functional as F
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torchvision.transforms import v2

from transnext.config import TrainConfig
from transnext.data import NAMED_SETS, Source, open_dataset
from transnext.data.preprocessing import Preprocessing
from transnext.models.checkpoint import load_checkpoint, read_checkpoint
from transnext.models.variants import PRETRAIN_SIZES, create, trained_sizes
from transnext.report.parts import Section
from transnext.tasks.classification.align import aligned, namings
from transnext.tasks.classification.config import ClassificationConfig
from transnext.tasks.classification.metrics import ClassificationMeter
from transnext.tasks.classification.mirror import MirrorAveraged
from transnext.tasks.classification.results import SplitResult
from transnext.tasks.task import WHOLE, Look, Losses, Meter, Objective, Task


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Which of some classes an image belongs to."""

    name: ClassVar[str] = "classification"

    @property
    def class_names(self) -> list[str]:
        """What the classes are called."""
        names: list[str] = self.metadata["class_names"]
        return names

    @classmethod
    def open(cls, config: TrainConfig[Any]) -> tuple["Classification", dict[str, Source]]:
        """See `Task.open`."""
        sources = open_dataset(config.data, config.images.val_fraction, config.seed)
        classes = list(next(iter(sources.values())).classes)
        return cls(metadata={"class_names": classes}), dict(sources)

    def build(self, config: TrainConfig[Any], saved_args: Mapping[str, Any] | None = None) -> nn.Module:
        """See `Task.build`."""
        args: dict[str, Any] = {
            "num_classes": len(self.class_names),
            "drop_path_rate": config.start.drop_path,
            "drop_rate": config.start.dropout,
        }
        if saved_args is not None:
            return create(config.model, {**args, **saved_args})
        ours = config.model.startswith("transnext_")
        if ours and config.images.image_size is not None:
            args["img_size"] = config.images.image_size
        if ours and config.start.checkpoint is not None:
            args["pretrain_size"] = _pretrain_size(config.start.checkpoint, config.model)
        model = create(config.model, args, pretrained=config.start.pretrained)
        if config.start.checkpoint is not None:
            load_checkpoint(model, config.start.checkpoint, new_head=True)
        return model

    def model_args(self, net: nn.Module) -> dict[str, Any]:
        """See `Task.model_args`."""
        return {"num_classes": len(self.class_names), **trained_sizes(net)}

    def balance(self, source: Source, config: TrainConfig[Any]) -> Callable[[], npt.NDArray[np.int64]] | None:
        """See `Task.balance`."""
        if not config.task.balanced:
            return None
        return lambda: np.fromiter(map(source.target, range(len(source))), np.int64, len(source))

    def objective(
        self, net: nn.Module, preprocessing: Preprocessing, config: TrainConfig[Any]
    ) -> "ClassificationObjective":
        """See `Task.objective`."""
        repeated = config.images.repeats > 1
        return ClassificationObjective(net, preprocessing, config.task, len(self.class_names), repeated)

    def meter(self) -> Meter[Tensor]:
        """See `Task.meter`."""
        return ClassificationMeter(len(self.class_names))

    def mirrored(self, net: nn.Module) -> nn.Module:
        """See `Task.mirrored`."""
        return MirrorAveraged(net)

    def sources(self, data: str, val_fraction: float, seed: int, model: str = "the model") -> dict[str, Source]:
        """See `Task.sources`; the data may lack classes that the model has, and name them in another way."""
        known = {name for names in namings(self.class_names) for name in names}
        found = open_dataset(data, val_fraction, seed, known)
        if val_fraction == 0 and list(found) == ["train"] and data not in NAMED_SETS:
            found = {WHOLE: found["train"]}
        return {split: aligned(source, self.class_names, data, model) for split, source in found.items()}

    def facts(self) -> list[str]:
        """See `Task.facts`."""
        n = len(self.class_names)
        return [f"{n:,} class{'' if n == 1 else 'es'}"]

    def sections(self, results: Sequence[SplitResult], look: Look) -> list[Section]:
        """See `Task.sections`."""
        from transnext.tasks.classification.present import sections_of  # imports matplotlib, which training needs not

        return sections_of(results, self.class_names, look)


class ClassificationObjective(Objective):
    """Cross-entropy of images that are partly hidden and mixed.

    Args:
        net: Gives logits `[B, classes]`.
        preprocessing: What its images must look like.
        config: What is done to images and targets.
        num_classes: Classes.
        repeated: Whether neighbours in a batch may be one image, differently augmented.
    """

    def __init__(
        self,
        net: nn.Module,
        preprocessing: Preprocessing,
        config: ClassificationConfig,
        num_classes: int,
        repeated: bool = False,
    ) -> None:
        super().__init__(net)
        self.normalise = preprocessing.normalise()
        self.input_size = preprocessing.input_size
        self.label_smoothing = config.label_smoothing
        self.erasing = config.erasing
        self.mix = make_mixer(config, num_classes, repeated)

    def forward(self, images: Tensor, sizes: Tensor, targets: Tensor) -> Losses:
        """See `Objective.forward`; targets are int64 `[B]`."""
        x = self.normalise(images)
        if self.erasing > 0:
            # Its rectangles come from Python's generator, the noise in them from PyTorch's.
            random.seed(int(torch.randint(2**62, ())))
            x = RandomErasing(self.erasing, mode="pixel", device=str(x.device))(x)
        x, mixed = self.mix(x, targets)
        logits = self.net(x)
        losses = F.cross_entropy(logits.float(), mixed, label_smoothing=self.label_smoothing, reduction="none")
        recognised = (logits.detach().argmax(-1) == targets).sum()
        weight = torch.tensor(float(len(images)), device=images.device)
        return Losses({"loss": losses.sum()}, weight, {"accuracy": recognised})

    def blank(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """See `Objective.blank`."""
        images = torch.zeros(1, *self.input_size, dtype=torch.uint8, device=device)
        return (
            images,
            torch.tensor([self.input_size[1:]], device=device),
            torch.zeros(1, dtype=torch.int64, device=device),
        )


def make_mixer(
    config: ClassificationConfig, num_classes: int, repeated: bool = False
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Mixes a batch: images `[B, C, H, W]` and classes `[B]` in, images and targets in the same order out.

    Targets are class probabilities `[B, classes]` where the batch was mixed, and classes `[B]` where not.
    """
    mixers: list[nn.Module] = []
    if config.mixup > 0:
        mixers.append(v2.MixUp(alpha=config.mixup, num_classes=num_classes))
    if config.cutmix > 0:
        mixers.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))
    if not mixers or config.mix_prob == 0 or num_classes < 2:
        return lambda images, targets: (images, targets)
    one_of = v2.RandomChoice(mixers)

    def mix(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if torch.rand(()) >= config.mix_prob:
            return images, targets
        if not repeated:
            mixed: tuple[Tensor, Tensor] = one_of(images, targets)
            return mixed
        # torchvision mixes each image with the one before it, with repeated augmentation often a copy of it.
        order = torch.randperm(len(images))
        mixed_images, mixed_targets = one_of(images[order], targets[order])
        back = order.argsort()
        return mixed_images[back], mixed_targets[back]

    return mix


def _pretrain_size(checkpoint: str, name: str) -> Any:
    """The resolution that the weights of a checkpoint were pre-trained at, whatever size they are to be tuned at."""
    saved = read_checkpoint(checkpoint).metadata.get("model_args") or {}
    config = timm.get_pretrained_cfg(name)
    return saved.get("pretrain_size") or PRETRAIN_SIZES.get(name) or (config and config.input_size[-2:])
