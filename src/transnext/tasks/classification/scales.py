"""Accuracy and cost at image sizes other than the trained one, in each way that a model can follow the size."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from torch import nn

from transnext.choices import Mode
from transnext.models import TransNeXt
from transnext.models.transnext import MODES
from transnext.tasks.classification.summary import NOTHING, interval_text

STRIDE = 32
"""That of the last map of most backbones; sizes are multiples of it."""


@dataclass(frozen=True, kw_only=True)
class ScalePoint:
    """One size in one mode.

    Attributes:
        size: Side of the images, pixels.
        mode: How the model follows the size; None for a model that has no modes.
        top1: Accuracy, 0..1.
        top1_interval: 95 % bootstrap interval of it.
        images_per_second: Speed of the model alone.
        macs: Multiply-adds of one image; None if they cannot be counted.
    """

    size: int
    mode: Mode | None
    top1: float
    top1_interval: tuple[float, float]
    images_per_second: float | None
    macs: float | None


@dataclass(frozen=True, kw_only=True)
class ScaleResult:
    """A model at several sizes.

    Attributes:
        split: What it was measured on.
        images: Images of it.
        trained_size: Side of the images that the model was made for, pixels.
        points: By mode, then by size.
        failures: Size and reason where the model could not run.
    """

    split: str
    images: int
    trained_size: int
    points: tuple[ScalePoint, ...]
    failures: tuple[tuple[int, str], ...] = ()


def modes_of(model: nn.Module) -> tuple[Mode | None, ...]:
    """The modes that a model has; None alone for a model of another kind."""
    if not isinstance(model, TransNeXt):
        return (None,)
    return MODES if model.trained_pool_size is not None else ("extrapolate", "interpolate")


@contextmanager
def in_mode(model: nn.Module, mode: Mode | None) -> Iterator[None]:
    """Lets a model follow the image size in some way, and gives back the way it had.

    Args:
        model: The model; with `mode` None it stays as it is.
        mode: As `TransNeXt.mode`.
    """
    if mode is None or not isinstance(model, TransNeXt):
        yield
        return
    bias_mode, pool_size = model.bias_mode, model.fixed_pool_size
    try:
        model.mode = mode
        yield
    finally:
        model.bias_mode, model.fixed_pool_size = bias_mode, pool_size


def stride_of(model: nn.Module) -> int:
    """What the sides of images should be multiples of."""
    return int(model.feature_info[-1]["reduction"]) if isinstance(model, TransNeXt) else STRIDE


def scaled_size(trained: int, scale: float, stride: int = STRIDE) -> int:
    """The multiple of `stride` next to `scale` times the trained size, but at least one; that size itself at 1."""
    return trained if scale == 1 else max(stride, round(scale * trained / stride) * stride)


def scales_table(result: ScaleResult) -> Table:
    """A row for each mode and size."""
    table = Table(title=f"Image sizes on {result.split} ({result.images} images, trained at {result.trained_size})")
    for name in ("mode", "size", "top-1", "95 % interval", "GMACs", "images/s"):
        table.add_column(name, justify="left" if name == "mode" else "right")
    last: object = result.points[0].mode if result.points else None
    for p in result.points:
        if p.mode != last:
            table.add_section()
            last = p.mode
        table.add_row(
            p.mode or NOTHING,
            str(p.size),
            f"{p.top1:.1%}",
            interval_text(p.top1_interval),
            NOTHING if p.macs is None else f"{p.macs / 1e9:.3g}",
            NOTHING if p.images_per_second is None else f"{p.images_per_second:.0f}",
        )
    return table


def scales_as_dict(result: ScaleResult) -> dict[str, Any]:
    """Plain values."""
    return asdict(result)


def scales_from_dict(values: dict[str, Any]) -> ScaleResult:
    """What `scales_as_dict` was given."""
    points = tuple(ScalePoint(**{**p, "top1_interval": tuple(p["top1_interval"])}) for p in values["points"])
    failures = tuple((size, reason) for size, reason in values["failures"])
    return ScaleResult(**{**values, "points": points, "failures": failures})
