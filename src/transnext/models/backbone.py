"""Maps of any timm model at chosen strides, for heads that detect or segment."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from transnext.models.checkpoint import load_checkpoint, read_tensors
from transnext.models.checkpoint.fitting import fit
from transnext.models.official import official_to_ours, ours_to_official
from transnext.models.transnext import TransNeXt, size_pair
from transnext.models.variants import create, fixed_size, trained_sizes

STRIDES = (4, 8, 16, 32)
INSIDE = "body.model."
"""What stands before the names of the parameters of timm's model in a `Backbone`."""
_ANCHOR = re.compile(r"(?<![\[\\])\^")  # but for [^...], where the sign means something else


class Backbone(nn.Module):
    """The maps of a timm model, the finest first.

    Levels are chosen by their stride: the first level of a ResNet is that of half resolution, of other models that of a
    quarter. Of several levels of one stride the deepest counts, and what comes after the last one is left out.

    Images may have any size, with Swin's models too. Those of a few families with position biases of a fixed size
    (MaxViT, CoAtNet, Hiera, GCViT, EfficientFormerV2) take that of `img_size` alone.

    Args:
        name: Any model that timm knows and can take apart.
        strides: Of the maps, pixels, ascending.
        pretrained: Load the weights that timm or the hub has.
        args: Further arguments of `timm.create_model`, for example `drop_path_rate`, `img_size`, `bias_mode`.

    Attributes:
        channels: Of each map.
        strides: Of each map, pixels.

    Raises:
        ValueError: There is no such model, or it has no maps of such strides.
    """

    def __init__(self, name: str, strides: Sequence[int] = STRIDES, *, pretrained: bool = False, **args: Any) -> None:
        super().__init__()
        if not strides or list(strides) != sorted(set(strides)):
            raise ValueError(f"strides of maps are {list(strides)}: name at least one, the finest first")
        whole, only_size = _with_all_maps(name, args, pretrained)
        if not hasattr(whole.model, "forward_intermediates"):
            raise ValueError(f"{name} cannot be taken apart by this version of timm: choose another backbone")
        found: list[int] = list(whole.feature_info.reduction())
        missing = [stride for stride in strides if stride not in found]
        if missing:
            raise ValueError(f"{name} has maps of strides {found}, none of {missing}: choose another backbone")
        places = tuple(len(found) - 1 - found[::-1].index(stride) for stride in strides)
        self.body: Any = FeatureGetterNet(whole.model, tuple(whole.out_indices[place] for place in places))
        self.name = name
        self.strides = list(strides)
        self.channels: list[int] = list(self.body.feature_info.channels())
        self._args = args
        self._only_size = only_size

    def forward(self, images: Tensor) -> list[Tensor]:
        """`[B, C, H, W]` to maps `[B, channels, ceil(H / stride), ceil(W / stride)]`.

        Raises:
            ValueError: The model takes images of one size alone, and these have another.
        """
        size = tuple(images.shape[-2:])
        if self._only_size is None or self._only_size == size:
            maps: list[Tensor] = self.body(images)
            return maps
        try:
            maps = self.body(images)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            only, these = (f"{height} x {width}" for height, width in (self._only_size, size))
            raise ValueError(
                f"{self.name} takes images of {only} pixels alone, and these have {these}: build it with another "
                "img_size, or choose another backbone"
            ) from error
        return maps

    @property
    def net(self) -> Any:
        """The model of timm itself."""
        return self.body.model

    def sizes(self) -> dict[str, Any]:
        """The sizes that position biases depend on, as arguments; none for models of others."""
        return trained_sizes(self.net)

    def args(self) -> dict[str, Any]:
        """Arguments that, with the name, build the backbone again, plain values."""
        return {"strides": self.strides, **self._args, **self.sizes()}

    def load_weights(self, path: str | Path) -> None:
        """Takes the backbone of a checkpoint: of a classifier, a detector or a segmenter.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: Its weights are not those of such a model, or their position bias has another unit.
        """
        if isinstance(self.net, TransNeXt):
            checkpoint = load_checkpoint(self.net, path)
            theirs = _pretrain_size(checkpoint.metadata)
            if theirs not in (None, self.net.pretrain_size):
                raise ValueError(
                    f"the weights of {path} measure positions at {theirs} pixels, this backbone at "
                    f"{self.net.pretrain_size}: build it with pretrain_size={theirs}"
                )
            return
        weights = _below_backbone(read_tensors(path)[0])
        own = self.net.state_dict().keys()
        if weights.keys() - own:
            # What the whole classifier has beside the maps may be in the file; anything else is of another model.
            beside = create(self.name, self._args).state_dict().keys() - own
            classifier = _classifiers(self.net)
            weights = {k: v for k, v in weights.items() if k not in beside and not k.startswith(classifier)}
        self.net.load_state_dict(fit(weights, self.net, source=str(path)))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of blocks in the backward pass.

        Raises:
            ValueError: The model cannot.
        """
        try:
            self.net.set_grad_checkpointing(enable)
        except (AttributeError, AssertionError):
            if enable:
                raise ValueError(f"{self.name} cannot recompute its activations: leave checkpointing off") from None

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed."""
        inside: set[str] = getattr(self.net, "no_weight_decay", set)()
        return {INSIDE + name for name in inside}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that give each parameter its layer, in timm's notation.

        Args:
            coarse: One group for each stage instead of each block.

        Raises:
            ValueError: The model does not say what its layers are.
        """
        matcher = getattr(self.net, "group_matcher", None)
        patterns = matcher(coarse=coarse) if matcher is not None else None
        if not isinstance(patterns, dict):
            raise ValueError(
                f"{self.name} does not say what its layers are: leave freeze_stages at 0 and layer_decay at 1"
            )
        return below(INSIDE, patterns)


def below(prefix: str, patterns: Mapping[str, Any]) -> dict[str, Any]:
    """Patterns of timm's `group_matcher` for parameters whose names have a prefix.

    Args:
        prefix: What stands before the names.
        patterns: Regular expressions that match at the beginning of a name, or lists of them with a suffix each.
    """

    def one(pattern: str) -> str:
        return f"^{re.escape(prefix)}(?:{_ANCHOR.sub('', pattern)})"

    def all_of(specs: Any) -> Any:
        if isinstance(specs, list | tuple):
            return [(one(pattern), suffix) for pattern, suffix in specs]
        return None if specs is None else one(specs)

    return {group: all_of(specs) for group, specs in patterns.items()}


def _with_all_maps(name: str, args: Mapping[str, Any], pretrained: bool) -> tuple[Any, tuple[int, int] | None]:
    """A model with all of its maps, and the size of images that it is bound to; None if it may take others."""
    wanted: dict[str, Any] = {"features_only": True, "feature_cls": "getter", "pretrained": pretrained}
    if fixed_size(name) is None:
        return create(name, args, **wanted), None
    try:
        return create(name, {"strict_img_size": False, **args}, **wanted), None
    except TypeError:  # it has no such argument, as its family has no way to take another size
        model: Any = create(name, args, **wanted)
        return model, size_pair(args.get("img_size", model.model.pretrained_cfg["input_size"][-2:]), "img_size")


def _pretrain_size(metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    """The unit of the position bias that a checkpoint of ours says it has; None if it says nothing."""
    args = metadata.get("model_args") or {}
    for part in (args, *(value for value in args.values() if isinstance(value, dict))):
        if part.get("pretrain_size"):
            return size_pair(part["pretrain_size"], "pretrain_size")
    return None


def _below_backbone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a backbone under timm's names; of a file without one all of them."""
    for prefix in (f"backbone.{INSIDE}", INSIDE, "backbone."):
        if any(key.startswith(prefix) for key in tensors):
            return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    return {key.removeprefix("module."): tensor for key, tensor in tensors.items()}


def _classifiers(net: Any) -> tuple[str, ...]:
    """Beginnings of the names of a classifier's parameters."""
    names = net.pretrained_cfg.get("classifier") or "head.fc"
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def released_key(key: str) -> str:
    """The released name of a parameter of a `Backbone` of ours, both below "backbone."."""
    return "backbone." + ours_to_official(key.removeprefix(f"backbone.{INSIDE}"))


def our_key(key: str) -> str:
    """The name in a `Backbone` of a released parameter, both below "backbone."."""
    return f"backbone.{INSIDE}" + official_to_ours(key.removeprefix("backbone."))
