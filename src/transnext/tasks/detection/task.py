"""Detection as a task of the engine."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from transnext.config import TrainConfig
from transnext.data import Batch, LabelledImages, Sample, Source
from transnext.data.detection.opening import open_detection
from transnext.data.detection.source import aligned
from transnext.data.instances import Annotation
from transnext.data.joint import normalised_canvas
from transnext.data.preprocessing import Preprocessing
from transnext.extras import require
from transnext.limits import check_number
from transnext.models.backbone import Backbone
from transnext.report.parts import Section
from transnext.tasks.detection.config import DetectionConfig
from transnext.tasks.detection.images import DetectionImages, collate_objects, placed_sample, repeat_factors
from transnext.tasks.detection.looking import OVERLAP, Looking, can_look_in_tiles
from transnext.tasks.detection.metrics import DetectionMeter
from transnext.tasks.detection.net import DetectionNet, Found
from transnext.tasks.detection.nets import DETECTORS
from transnext.tasks.detection.objective import DetectionObjective
from transnext.tasks.detection.results import DetectionResult
from transnext.tasks.detection.starting import HEADS, fresh_net
from transnext.tasks.starting import Heads
from transnext.tasks.task import WHOLE, Asked, Loaded, Look, Meter, Objective, Reading, Task

SIDES = {"small": 320, "base": 640, "released": 800}
"""Trained image side for each size of head, pixels, unless another is given."""
METADATA = ("class_names", "category_ids", "with_masks", "most_objects", "threshold", "val_threshold", "tile")
"""Entries of a checkpoint that are the task's."""
OPTIONS = {"threshold", "classes", "masks", "tile", "overlap"}
"""Options of an answer."""
DEFAULT_THRESHOLD = 0.5
"""Least score of an answer where the checkpoint names none."""


@dataclass(frozen=True, kw_only=True)
class Detection(Task):
    """Which objects are in an image, and where.

    Attributes:
        looking: How pictures are looked at; as in training if None.
    """

    name: ClassVar[str] = "detection"
    looking: Looking | None = field(default=None, compare=False)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        names: list[str] = self.metadata["class_names"]
        return names

    @property
    def category_ids(self) -> list[int]:
        """Numbers of the classes where the data came from."""
        ids: list[int] = self.metadata["category_ids"]
        return ids

    @property
    def with_masks(self) -> bool:
        """Outlines are told, too."""
        return bool(self.metadata["with_masks"])

    @property
    def threshold(self) -> float:
        """Least score of an answer: the one that was chosen, or that of the best F1 in validation."""
        return float(self.metadata.get("threshold", self.metadata.get("val_threshold", DEFAULT_THRESHOLD)))

    @property
    def how(self) -> Looking:
        """How pictures are looked at."""
        return Looking.trained(self.metadata) if self.looking is None else self.looking

    @classmethod
    def open(cls, config: TrainConfig[Any]) -> tuple["Detection", dict[str, Source]]:
        """See `Task.open`."""
        masks = config.task.masks
        wanted = DETECTORS[config.task.detector].masks if masks is None else masks
        sources = open_detection(config.data, config.images.val_fraction, config.seed, masks=wanted)
        require("training of detectors", "faster_coco_eval", "supervision", extra="detect")
        outlined = [split for split, source in sources.items() if source.has_masks]
        # Other splits are judged once, by what they have.
        without = [split for split in ("train", "val") if split in sources.keys() - outlined]
        if masks and without:
            raise ValueError(f"{config.data} has boxes alone in {', '.join(without)}, no outlines: leave out --masks")
        with_masks = wanted and not without
        notes = []
        if wanted and without and outlined:
            # Opened for outlines, objects without one are ignored regions in splits where most have one.
            sources = open_detection(config.data, config.images.val_fraction, config.seed, masks=False)
            notes.append(
                f"Boxes alone are learned, and all count: there are outlines in {', '.join(outlined)}, and none "
                f"in {', '.join(without)}, or of less than half of the objects."
            )
        elif with_masks and (others := sources.keys() - outlined):
            notes.append(f"Outlines are not judged in {', '.join(sorted(others))}: there are boxes alone.")
        first = next(iter(sources.values()))
        metadata = {
            "class_names": list(first.classes),
            "category_ids": list(first.category_ids),
            "with_masks": with_masks,
            "most_objects": max(source.most_objects() for source in sources.values()),
        }
        if config.task.threshold is not None:
            metadata["threshold"] = config.task.threshold
        tile, looking = config.task.train_tiles, None
        if tile is not None and can_look_in_tiles(config.task.detector):
            metadata["tile"] = tile
            looking = Looking(tile=tile, at_once=min(8, 2 * (config.run.micro_batch_size or config.batch_size)))
            notes.append(f"Pictures are judged in tiles of {tile} pixels, as they are trained on.")
        elif tile is not None:
            notes.append(
                f"Tiles of {tile} pixels are trained on, and pictures are judged whole, where objects are smaller: "
                f"masks of {config.task.detector} cannot be put together at edges."
            )
        return cls(metadata=metadata, notes=notes, looking=looking), dict(sources)

    def build(self, config: TrainConfig[Any], saved_args: Mapping[str, Any] | None = None) -> nn.Module:
        """See `Task.build`."""
        if saved_args is not None:
            return HEADS.rebuilt(config.model, saved_args)
        net, said = fresh_net(config, self.class_names, self.with_masks, self.metadata["most_objects"])
        self.notes.extend(said)
        # COCO's limit of 100 would cut the objects of denser images.
        dense = -(-self.metadata["most_objects"] // 100) * 100
        net.make_room(config.task.max_detections or max(net.max_detections, dense))
        return net

    def model_args(self, net: nn.Module) -> dict[str, Any]:
        """See `Task.model_args`."""
        assert isinstance(net, DetectionNet)
        return HEADS.model_args(net)

    def preprocessing(self, net: nn.Module, config: TrainConfig[Any]) -> Preprocessing:
        """See `Task.preprocessing`; a backbone alone will do."""
        return preprocessing_for(net if isinstance(net, Backbone) else net.backbone, config)  # type: ignore[arg-type]

    def images(
        self, source: Source, preprocessing: Preprocessing, training: TrainConfig[Any] | None = None
    ) -> LabelledImages:
        """See `Task.images`."""
        own_size = training is None and bool(self.how.tile)
        return DetectionImages(source, preprocessing, training, masks=self.with_masks, own_size=own_size)

    def preview(self, batches: Iterable[Batch], path: Path) -> int:
        """See `Task.preview`."""
        from transnext.tasks.detection.preview import preview_page

        return preview_page(batches, self.class_names, path)

    def collate(self, targets: Sequence[Any]) -> Any:
        """See `Task.collate`: an `InstanceBatch` in training, else the annotations."""
        return collate_objects(targets)

    def draw_weights(self, source: Source, config: TrainConfig[Any]) -> Callable[[], npt.NDArray[np.float64]] | None:
        """See `Task.draw_weights`."""
        threshold = config.task.repeat_factor
        if not threshold:
            return None
        return lambda: repeat_factors([_present(source.target(i)) for i in range(len(source))], threshold)

    @classmethod
    def heads(cls) -> Heads[DetectionNet]:
        """See `Task.heads`."""
        return HEADS

    def objective(self, net: nn.Module, preprocessing: Preprocessing, config: TrainConfig[Any]) -> Objective:
        """See `Task.objective`."""
        assert isinstance(net, DetectionNet)
        return DetectionObjective(net, preprocessing)

    def chosen(self, saved: Mapping[str, Any]) -> "Detection":
        """See `Task.chosen`: the threshold."""
        found = {name: saved[name] for name in ("val_threshold",) if name in saved}
        return replace(self, metadata={**self.metadata, **found})

    def meter(self, source: Source | None = None) -> Meter[list[Found]]:
        """See `Task.meter`."""
        known = "threshold" in self.metadata or "val_threshold" in self.metadata
        return DetectionMeter(
            self.class_names,
            self.category_ids,
            with_masks=self.with_masks,
            threshold=self.threshold if known else None,
            tile=self.how.tile or None,
            named=getattr(source, "named", None),
        )

    def sample(
        self, picture: Image.Image, preprocessing: Preprocessing, index: int, original: tuple[int, int] | None = None
    ) -> Sample:
        """See `Task.sample`."""
        return placed_sample(picture, preprocessing, index, original=original)

    def min_side(self, preprocessing: Preprocessing) -> int | None:
        """See `Task.min_side`: answers are in pixels of the picture; `reading` says when it may be smaller."""
        return None

    def reading(self, preprocessing: Preprocessing, **options: Any) -> Reading:
        """See `Task.reading`: as in an evaluation; tiles want all of a picture."""
        tiles = bool(self._tile(options))
        return Reading(min_side=None if tiles else preprocessing.min_side(), one_by_one=tiles)

    def _tile(self, options: Mapping[str, Any]) -> int | None:
        """Side of the tiles in which pictures are looked at that are asked about with some options."""
        tile: int | None = options.get("tile")
        return self.how.tile if tile is None else tile

    def judged_at_once(self, preprocessing: Preprocessing) -> int:
        """See `Task.judged_at_once`; pictures that are seen in tiles come unshrunk."""
        return 1 if self.how.tile else super().judged_at_once(preprocessing)

    def inputs(self, images: Tensor, sizes: Tensor, preprocessing: Preprocessing) -> Tensor:
        """See `Task.inputs`."""
        return normalised_canvas(images, sizes, preprocessing.normalise(images.device))

    def raw(self, net: nn.Module, images: Tensor, sizes: Tensor) -> list[Found]:
        """See `Task.raw`."""
        found: list[Found] = net(images, sizes)
        return found

    def judged(self, net: nn.Module, batch: Batch, preprocessing: Preprocessing, device: torch.device) -> list[Found]:
        """See `Task.judged`; in tiles where the task looks so."""
        if not self.how.tile:
            found: list[Found] = super().judged(net, batch, preprocessing, device)
            return found
        pictures = zip(batch.images, batch.sizes.tolist(), strict=True)
        return [self.how.found(net, image[:, :h, :w], preprocessing, device) for image, (h, w) in pictures]

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
        """See `Task.check`; options are those of `Detector`."""
        if unknown := options.keys() - OPTIONS:
            raise ValueError(f"answers of a detector have no options {', '.join(sorted(unknown))}")
        check_options(self.class_names, **options)
        outlines = self.with_masks and options.get("masks", True)
        if self._tile(options) and outlines and not can_look_in_tiles(getattr(loaded.model, "detector", "")):
            raise ValueError(
                f"outlines of {loaded.name} lie over the whole of what it sees, and those of tiles cannot be put "
                "together: leave out tile, or ask for boxes alone (masks=False, --no-masks)"
            )

    def answers(self, loaded: Loaded, asked: Asked, **options: Any) -> list[Any]:
        """See `Task.answers`; options are those of `Detector`."""
        require("answers of a detector", "supervision", extra="detect")
        from transnext.tasks.detection.asking import answers  # imports supervision

        threshold = options.pop("threshold", None)
        return answers(loaded, asked, self.threshold if threshold is None else threshold, **options)

    def sources(self, data: str, val_fraction: float, seed: int, model: str = "the model") -> dict[str, Source]:
        """See `Task.sources`; the data may lack classes that the model has, and have others, which do not count."""
        require("evaluation of detectors", "faster_coco_eval", extra="detect")
        found = open_detection(data, val_fraction, seed, masks=self.with_masks)
        if not val_fraction and found.keys() == {"train"}:
            found = {WHOLE: found["train"]}
        return {split: aligned(source, self.class_names) for split, source in found.items()}

    def facts(self) -> list[str]:
        """See `Task.facts`."""
        n = len(self.class_names)
        return [f"{n:,} class{'' if n == 1 else 'es'}", "boxes and outlines" if self.with_masks else "boxes"]

    def sections(self, results: Sequence[DetectionResult], look: Look) -> list[Section]:
        """See `Task.sections`."""
        from transnext.tasks.detection.present import sections_of

        return sections_of(results, self.class_names, look)


def preprocessing_for(backbone: Backbone, config: TrainConfig[DetectionConfig]) -> Preprocessing:
    """Inputs of a detector on a backbone, as the options of a run ask for them."""
    side = config.images.image_size or SIDES[config.task.head_size]
    # The longer side of the released configurations: 1333 for a shorter one of 800.
    size = (side, int(side * 1333 / 800 + 0.5)) if config.task.fit == "shortest" else (side, side)
    return Preprocessing.of_model(backbone.net).with_places(config.task.fit, size)


def check_options(
    known: Sequence[str],
    threshold: float | None = None,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    tile: int | None = None,
    overlap: float = OVERLAP,
) -> None:
    """Refuses options of an answer that cannot work; see `asking.answers`.

    Args:
        known: Names of the classes that there are.
        threshold: Least score.
        classes: Names of those that are asked for.
        masks: Outlines are asked for.
        tile: Side of a tile, pixels; 0 for pictures as a whole.
        overlap: Share of it.

    Raises:
        ValueError: One cannot.
    """
    check_number("threshold", 0 if threshold is None else threshold, 0, 1)
    Looking(tile=tile, overlap=overlap)
    if classes is not None:
        require("answers of a detector", "supervision", extra="detect")
        from transnext.tasks.detection.answers import class_places  # imports supervision

        class_places(known, classes)


def _present(annotation: Annotation) -> npt.NDArray[np.int64]:
    """Classes of the objects that are trained on."""
    return annotation.labels[~annotation.crowd]
