"""What a task is to the engine: how its images are opened, what is minimised, what is measured, and how it is shown.

The engine trains, evaluates and resumes any task that fills this in, and knows of none. Three ideas carry it: the
objective is a module, so that DDP, FSDP and torch.compile wrap it whatever a loss needs; losses are sums with a weight,
divided once by the weight of all processes and passes; results are named numbers with one score.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from transnext.config import TrainConfig, task_config
from transnext.data import Batch, Frame, LabelledImages, Sample, Source, class_targets
from transnext.data.preprocessing import Preprocessing
from transnext.models.checkpoint import load_strictly, read_tensors
from transnext.report.parts import Metric, Result, Section

__all__ = [
    "TASKS",
    "Asked",
    "Loaded",
    "Look",
    "Losses",
    "Meter",
    "Metric",
    "Objective",
    "Result",
    "Section",
    "Task",
    "task_class",
]

Raw = TypeVar("Raw")

# Made once for all images and batches of a model.
_transform = lru_cache(8)(Preprocessing.transform)
_normalise = lru_cache(8)(Preprocessing.normalise)


class Losses(NamedTuple):
    """What an objective gives for a batch.

    Attributes:
        parts: Sums over the batch, 0-d; their sum is minimised.
        weight: Images, boxes or pixels that they are sums over, 0-d float32: gradients are divided by the total of all
            passes and processes.
        seen: More sums to be shown divided by the weight, 0-d, for example how many images were recognised.
    """

    parts: dict[str, Tensor]
    weight: Tensor
    seen: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """What is minimised, as a module: DDP, FSDP and torch.compile wrap it, its `net` is saved.

    Args:
        net: The network.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @abstractmethod
    def forward(self, images: Tensor, sizes: Tensor, targets: Any) -> Losses:
        """Losses of a batch.

        Args:
            images: uint8 `[B, 3, H, W]`, 0..255.
            sizes: int64 `[B, 2]`: rows and columns that are image.
            targets: As the task collates them, on the device of the images.
        """

    @abstractmethod
    def blank(self, device: torch.device) -> tuple[Tensor, Tensor, Any]:
        """A batch to be forgotten, for a process that could read no image while others wait for its gradient.

        Its sizes are 0 where divisors are taken over processes: it must not count in them.
        """


class Meter(ABC, Generic[Raw]):
    """Gathers what a model says about a split."""

    def __init__(self) -> None:
        self.skipped: list[tuple[str, str]] = []

    @abstractmethod
    def add(self, raw: Raw, batch: Batch) -> None:
        """Takes the outputs for a batch; `batch.skipped` is taken already."""

    @abstractmethod
    def state(self) -> Any:
        """What was gathered, picklable."""

    @abstractmethod
    def merge(self, states: Sequence[Any]) -> None:
        """Takes the states of all processes, this one's included, in place of what was gathered."""

    @abstractmethod
    def result(self, split: str, name: Callable[[int], str], images_per_second: float | None = None) -> Result:
        """The numbers of all that was gathered.

        Args:
            split: Name of the split.
            name: From the place of an image to its name.
            images_per_second: Speed of the model, if it was measured.

        Raises:
            ValueError: There is no image.
        """


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a page may be made of beside the results.

    Attributes:
        net: The weights that the results come from.
        splits: The images.
        preprocessing: What the net's images must look like.
    """

    net: nn.Module
    splits: Mapping[str, Source]
    preprocessing: Preprocessing


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A kind of question about images.

    Attributes:
        metadata: What checkpoints keep of it beside its name, for example the names of the classes.
        notes: What a user is to be told before training, a line each: of the data, of the first weights.
    """

    name: ClassVar[str]
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list, compare=False)

    @classmethod
    @abstractmethod
    def open(cls, config: TrainConfig[Any]) -> tuple["Task", dict[str, Source]]:
        """The images of a data set by split, `train` among them, and the task that they pose.

        Raises:
            FileNotFoundError: They are not there.
            ValueError: They are not laid out as they should be.
        """

    @abstractmethod
    def build(self, config: TrainConfig[Any], saved_args: Mapping[str, Any] | None = None) -> nn.Module:
        """The network to train, with its initial weights.

        Args:
            config: What to build.
            saved_args: Arguments of a model whose weights will be loaded later; the initial weights are then random.

        Raises:
            ValueError: There is no such model, or it cannot do what is asked of it.
            FileNotFoundError: A checkpoint is not there.
        """

    @abstractmethod
    def objective(self, net: nn.Module, preprocessing: Preprocessing, config: TrainConfig[Any]) -> Objective:
        """What training minimises."""

    @classmethod
    def heads(cls) -> Any:
        """The `transnext.tasks.starting.Heads` of a task whose networks are a head on a backbone.

        Raises:
            ValueError: They are not.
        """
        raise ValueError(f"models of {cls.name} have no head on a backbone")

    def chosen(self, saved: Mapping[str, Any]) -> "Task":
        """The task with what was chosen in validation, as a model that is opened again has it.

        Args:
            saved: Entries of the checkpoint.
        """
        return self

    @abstractmethod
    def meter(self, source: Source | None = None) -> Meter[Any]:
        """An empty meter.

        Args:
            source: The images that it will hear of, where it matters which classes their data name.
        """

    def model_args(self, net: nn.Module) -> dict[str, Any]:
        """Arguments that build the network again."""
        return {}

    def preprocessing(self, net: nn.Module, config: TrainConfig[Any]) -> Preprocessing:
        """What the network's images must look like."""
        return Preprocessing.of_model(net, config.images.image_size)

    def images(
        self, source: Source, preprocessing: Preprocessing, training: TrainConfig[Any] | None = None
    ) -> LabelledImages:
        """The images of a source as the network wants them.

        Args:
            source: The images.
            preprocessing: What the network's images must look like.
            training: For training the configuration, which may say how images are augmented.
        """
        return LabelledImages(source, preprocessing.transform(), preprocessing.min_side())

    def preview(self, batches: Iterable[Batch], path: Path) -> int:
        """Writes a page of training pictures with their targets drawn into them.

        Args:
            batches: Training batches; as many are taken as the page has room for.
            path: The HTML file.

        Returns:
            How many pictures are on it.

        Raises:
            ValueError: No picture could be read, or the task has no such page.
            OSError: The page cannot be written.
        """
        raise ValueError(f"{self.name} has no page of training pictures")

    def collate(self, targets: Sequence[Any]) -> Any:
        """The targets of a batch together; those of training can be moved by `.to(device)`."""
        return class_targets(targets)

    def sample(
        self,
        picture: Image.Image,
        preprocessing: Preprocessing,
        index: int,
        original: tuple[int, int] | None = None,
    ) -> Sample:
        """A picture to be asked about as the network sees it, without a target.

        Args:
            picture: RGB, upright.
            preprocessing: What the network's images must look like.
            index: Its place in the call.
            original: `(H, W)` of the picture before it was shrunk on reading, where answers have places; its own by
                default.
        """
        return Sample(_transform(preprocessing)(picture), None, index)

    def min_side(self, preprocessing: Preprocessing) -> int | None:
        """The shorter side, pixels, below which a picture to be asked about must not be shrunk when it is read; None to
        read all of it.
        """
        return preprocessing.min_side()

    def reading(self, preprocessing: Preprocessing, **options: Any) -> "Reading":
        """How pictures are read that are asked about with these options and given to `sample` with their size."""
        return Reading(min_side=self.min_side(preprocessing))

    def channels(self, preprocessing: Preprocessing) -> int | None:
        """How many channels pictures to be asked about have that are read as numbers; None for 8-bit RGB."""
        return None

    def judged_at_once(self, preprocessing: Preprocessing) -> int:
        """Images that go through the network at once in an evaluation, unless it is said.

        Maps of all of an image, of several strides, and answers in pixels take much more memory than classes.
        """
        return 8

    def inputs(self, images: Tensor, sizes: Tensor, preprocessing: Preprocessing) -> Tensor:
        """A batch of bytes as the numbers that the network takes.

        Args:
            images: uint8 `[B, 3, H, W]`, on the device of the network.
            sizes: int64 `[B, 2]`: rows and columns that are image.
            preprocessing: What the network's images must look like.

        Returns:
            float32 `[B, 3, H, W]`, or larger where the network wants it.
        """
        return _normalise(preprocessing, images.device)(images)

    def balance(self, source: Source, config: TrainConfig[Any]) -> Callable[[], npt.NDArray[np.int64]] | None:
        """What gives the groups of images that are to be drawn equally often, `[images]`; None to draw all alike."""
        return None

    def draw_weights(self, source: Source, config: TrainConfig[Any]) -> Callable[[], npt.NDArray[np.float64]] | None:
        """What gives how often each image is drawn relative to the others, `[images]`; None to draw all alike."""
        return None

    def raw(self, net: nn.Module, images: Tensor, sizes: Tensor) -> Any:
        """Outputs for a batch of inputs, each image as a whole.

        Args:
            net: In evaluation mode.
            images: float32 `[B, 3, H, W]`, what `inputs` gave.
            sizes: int64 `[B, 2]`: rows and columns that are image.
        """
        return net(images)

    def judged(self, net: nn.Module, batch: Batch, preprocessing: Preprocessing, device: torch.device) -> Any:
        """Outputs for a batch of an evaluation, as a meter takes them.

        Args:
            net: In evaluation mode.
            batch: Of `images` without `training`, not on the device yet.
            preprocessing: What the net's images must look like.
            device: Where the net is.
        """
        inputs = self.inputs(batch.images.to(device), batch.sizes, preprocessing)
        return self.raw(net, inputs, batch.sizes)

    def check(self, loaded: "Loaded", **options: Any) -> None:
        """Refuses a model that cannot be asked, or options of an answer that it cannot give.

        Raises:
            ValueError: It cannot.
        """
        if options:
            raise ValueError(f"answers of {self.name} have no options {', '.join(options)}")

    @abstractmethod
    def answers(self, loaded: "Loaded", asked: "Asked", **options: Any) -> list[Any]:
        """An answer for each image.

        Args:
            loaded: The model, of this task.
            asked: The images.
            options: What the task lets choose.
        """

    @classmethod
    def load(cls, path: Path, *, image_size: int | None = None, device: str | torch.device = "cpu") -> "Loaded":
        """A model that the engine trained, from its checkpoint.

        Args:
            path: The checkpoint.
            image_size: Side of the square that images are brought to, pixels; the trained one by default.
            device: Where to put it.

        Raises:
            ValueError: The weights do not fit.
        """
        tensors, saved = read_tensors(path)
        task = cls(metadata={name: value for name, value in saved.items() if name not in _OF_EVERY_TASK})
        config = TrainConfig(data="", model=saved["architecture"], task=task_config(cls.name)())
        net = task.build(config, saved["model_args"])
        load_strictly(net, tensors, str(path))
        preprocessing = Preprocessing.from_mapping(saved["preprocessing"])
        if image_size is not None:
            preprocessing = preprocessing.resized(image_size)
        return Loaded(model=net.to(device).eval(), task=task, preprocessing=preprocessing, name=str(path))

    def mirrored(self, net: nn.Module) -> nn.Module:
        """A network that averages what `net` says about an image and about its mirror image.

        Raises:
            ValueError: The task has no such thing.
        """
        raise ValueError(f"{self.name} does not average mirror images: leave out --flip")

    @abstractmethod
    def sources(self, data: str, val_fraction: float, seed: int, model: str = "the model") -> dict[str, Source]:
        """The images of a data set by split, with targets as the model of this task has them.

        Args:
            data: Where they are.
            val_fraction: Share held out where the data come without splits; 0 to have all images as one, `WHOLE`.
            seed: Decides what is held out.
            model: What to call the model in a message.

        Raises:
            FileNotFoundError: They are not there.
            ValueError: The model cannot be judged by them.
        """

    def facts(self) -> list[str]:
        """What the headline of a page says of it."""
        return []

    def sections(self, results: Sequence[Any], look: Look) -> list[Section]:
        """What a report shows of results beside the table of their metrics."""
        return []


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A trained model, ready to be asked.

    Attributes:
        model: In evaluation mode.
        task: What it can be asked.
        preprocessing: What its images must look like.
        name: Where it came from, for messages.
    """

    model: nn.Module
    task: Task
    preprocessing: Preprocessing
    name: str

    @property
    def class_names(self) -> list[str]:
        """What its classes are called; empty if it has none."""
        names: list[str] = self.task.metadata.get("class_names", [])
        return names


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How pictures are read to be asked about.

    Attributes:
        min_side: The shorter side, pixels, below which a picture must not be shrunk when it is read; None to read all.
        one_by_one: Only one is in memory at a time, as it is cut in parts that go through the model together.
    """

    min_side: int | None
    one_by_one: bool = False


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Images that a model is asked about at once.

    Attributes:
        names: What to call each.
        pictures: The images themselves, RGB, upright.
        images: uint8 `[B, 3, H, W]`, as the model sees them.
        sizes: int64 `[B, 2]`: rows and columns of them that are image.
        frames: How each relates to its picture, where answers have places.
        inputs: float32 `[B, 3, H, W]`, normalised, on the device of the model.
        batch_size: Images, or parts of one, that go through the model at once; None if it was not said.
    """

    names: list[str]
    pictures: list[Image.Image]
    images: Tensor
    sizes: Tensor
    frames: list[Frame | None]
    inputs: Tensor
    batch_size: int | None = None


DEFAULT_TASK = "classification"
_OF_EVERY_TASK = {"architecture", "model_args", "preprocessing", "epoch", "task"}
WHOLE = "all"
"""The split that has all images of data that come without splits."""
TASKS = {
    "classification": "transnext.tasks.classification.task:Classification",
    "detection": "transnext.tasks.detection.task:Detection",
    "segmentation": "transnext.tasks.segmentation.task:Segmentation",
}
"""The class of each task; imported when it is needed."""


def task_class(name: str) -> type[Task]:
    """The class of a task by name.

    Raises:
        ValueError: There is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"no task is called {name!r}: choose one of {', '.join(TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    found: type[Task] = getattr(import_module(module), attribute)
    return found
