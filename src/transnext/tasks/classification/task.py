"""Classification as a task of the engine."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from transnext.config import TrainConfig
from transnext.data import NAMED_SETS, LabelledImages, Source, open_dataset
from transnext.data.preprocessing import Preprocessing
from transnext.models.checkpoint import load_checkpoint
from transnext.models.variants import create, fixed_size, pretrain_size, trained_sizes
from transnext.report.parts import Section
from transnext.tasks.classification.align import aligned, namings
from transnext.tasks.classification.answers import ImagePrediction, check_classifier, classify
from transnext.tasks.classification.metrics import ClassificationMeter
from transnext.tasks.classification.objective import ClassificationObjective, ErasedImages
from transnext.tasks.classification.results import SplitResult
from transnext.tasks.task import WHOLE, Asked, Loaded, Look, Meter, Objective, Task


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Naming the class of an image, one of some."""

    name: ClassVar[str] = "classification"

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
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
            "drop_rate": config.task.dropout,
        }
        if saved_args is not None:
            return create(config.model, {**args, **saved_args})
        ours, side = config.model.startswith("transnext_"), config.images.image_size
        fixed = side is not None and not ours and fixed_size(config.model) not in (None, (side, side))
        if side is not None and (ours or fixed):
            args["img_size"] = side
        if ours and config.start.checkpoint is not None:
            args["pretrain_size"] = pretrain_size(config.model, config.start.checkpoint)
        model = create(config.model, args, pretrained=config.start.pretrained)
        if fixed and "img_size" not in trained_sizes(model):
            raise ValueError(f"{config.model} takes images of its own size alone: leave out --image-size {side}")
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

    def images(
        self, source: Source, preprocessing: Preprocessing, training: TrainConfig[Any] | None = None
    ) -> LabelledImages:
        """See `Task.images`."""
        if training is None:
            return super().images(source, preprocessing)
        own = training.task
        transform, min_side = preprocessing.training(
            crop_scale=own.crop_scale,
            hflip=training.images.hflip,
            auto_augment=own.auto_augment,
            color_jitter=own.color_jitter,
        )
        return ErasedImages(source, transform, min_side, erasing=own.erasing)

    def preprocessing(self, net: nn.Module, config: TrainConfig[Any]) -> Preprocessing:
        """See `Task.preprocessing`."""
        return Preprocessing.of_model(net, config.images.image_size, config.task.crop_pct, config.task.crop_mode)

    def objective(self, net: nn.Module, preprocessing: Preprocessing, config: TrainConfig[Any]) -> Objective:
        """See `Task.objective`."""
        repeated = config.images.repeats > 1
        return ClassificationObjective(net, preprocessing, config.task, len(self.class_names), repeated)

    def meter(self, source: Source | None = None) -> Meter[Tensor]:
        """See `Task.meter`."""
        return ClassificationMeter(self.class_names)

    def judged_at_once(self, preprocessing: Preprocessing) -> int:
        """See `Task.judged_at_once`: 128 images of 224 pixels, fewer of larger ones."""
        return min(128, max(1, 128 * 224**2 // math.prod(preprocessing.input_size[1:])))

    def check(self, loaded: Loaded, **options: Any) -> None:
        """See `Task.check`."""
        check_classifier(loaded, **options)

    def answers(self, loaded: Loaded, asked: Asked, **options: Any) -> list[ImagePrediction]:
        """See `Task.answers`; options are `top_k` and `look`."""
        return classify(loaded, asked, **options)

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


class MirrorAveraged(nn.Module):
    """The mean of a classifier's probabilities for an image and for its mirror image (left and right exchanged).

    Args:
        model: Gives logits `[B, classes]`; shared, not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` to the logarithm of the mean probabilities, float32 `[B, classes]`."""
        one, other = (self.model(x).float().log_softmax(-1) for x in (images, images.flip(-1)))
        return torch.logaddexp(one, other) - math.log(2)
