"""A classifier for given classes, and what its images must look like."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import timm
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from transnext.choices import CropMode
from transnext.config import ImageConfig
from transnext.data import eval_transform, min_side_for
from transnext.data.transforms import Transform
from transnext.limits import MAX_SIDE, check_number
from transnext.models import TransNeXt


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the input of a model.

    Attributes:
        input_size: `(channels, H, W)`.
        mean: Of each channel, for values in 0..1.
        std: Of each channel, for values in 0..1.
        interpolation: Of resizing, e.g. "bicubic".
        crop_pct: Share of the resized image's side that is kept, 0..1.
        crop_mode: "center" (resize the shorter side, keep the middle), "squash" or "border".
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str

    @classmethod
    def of_model(
        cls,
        model: nn.Module,
        image_size: int | None = None,
        crop_pct: float | None = None,
        crop_mode: CropMode | None = None,
    ) -> "Preprocessing":
        """What timm's configuration of the model says, except for what is given."""
        config = timm.data.resolve_model_data_config(model)
        if image_size is not None:
            config["input_size"] = (config["input_size"][0], image_size, image_size)
        if crop_pct is not None:
            config["crop_pct"] = crop_pct
        if crop_mode is not None:
            config["crop_mode"] = crop_mode
        return cls.from_mapping(config)

    @classmethod
    def of_images(cls, model: nn.Module, images: ImageConfig) -> "Preprocessing":
        """What timm's configuration of the model says, except for what the options of a training run say."""
        return cls.of_model(model, images.image_size, images.crop_pct, images.crop_mode)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """From a mapping with these entries, lists for tuples allowed."""
        channels, height, width = values["input_size"]
        return cls(
            input_size=(channels, height, width),
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            interpolation=values["interpolation"],
            crop_pct=values["crop_pct"],
            crop_mode=values["crop_mode"],
        )

    def resized(self, image_size: int) -> "Preprocessing":
        """The same for squares of this side, pixels.

        Raises:
            ValueError: The side is not in 1..`MAX_SIDE`.
        """
        check_number("image_size", image_size, 1, MAX_SIDE)
        return replace(self, input_size=(self.input_size[0], image_size, image_size))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)

    def transform(self) -> Transform:
        """From an RGB image to a normalised float32 tensor `[channels, H, W]`."""
        return eval_transform(
            self.input_size,
            self.mean,
            self.std,
            self.interpolation,
            self.crop_pct,
            self.crop_mode,  # type: ignore[arg-type]
        )

    def picture(self, x: Tensor) -> Image.Image:
        """What `transform` gives, `[channels, H, W]`, as an RGB image again: as the model sees it."""
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        pixels = ((x * std + mean).clamp(0, 1) * 255).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())

    def min_side(self) -> int:
        """The shorter side below which an image must not be shrunk when it is read, pixels."""
        return min_side_for(self.input_size, self.crop_pct)


def trained_sizes(model: nn.Module) -> dict[str, Any]:
    """The sizes that a model's position bias depends on, as arguments of `timm.create_model`, for its checkpoints."""
    if not isinstance(model, TransNeXt):
        return {}
    return {"img_size": model.img_size, "pretrain_size": model.pretrain_size}


def create(name: str, args: Mapping[str, Any], **kwargs: Any) -> nn.Module:
    """`timm.create_model` with an unknown name reported in one line.

    Raises:
        ValueError: timm knows no such model.
    """
    if not timm.is_model(name.split(".")[0]):
        ours: Sequence[str] = timm.list_models("transnext_*")
        raise ValueError(f"no model is called {name!r}: choose one of {', '.join(ours)}, or another model of timm")
    try:
        model: nn.Module = timm.create_model(name, **args, **kwargs)
    except RuntimeError as error:
        if "tag" not in str(error):
            raise
        raise ValueError(f"{error} `transnext models` lists the weights that there are") from None
    return model
