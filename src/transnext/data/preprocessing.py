"""What the images of a model must look like."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from transnext.choices import CropMode, PlaceMode
from transnext.data.transforms import Normalise, Transform, eval_transform, min_side_for, train_transform
from transnext.limits import MAX_SIDE, check_number


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the input of a model.

    Attributes:
        input_size: `(channels, H, W)`.
        mean: Of each channel, for values in 0..1.
        std: Of each channel, for values in 0..1.
        interpolation: Of resizing, e.g. "bicubic".
        crop_pct: Share of the resized image's side that is kept, 0..1.
        crop_mode: "center" (resize the shorter side, keep the middle), "squash" or "border"; and for places in pictures
            "fit" (as large as it fits at the top left of `(H, W)`, the rest padded) or "shortest" (`(H, W)` are the
            short and the long side: the short one becomes `H`, unless the long one would exceed `W`).
        numbers: Pictures are numbers of any number of channels (`transnext.data.channels`), not 8-bit RGB.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    numbers: bool = False

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
            numbers=bool(values.get("numbers", False)),
        )

    def resized(self, image_size: int) -> "Preprocessing":
        """The same for squares of this side, pixels; with "shortest" for this short side, the long one in step.

        Raises:
            ValueError: The side is not in 1..`MAX_SIDE`.
        """
        check_number("image_size", image_size, 1, MAX_SIDE)
        channels, height, width = self.input_size
        longer = int(width * image_size / height + 0.5) if self.crop_mode == "shortest" else image_size
        return replace(self, input_size=(channels, image_size, longer))

    def with_places(self, crop_mode: PlaceMode, size: tuple[int, int] | None = None) -> "Preprocessing":
        """The same for answers that have places in the picture, all of which is shown then.

        Args:
            crop_mode: "fit", "squash" or "shortest".
            size: `(H, W)` of the input, with "shortest" its short and long side; as it is by default.

        Raises:
            ValueError: The mode cuts parts off, or a short side is longer than a long one.
        """
        if crop_mode not in get_args(PlaceMode):
            raise ValueError(f"crop_mode must be one of {', '.join(get_args(PlaceMode))}, got {crop_mode!r}")
        height, width = self.input_size[1:] if size is None else size
        if crop_mode == "shortest" and height > width:
            raise ValueError(f"the short side is {height} pixels, the long one {width}: give the short one first")
        input_size = (self.input_size[0], height, width)
        return replace(self, input_size=input_size, interpolation="bilinear", crop_pct=1.0, crop_mode=crop_mode)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        values = asdict(self)
        if not self.numbers:  # as in files that know no other pictures
            del values["numbers"]
        return values

    def transform(self) -> Transform:
        """From an RGB image to a uint8 tensor `[channels, H, W]`, always the same.

        Raises:
            ValueError: It has a frame and no common size, as `transnext.data.joint.place` gives it.
        """
        return eval_transform(
            self.input_size,
            self.mean,
            self.std,
            self.interpolation,
            self.crop_pct,
            self.crop_mode,  # type: ignore[arg-type]
        )

    def training(
        self, *, crop_scale: tuple[float, float], hflip: float, auto_augment: str, color_jitter: float
    ) -> tuple[Transform, int]:
        """The random transform of training images, and the `min_side` that suits it; see `train_transform`."""
        transform = train_transform(
            self.input_size,
            self.mean,
            self.std,
            self.interpolation,
            crop_scale=crop_scale,
            hflip=hflip,
            auto_augment=auto_augment or None,
            color_jitter=color_jitter,
        )
        return transform, min_side_for(self.input_size, math.sqrt(crop_scale[0]))

    def normalise(self, device: torch.device | str = "cpu") -> Normalise:
        """From a batch of bytes to normalised float32."""
        return Normalise(self.mean, self.std, self.numbers).to(device)

    def min_side(self) -> int:
        """The shorter side below which an image must not be shrunk when it is read, pixels."""
        if self.crop_mode in ("fit", "shortest"):  # the shorter side of what they give is at most the shorter of these
            return 2 * min(self.input_size[1:])
        return min_side_for(self.input_size, self.crop_pct)


def picture(image: Tensor) -> Image.Image:
    """What a transform gave, uint8 `[3, H, W]`, as an RGB image again; of numbers `[C, H, W]`, one for eyes."""
    if image.is_floating_point():
        from transnext.data.channels import shown_numbers

        return shown_numbers(image)
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
