"""Networks of a head on a backbone from what is known of them: arguments, checkpoints, other networks.

What a task has of its own is told by a `Heads`; detection and segmentation share the rest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from timm.models import adapt_input_conv
from torch import Tensor

from transnext.config import TrainConfig
from transnext.data.preprocessing import Preprocessing
from transnext.models.backbone import Backbone
from transnext.models.checkpoint import architecture_of, load_strictly, read_tensors
from transnext.models.checkpoint.loading import SOURCE_ARGS
from transnext.models.variants import pretrain_size
from transnext.tasks.headed import HeadedNet
from transnext.tasks.released import PRETRAINED_SIDE, fetched, is_released_name, kind_of_released, task_of_file

Net = TypeVar("Net", bound=HeadedNet)


@dataclass(frozen=True, kw_only=True)
class Heads(Generic[Net]):
    """What the networks of a task have of their own.

    Attributes:
        task: Name of the task.
        kind: What its heads are called: the option that chooses one, and the attribute of a network that names it.
        said: Entries that a checkpoint must have.
        build: From the name of a head, a backbone and arguments of the head to a network.
        strides: From the name of a head and its arguments to the strides of the maps that it takes, pixels.
        replace_classes: Gives a network other classes, in place, and tells which of them it knew.
        official: The module with the released names of a head's parameters.
        trained_side: Image side from which the released ones resize the position bias, pixels.
        resized: Shorter side of their images, and the most of the longer one, pixels.
        metadata: What a checkpoint of ours would say of a released one, beside what all say.
        changeable: Attributes of a network that are plain values and may be changed after it is built.
    """

    task: str
    kind: str
    said: tuple[str, ...]
    build: Callable[..., Net]
    strides: Callable[[str, Mapping[str, Any]], Sequence[int]]
    replace_classes: Callable[[Net, Sequence[str], Sequence[str]], list[str]]
    official: Callable[[str], Any]
    trained_side: int
    resized: tuple[int, int]
    metadata: Callable[[Net], dict[str, Any]]
    changeable: tuple[str, ...] = ()

    def name_of(self, net: Net) -> str:
        """Name of the head of a network."""
        name: str = getattr(net, self.kind)
        return name

    def model_args(self, net: Net) -> dict[str, Any]:
        """Arguments that, with the name of the backbone, build a network again: plain values, for checkpoints."""
        changed = {name: getattr(net, name) for name in self.changeable}
        return {self.kind: self.name_of(net), "backbone": net.backbone.args(), "head": net.args(), **changed}

    def rebuilt(self, name: str, saved: Mapping[str, Any]) -> Net:
        """The network that `model_args` describe, with random weights.

        Args:
            name: Name of the backbone.
            saved: What `model_args` gave.

        Raises:
            ValueError: There is no such model, or the arguments are not those of such a network.
        """
        try:
            args = {key: _tuple(value) for key, value in saved["backbone"].items()}
            if unfit := SOURCE_ARGS & args.keys():
                raise ValueError(f"arguments of a backbone cannot be {', '.join(sorted(unfit))}")
            net = self.build(saved[self.kind], Backbone(name, **args), **saved["head"])
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no {self.kind} on {name} can be built from {saved!r:.200} ({error})") from None
        for changed in self.changeable:
            setattr(net, changed, saved.get(changed, getattr(net, changed)))
        return net

    def load(self, path: str | Path) -> tuple[Net, dict[str, Any]]:
        """A network from a checkpoint of ours or of the released code, with its weights, and what that says of it.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is no such network, or its weights do not fit.
        """
        tensors, metadata = read_tensors(path)
        if metadata.get("task") != self.task:
            return self.released(tensors, str(path))
        if missing := [name for name in self.said if name not in metadata]:
            raise ValueError(f"{path} does not say {', '.join(missing)} of the {self.kind} in it")
        net = self.rebuilt(metadata["architecture"], metadata["model_args"])
        if kind_of_released(tensors) is not None:
            tensors = self.official(self.name_of(net)).from_released(tensors)
        load_strictly(net, tensors, str(path))
        return net, metadata

    def released(self, state_dict: Mapping[str, Tensor], source: str) -> tuple[Net, dict[str, Any]]:
        """A released network, and what a checkpoint of ours would say of it.

        Args:
            state_dict: Released names.
            source: What to call the file in errors.

        Raises:
            ValueError: It is none of this task, or another one than the released ones.
        """
        kind = kind_of_released(state_dict)
        if kind is None:
            raise ValueError(f"{source} is no {self.kind}")
        official = self.official(kind)
        head: dict[str, Any] = official.args_of_released(state_dict)
        architecture = architecture_of(state_dict)
        if architecture is None:
            raise ValueError(f"{source} has a backbone that is none of the variants: build the {self.kind} yourself")
        backbone = Backbone(
            architecture,
            self.strides(kind, head),
            img_size=self.trained_side,
            pretrain_size=PRETRAINED_SIDE,
            bias_mode="interpolate",
        )
        net = self.build(kind, backbone, **head)
        load_strictly(net, official.from_released(state_dict), source)
        preprocessing = Preprocessing.of_model(backbone.net).with_places("shortest", self.resized)
        return net, {
            "task": self.task,
            "architecture": architecture,
            "preprocessing": preprocessing.to_dict(),
            **self.metadata(net),
        }

    def starts_from(self, checkpoint: str | None) -> bool:
        """Tells if a run starts from a whole network of this task, by name or file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read.
        """
        if checkpoint is None:
            return False
        return is_released_name(checkpoint, self.task) or task_of_file(checkpoint) == self.task

    def opened(self, checkpoint: str, config: TrainConfig[Any]) -> tuple[Net, list[str]]:
        """The network that a run starts from, and the names of its classes.

        Args:
            checkpoint: The name of a released one, or a file.
            config: Of the run, whose model and head must be the same.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It cannot be had, or has another model or head.
        """
        path = fetched(checkpoint) if is_released_name(checkpoint) else Path(checkpoint)
        net, metadata = self.load(path)
        check_same(checkpoint, self.kind, getattr(config.task, self.kind), self.name_of(net))
        check_same(checkpoint, "model", config.model.split(".")[0], net.backbone.name.split(".")[0])
        return net, list(metadata["class_names"])

    def as_trained(self, net: Net, drop_path: float, **head: Any) -> Net:
        """The same network with other stochastic depth, and perhaps without parts of its head.

        Args:
            net: The network.
            drop_path: Of its backbone.
            head: Arguments of the head that are to be others.
        """
        args = self.model_args(net)
        args["backbone"]["drop_path_rate"] = drop_path
        args["head"] |= head
        weights = net.state_dict()
        again = self.rebuilt(net.backbone.name, args)
        again.load_state_dict({name: weights[name] for name in again.state_dict()})
        return again

    def with_classes(self, net: Net, before: Sequence[str], classes: Sequence[str], checkpoint: str) -> str:
        """Gives a network other classes, in place, and tells what became of those that it had.

        Args:
            net: The network.
            before: Its classes.
            classes: Those that it is to have.
            checkpoint: Where it comes from.
        """
        if list(before) == list(classes):
            return f"All weights are those of {checkpoint}."
        kept = self.replace_classes(net, before, classes)
        new = [name for name in classes if name not in kept]
        said = f"Weights are those of {checkpoint}; "
        said += f"its classes {', '.join(kept)} are kept" if kept else "none of its classes is kept"
        return f"{said}{', ' + ', '.join(new) + ' are new' if new else ''}."


def new_backbone(
    config: TrainConfig[Any], strides: Sequence[int], trained_side: int, in_chans: int = 3
) -> tuple[Backbone, list[str]]:
    """The backbone of a run that starts from no whole network, and what is to be said of its weights.

    Args:
        config: Of the run.
        strides: Of the maps that its head takes, pixels.
        trained_side: See `Heads`.
        in_chans: Channels of the pictures; weights of a first convolution for RGB are repeated over them, and scaled.

    Raises:
        FileNotFoundError: Its checkpoint is not there.
        ValueError: There is no such model, or the checkpoint does not fit it.
    """
    start = config.start
    args: dict[str, Any] = {"drop_path_rate": start.drop_path}
    if config.model.startswith("transnext_"):
        if start.checkpoint is not None:
            args["pretrain_size"] = pretrain_size(config.model, start.checkpoint)
        if config.task.head_size == "released":
            args |= {"img_size": trained_side, "bias_mode": "interpolate"}
        elif config.images.image_size is not None:
            args["img_size"] = config.images.image_size
    own = args if in_chans == 3 else {**args, "in_chans": in_chans}
    backbone = Backbone(config.model, strides, pretrained=start.pretrained, **own)
    if start.checkpoint is not None:
        rgb = backbone if in_chans == 3 else Backbone(config.model, strides, **args)
        rgb.load_weights(start.checkpoint)
        if rgb is not backbone:
            shapes = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
            weights = {
                name: tensor if tensor.shape == shapes[name] else adapt_input_conv(in_chans, tensor)
                for name, tensor in rgb.state_dict().items()
            }
            backbone.load_state_dict(weights)
    first = "pretrained weights" if start.pretrained else start.checkpoint
    return backbone, [] if first is None else [f"The backbone begins with {first}, the rest with random weights."]


def check_same(checkpoint: str, option: str, ours: Any, theirs: Any) -> None:
    """Refuses an option that is not as the network has it that a run starts from.

    Raises:
        ValueError: They differ.
    """
    if ours != theirs:
        name = option.replace("_", "-")
        raise ValueError(f"{checkpoint} has {option} {theirs}, and {option} is {ours}: give --{name} {theirs}")


def head_size(net: HeadedNet, sizes: Iterable[str], build: Callable[[str], HeadedNet]) -> str | None:
    """Name of the size that the parameters of a network have; None if they have those of none.

    Args:
        net: The network.
        sizes: Names.
        build: The like network of a size, on the same backbone; raises `ValueError` if there is none.
    """
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    for size in sizes:
        try:
            with torch.device("meta"):
                other = build(size)
        except ValueError:
            continue
        if {name: tensor.shape for name, tensor in other.state_dict().items()} == shapes:
            return size
    return None


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
