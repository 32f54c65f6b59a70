"""How a segmenter looks at pictures: once as a whole, or in windows, in several sizes, mirrored."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from transnext.data.preprocessing import Preprocessing
from transnext.limits import MAX_SIDE, check_number
from transnext.models.position_bias import BiasMode
from transnext.tasks.segmentation.placing import Rows
from transnext.tasks.segmentation.scales import multi_scale_probabilities, scaled, with_bias_mode
from transnext.tasks.segmentation.sliding import sliding_scores
from transnext.tasks.task import Loaded

_Scores = TypeVar("_Scores", Tensor, Rows)


@dataclass(frozen=True, kw_only=True)
class Looking:
    """A way to look at pictures; by default once, as a whole.

    Attributes:
        window: Side of the windows in which a picture is seen, pixels of the scaled picture; None to see it whole.
        stride: From one window to the next, pixels; two thirds of a window if None.
        scales: Sizes in which it is seen, relative to that of evaluation; each is made of the picture itself.
        flip: The mirror image is seen, too.
        bias_mode: How the position bias follows the size, "interpolate" or "extrapolate"; None as in training.
        bias_size: Image side from which "interpolate" resizes the bias, pixels; that of training if None.

    Raises:
        ValueError: A number is out of range, or does not go with the others.
    """

    window: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    bias_mode: BiasMode | None = None
    bias_size: int | None = None

    def __post_init__(self) -> None:
        check_number("window", 32 if self.window is None else self.window, 32, MAX_SIDE)
        check_number("bias_size", 32 if self.bias_size is None else self.bias_size, 32, MAX_SIDE)
        if self.stride is not None and self.window is None:
            raise ValueError(f"window_stride is {self.stride}: it goes with a window")
        if self.stride is not None and self.window is not None and not 1 <= self.stride <= self.window:
            raise ValueError(
                f"window_stride is {self.stride}: expected 1 to the side of the window, which is {self.window}"
            )
        if not self.scales:
            raise ValueError("scales are missing: 1 is the size in evaluation")
        for scale in self.scales:
            check_number("scales", scale, 0, 16, above=True)
        if self.bias_size is not None and self.bias_mode != "interpolate":
            raise ValueError(f"bias_size is {self.bias_size}: it goes with bias_mode interpolate")

    @property
    def once(self) -> bool:
        """Pictures are seen once, as a whole."""
        return replace(self, bias_mode=None, bias_size=None) == Looking()

    @classmethod
    def trained(cls, metadata: Mapping[str, Any]) -> "Looking":
        """That of a model, as its checkpoint says."""
        return cls(window=metadata.get("window"), stride=metadata.get("window_stride"))

    @property
    def several(self) -> bool:
        """Pictures are seen in several sizes, or another than that of evaluation, or mirrored, too."""
        return self.scales != (1.0,) or self.flip

    def scores(
        self, net: nn.Module, images: Tensor, sizes: Tensor, preprocessing: Preprocessing | None = None
    ) -> Iterable[Tensor | Rows]:
        """Scores of each picture; see `SegmentationNet.scores`.

        Those of windows are an iterator, which computes each when it is taken, under the autocast of now, and so are
        those of several looks: rows of the pictures, and for them the logarithms of mean probabilities, of sums of
        masks the mean.

        Args:
            net: The network, in evaluation mode.
            images: See `SegmentationNet.scores`; where there are `several` looks the pictures themselves, uint8 or
                float32 numbers `[B, C, H, W]`, not normalised.
            sizes: int64 `[B, 2]`: rows and columns that are image.
            preprocessing: What scale 1 stands for; for several looks.
        """
        ask: Any = net
        if self.window is not None:
            stride = -(-self.window * 2 // 3) if self.stride is None else self.stride
            ask = partial(sliding_scores, net, window=self.window, stride=stride)
        if not self.several:
            found: Iterable[Tensor] = ask(images, sizes)
            return found if isinstance(found, Tensor) else _as_now(iter(found), images.device.type)
        assert preprocessing is not None
        sums = getattr(net, "segmenter", None) == "mask2former"
        return _as_now(self._means(ask, images, sizes, preprocessing, sums), images.device.type)

    def _means(
        self, ask: Any, images: Tensor, sizes: Tensor, preprocessing: Preprocessing, sums: bool
    ) -> Iterator[Rows]:
        for image, (rows, columns) in zip(images, sizes.tolist(), strict=True):
            means = multi_scale_probabilities(
                ask,
                image[:, :rows, :columns],
                preprocessing,
                ratios=self.scales,
                flip=self.flip,
                sums=sums,
                device=image.device,
            )
            yield means if sums else ((part, mean.clamp(min=1e-30).log()) for part, mean in means)


def _as_now(scores: Iterator[_Scores], device: str) -> Iterator[_Scores]:
    """An iterator whose steps run under the autocast that is on when it is made, wherever they are taken."""
    now = (torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
    return _under(scores, device, *now)


def _under(scores: Iterator[_Scores], device: str, dtype: torch.dtype, enabled: bool) -> Iterator[_Scores]:
    while True:
        with torch.autocast(device, dtype, enabled=enabled):
            one = next(scores, None)
        if one is None:
            return
        yield one


def looking_at(loaded: Loaded, *, window: int | None = None, **others: Any) -> Loaded:
    """A segmenter that looks at pictures in another way; it shares the weights.

    Args:
        loaded: The segmenter, as it was trained to look.
        window: See `Looking`; 0 to see pictures whole, None as in training.
        others: Further fields of `Looking`, as in training if they are left out.

    Raises:
        ValueError: The network has no position bias that could follow another mode, is a file for one size that would
            be asked in windows, or a number is out of range.
    """
    looking = Looking.trained(loaded.task.metadata)
    if window is not None:
        looking = Looking() if window == 0 else Looking(window=window, stride=others.pop("stride", None))
    looking = replace(looking, **others)
    net = loaded.model
    only: tuple[int, int] | None = getattr(net, "only_size", None)
    if only is not None and looking.window is not None:
        raise ValueError(
            f"{loaded.name} takes images of {only[0]}x{only[1]} alone, and windows are cut to the picture: give window "
            "0, or export it for any size"
        )
    if looking.bias_mode is not None:
        net = with_bias_mode(net, looking.bias_mode, looking.bias_size)
    for scale in looking.scales:
        scaled(loaded.preprocessing, scale)
    task: Any = loaded.task
    return replace(loaded, model=net, task=replace(task, looking=looking, scale_one=loaded.preprocessing))
