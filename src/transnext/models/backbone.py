"""Maps of any timm model at chosen strides, for heads that detect or segment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from transnext.models.checkpoint import load_checkpoint
from transnext.models.official import official_to_ours, ours_to_official
from transnext.models.variants import create, trained_sizes

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """The maps of a timm model, the finest first.

    Levels are chosen by their stride: the first level of a ResNet is that of half resolution, of other models that of a
    quarter.

    Args:
        name: Any model that timm knows and can take apart.
        strides: Of the maps, pixels.
        pretrained: Load the weights that timm or the hub has.
        args: Further arguments of `timm.create_model`, for example `drop_path_rate`, `img_size`, `bias_mode`.

    Attributes:
        channels: Of each map.
        strides: Of each map, pixels.

    Raises:
        ValueError: There is no such model, or it has no map of such a stride.
    """

    def __init__(self, name: str, strides: Sequence[int] = STRIDES, *, pretrained: bool = False, **args: Any) -> None:
        super().__init__()
        probe = create(name, args, features_only=True)
        found = list(probe.feature_info.reduction())
        missing = [stride for stride in strides if stride not in found]
        if missing:
            raise ValueError(f"{name} has maps of strides {found}, none of {missing}: choose another backbone")
        places = tuple(found.index(stride) for stride in strides)
        self.body = create(name, args, features_only=True, out_indices=places, pretrained=pretrained)
        self.name = name
        self.strides = list(strides)
        self.channels: list[int] = list(self.body.feature_info.channels())

    def forward(self, images: Tensor) -> list[Tensor]:
        """`[B, C, H, W]` to maps `[B, channels, ceil(H / stride), ceil(W / stride)]`."""
        maps: list[Tensor] = self.body(images)
        return maps

    @property
    def net(self) -> nn.Module:
        """The model of timm itself."""
        inner = getattr(self.body, "model", self.body)
        assert isinstance(inner, nn.Module)
        return inner

    def sizes(self) -> dict[str, Any]:
        """The sizes that position biases depend on, as arguments; none for models of others."""
        return trained_sizes(self.net)

    def load_weights(self, path: str | Path) -> None:
        """Takes the backbone of a checkpoint: of a classifier, a detector or a segmenter.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: Its weights are not those of such a model.
        """
        load_checkpoint(self.net, path)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of blocks in the backward pass."""
        self.net.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed."""
        inside: set[str] = getattr(self.net, "no_weight_decay", set)()
        prefix = "body.model." if hasattr(self.body, "model") else "body."
        return {prefix + name for name in inside}


def released_key(key: str) -> str:
    """The released name of a parameter of a `Backbone` of ours, both below "backbone."."""
    return "backbone." + ours_to_official(key.removeprefix("backbone.body.model."))


def our_key(key: str) -> str:
    """The name in a `Backbone` of a released parameter, both below "backbone."."""
    return "backbone.body.model." + official_to_ours(key.removeprefix("backbone."))
