"""Segmentation as a task of the engine."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from transnext.config import TrainConfig
from transnext.data import Batch, LabelledImages, Sample, Source
from transnext.data.channels import Picture, statistics_of
from transnext.data.joint import normalised_canvas
from transnext.data.preprocessing import Preprocessing
from transnext.data.segmentation.opening import open_segmentation
from transnext.data.segmentation.source import MapSource, PanopticMaps, aligned
from transnext.models.backbone import Backbone
from transnext.report.parts import Section
from transnext.tasks.class_colours import Colour
from transnext.tasks.segmentation.config import SegmentationConfig
from transnext.tasks.segmentation.images import MapImages, collate_maps, own_sample, placed_sample
from transnext.tasks.segmentation.looking import Looking
from transnext.tasks.segmentation.losses import class_weights
from transnext.tasks.segmentation.metrics import SegmentationMeter
from transnext.tasks.segmentation.net import SegmentationNet
from transnext.tasks.segmentation.objective import SegmentationObjective
from transnext.tasks.segmentation.panoptic import checked_things, things_text
from transnext.tasks.segmentation.placing import Rows
from transnext.tasks.segmentation.results import SegmentationResult
from transnext.tasks.segmentation.starting import HEADS, fresh_net
from transnext.tasks.starting import Heads
from transnext.tasks.task import WHOLE, Asked, Loaded, Look, Meter, Objective, Reading, Task

SIDES = {"small": 320, "released": 512}
"""Trained image side for each size of head, pixels, unless another is given."""
METADATA = (
    "class_names",
    "class_colours",
    "window",
    "window_stride",
    "targets",
    "thing_classes",
    "category_ids",
    "in_chans",
    "reduce_zero_label",
)
"""Entries of a checkpoint that are the task's."""
LONGEST = 4
"""Of a picture that has no common size, the longer side is at most so many times the shorter one."""


@dataclass(frozen=True, kw_only=True)
class Segmentation(Task):
    """Of which class every pixel of an image is.

    Attributes:
        class_pixels: Labelled pixels of each class in the training images; None where no training is at hand.
        most_segments: Segments that a training image has at most, where they are learned.
        statistics: Mean and standard deviation of each channel of the training images, where they are numbers.
        looking: How pictures are looked at; as in training if None.
        scale_one: What its scale 1 stands for.
        reduce_zero_label: In label files that it is judged by, 0 stands for nothing; None for what they say
            themselves, or what training was told.
    """

    name: ClassVar[str] = "segmentation"
    class_pixels: tuple[int, ...] | None = field(default=None, compare=False)
    most_segments: int = field(default=0, compare=False)
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = field(default=None, compare=False)
    looking: Looking | None = None
    scale_one: Preprocessing | None = None
    reduce_zero_label: bool | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        names: list[str] = self.metadata["class_names"]
        return names

    @property
    def colours(self) -> list[Colour] | None:
        """Colour of each class, if the data gave them."""
        given = self.metadata.get("class_colours")
        return None if given is None else [(red, green, blue) for red, green, blue in given]

    @property
    def things(self) -> list[str] | None:
        """Names of the classes that have objects, of a network that learned segments; None of others."""
        return self.metadata["thing_classes"] if self.metadata.get("targets") == "panoptic" else None

    @classmethod
    def open(cls, config: TrainConfig[Any]) -> tuple["Segmentation", dict[str, Source]]:
        """See `Task.open`."""
        own = config.task
        sources = open_segmentation(
            config.data,
            config.images.val_fraction,
            config.seed,
            reduce_zero_label=own.reduce_zero_label,
            in_chans=own.in_chans,
        )
        first = next(iter(sources.values()))
        metadata: dict[str, Any] = {"class_names": list(first.classes)}
        if first.colours is not None:
            metadata["class_colours"] = [list(colour) for colour in first.colours]
        if own.reduce_zero_label is not None:
            metadata["reduce_zero_label"] = own.reduce_zero_label
        if own.window is not None:
            metadata |= {"window": own.window, "window_stride": own.window_stride or -(-own.window * 2 // 3)}
        train = sources.get("train")
        pixels = None if train is None else tuple(train.pixels[:, :-1].sum(0).tolist())
        statistics = None
        if train is not None and train.channels is not None:
            if config.images.cache is not None:
                raise ValueError("cache keeps pictures of 8-bit RGB, and these are read as numbers: leave it out")
            statistics = statistics_of(train.paths, train.channels)
            metadata["in_chans"] = train.channels
        task = cls(metadata=metadata, class_pixels=pixels, statistics=statistics)
        if statistics is not None:
            means = ", ".join(f"{mean:.4f} ({std:.4f})" for mean, std in zip(*statistics, strict=True))
            task.notes.append(
                f"Pictures are numbers of {len(statistics[0])} channels, with means (deviations) {means}."
            )
        things = own.thing_classes
        if things is None and first.things is not None and own.segmenter == "mask2former":
            things = tuple(name for name, thing in zip(first.classes, first.things, strict=True) if thing)
        if things is not None:
            metadata["thing_classes"] = checked_things(things, first.classes)
            task.notes.append(things_text(metadata["thing_classes"], first.classes))
        if own.targets == "panoptic":
            metadata["targets"] = own.targets
            sources, most = _by_segments(sources, metadata.get("thing_classes"))
            task = replace(task, most_segments=most)
        elif own.segmenter == "mask2former" and first.tells_segments:
            task.notes.append("The data tell segments, and classes alone are learned: --targets panoptic learns both.")
        if first.category_ids is not None:
            metadata["category_ids"] = list(first.category_ids)
        return task, dict(sources)

    @classmethod
    def heads(cls) -> Heads[SegmentationNet]:
        """See `Task.heads`."""
        return HEADS

    def build(self, config: TrainConfig[Any], saved_args: Mapping[str, Any] | None = None) -> nn.Module:
        """See `Task.build`."""
        if saved_args is not None:
            return HEADS.rebuilt(config.model, saved_args)
        weights = config.task.class_weights
        if weights == "data":
            assert self.class_pixels is not None
            weights = class_weights(self.class_pixels)
        weights = None if isinstance(weights, str) else weights
        net, said = fresh_net(config, self.class_names, weights, self.metadata.get("in_chans", 3))
        self.notes.extend(said)
        queries = getattr(net, "num_queries", self.most_segments)
        if self.most_segments > queries:
            self.notes.append(
                f"A training picture has up to {self.most_segments} segments, and the network tells {queries}: those "
                "that fit worst are left out."
            )
        return net

    def model_args(self, net: nn.Module) -> dict[str, Any]:
        """See `Task.model_args`."""
        assert isinstance(net, SegmentationNet)
        return HEADS.model_args(net)

    def preprocessing(self, net: nn.Module, config: TrainConfig[Any]) -> Preprocessing:
        """See `Task.preprocessing`; a backbone alone will do."""
        backbone: Any = net if isinstance(net, Backbone) else net.backbone
        found = preprocessing_for(backbone, config)
        if self.statistics is None:
            return found
        mean, std = self.statistics
        return replace(found, input_size=(len(mean), *found.input_size[1:]), mean=mean, std=std, numbers=True)

    def images(
        self, source: Source, preprocessing: Preprocessing, training: TrainConfig[Any] | None = None
    ) -> LabelledImages:
        """See `Task.images`."""
        things = None if self.things is None else [self.class_names.index(name) for name in self.things]
        return MapImages(source, preprocessing, training, things, own_size=training is None and self.how.several)

    def preview(self, batches: Iterable[Batch], path: Path) -> int:
        """See `Task.preview`."""
        from transnext.tasks.segmentation.preview import preview_page

        return preview_page(batches, self.class_names, path, self.colours)

    def collate(self, targets: Sequence[Any]) -> Any:
        """See `Task.collate`: maps `[B, H, W]` in training, else a list of those of the pictures."""
        return collate_maps(targets)

    def objective(self, net: nn.Module, preprocessing: Preprocessing, config: TrainConfig[Any]) -> Objective:
        """See `Task.objective`."""
        assert isinstance(net, SegmentationNet)
        return SegmentationObjective(net, preprocessing)

    def meter(self, source: Source | None = None) -> Meter[Any]:
        """See `Task.meter`."""
        return SegmentationMeter(self.class_names, self.things, getattr(source, "named", None))

    def sample(
        self, picture: Picture, preprocessing: Preprocessing, index: int, original: tuple[int, int] | None = None
    ) -> Sample:
        """See `Task.sample`."""
        if self.how.several:
            return own_sample(picture, index)
        return placed_sample(picture, preprocessing, index, original=original)

    def channels(self, preprocessing: Preprocessing) -> int | None:
        """See `Task.channels`."""
        return preprocessing.input_size[0] if preprocessing.numbers else None

    def min_side(self, preprocessing: Preprocessing) -> int | None:
        """See `Task.min_side`: answers are in pixels of the picture; `reading` says when it may be smaller."""
        return None

    def reading(self, preprocessing: Preprocessing, **options: Any) -> Reading:
        """See `Task.reading`: as in an evaluation; several sizes want all of a picture."""
        return Reading(min_side=None if self.how.several else preprocessing.min_side())

    def judged_at_once(self, preprocessing: Preprocessing) -> int:
        """See `Task.judged_at_once`; where pictures are seen in several sizes, batches have them unshrunk."""
        return 1 if self.how.several else super().judged_at_once(preprocessing)

    def inputs(self, images: Tensor, sizes: Tensor, preprocessing: Preprocessing) -> Tensor:
        """See `Task.inputs`; the pictures as they are where each is looked at in several ways.

        Raises:
            ValueError: The network takes another number of channels.
        """
        if images.shape[1] != preprocessing.input_size[0] or images.is_floating_point() != preprocessing.numbers:
            raise ValueError(
                f"pictures are brought to the model as RGB, and it takes {preprocessing.input_size[0]} channels: "
                "ask it in tiles, which are read as they are (--tile, Segmenter.large)"
            )
        return images if self.how.several else normalised_canvas(images, sizes, preprocessing.normalise(images.device))

    def raw(self, net: nn.Module, images: Tensor, sizes: Tensor) -> Any:
        """See `Task.raw`: `scores` of each picture, or what is `Told` of it by a network that learned segments."""
        if self.things is None or not self.how.once or getattr(net, "is_exported", False):
            return self.scores(net, images, sizes)
        return net(images, sizes, told=True)

    def scores(self, net: nn.Module, images: Tensor, sizes: Tensor) -> Iterable[Tensor | Rows]:
        """Scores of each picture; in windows or several looks made when they are taken, once.

        At full size those of a batch would fill the memory. See `raw`.
        """
        return self.how.scores(net, images, sizes, self.scale_one)

    @property
    def how(self) -> Looking:
        """How pictures are looked at."""
        return Looking.trained(self.metadata) if self.looking is None else self.looking

    @classmethod
    def load(cls, path: Path, *, image_size: int | None = None, device: str | torch.device = "cpu") -> Loaded:
        """See `Task.load`; the checkpoint may be a released one, too."""
        net, saved = HEADS.load(path)
        preprocessing = Preprocessing.from_mapping(saved["preprocessing"])
        if image_size is not None:
            preprocessing = preprocessing.resized(image_size)
        task = cls(metadata={name: saved[name] for name in METADATA if name in saved})
        return Loaded(model=net.to(device).eval(), task=task, preprocessing=preprocessing, name=str(path))

    def check(self, loaded: Loaded, **options: Any) -> None:
        """See `Task.check`; options are those of `Segmenter`."""
        from transnext.tasks.segmentation.asking import check_options

        check_options(loaded, options)

    def answers(self, loaded: Loaded, asked: Asked, **options: Any) -> list[Any]:
        """See `Task.answers`; options are those of `Segmenter`."""
        from transnext.tasks.segmentation.asking import answers

        return answers(loaded, asked, **options)

    def sources(self, data: str, val_fraction: float, seed: int, model: str = "the model") -> dict[str, Source]:
        """See `Task.sources`; the data may lack classes that the model has, and have others, which are ignored."""
        channels = self.metadata.get("in_chans")
        found = open_segmentation(
            data,
            val_fraction,
            seed,
            reduce_zero_label=self.reduce_zero_label,
            usual_zero_label=self.metadata.get("reduce_zero_label"),
            in_chans=channels,
        )
        seen = next(iter(found.values())).channels
        if seen != channels:
            said = ["RGB of 8 bits" if n is None else f"numbers of {n} channels" for n in (seen, channels)]
            raise ValueError(f"{data} has pictures of {said[0]}, and {model} was trained on {said[1]}")
        if not val_fraction and found.keys() == {"train"}:
            found = {WHOLE: found["train"]}
        return {split: aligned(source, self.class_names) for split, source in found.items()}

    def facts(self) -> list[str]:
        """See `Task.facts`."""
        return [f"{len(self.class_names):,} classes of pixels"]

    def sections(self, results: Sequence[SegmentationResult], look: Look) -> list[Section]:
        """See `Task.sections`."""
        from transnext.tasks.segmentation.present import sections_of

        return sections_of(results, self.class_names, look, self.how)


def _by_segments(sources: Mapping[str, MapSource], things: list[str] | None) -> tuple[dict[str, MapSource], int]:
    """Sources of which segments are learned, and how many a training image has at most.

    Raises:
        ValueError: They tell none, or not which classes have objects.
    """
    first = next(iter(sources.values()))
    places = [first.classes.index(name) for name in things or ()]
    try:
        found = {split: source.by_segments(places) for split, source in sources.items()}
    except ValueError as error:
        raise ValueError(
            f"targets are panoptic, and {error}: leave out targets; outlines of objects are learned by transnext detect"
        ) from None
    if things is None:
        raise ValueError(
            f"targets are panoptic, and {first.root} does not say which classes have objects (isthing): give "
            "thing_classes, those names, or none of them where all of a class is one segment"
        )
    maps = found["train"].maps if "train" in found else None
    return found, maps.most(places) if isinstance(maps, PanopticMaps) else 0


def preprocessing_for(backbone: Backbone, config: TrainConfig[SegmentationConfig]) -> Preprocessing:
    """Inputs of a segmenter on a backbone, as the options of a run ask for them."""
    side = config.images.image_size or SIDES[config.task.head_size]
    size = (side, LONGEST * side) if config.task.fit == "shortest" else (side, side)
    return Preprocessing.of_model(backbone.net).with_places(config.task.fit, size)
