"""Accuracy and cost at image sizes other than the trained one: measure, result, table, JSON, section of a page."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from torch import nn

from transnext.choices import Mode
from transnext.data import Source
from transnext.data.preprocessing import Preprocessing
from transnext.engine.evaluation import Evaluator
from transnext.errors import one_line
from transnext.models import TransNeXt
from transnext.models.macs import count_macs
from transnext.models.transnext import MODES
from transnext.report.charts import LINE_STYLES, Series, Show, line_chart
from transnext.report.tables import folded, number_table
from transnext.report.text import NOTHING, count, escape, number, percent, percent_of
from transnext.tasks.table import interval_text

DEFAULT_SCALES = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Of the trained size."""


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
    """Pixels of which sides of images should be multiples."""
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
    """Inverse of `scales_as_dict`."""
    points = tuple(ScalePoint(**{**p, "top1_interval": tuple(p["top1_interval"])}) for p in values["points"])
    failures = tuple((size, reason) for size, reason in values["failures"])
    return ScaleResult(**{**values, "points": points, "failures": failures})


def measure_scales(
    evaluator: Evaluator,
    source: Source,
    *,
    split: str = "val",
    scales: Sequence[float] = DEFAULT_SCALES,
) -> ScaleResult:
    """Measures accuracy and cost at several image sizes, in every mode that the model has.

    Batches shrink as images grow, so that they need about the same memory.

    Args:
        evaluator: The classifier and how to run it; its image size is the trained one, at scale 1.
        source: Images of the split.
        split: Its name.
        scales: Sizes as multiples of the trained one, rounded to multiples of 32 pixels.

    Raises:
        ValueError: A scale is not positive, the model takes none of the sizes, or no image could be read.
    """
    for scale in scales:
        if not 0 < scale <= 32:
            raise ValueError(f"scale is {scale:g}: expected more than 0 and at most 32")
    preprocessing = evaluator.loaded.preprocessing
    trained = max(preprocessing.input_size[1:])
    stride = stride_of(evaluator.loaded.model)
    sizes = sorted({scaled_size(trained, scale, stride) for scale in scales})
    points: list[ScalePoint] = []
    failures: dict[int, str] = {}
    images = 0
    for mode in modes_of(evaluator.loaded.model):
        for size in sizes:
            sized = dataclasses.replace(preprocessing, input_size=(preprocessing.input_size[0], size, size))
            try:
                point, images = _point(evaluator, source, split, mode, sized, trained)
            except (AssertionError, RuntimeError) as error:  # as models of a fixed size say that they have one
                failures[size] = one_line(error)[:120]
                continue
            points.append(point)
    if not points:
        size, reason = next(iter(failures.items()))
        raise ValueError(f"{evaluator.loaded.name} takes none of the sizes; at {size}: {reason}")
    return ScaleResult(
        split=split, images=images, trained_size=trained, points=tuple(points), failures=tuple(failures.items())
    )


def _point(
    evaluator: Evaluator,
    source: Source,
    split: str,
    mode: Mode | None,
    preprocessing: Preprocessing,
    trained: int,
) -> tuple[ScalePoint, int]:
    size = preprocessing.input_size[1]
    model = evaluator.loaded.model
    with in_mode(model, mode):
        result = evaluator.run(
            evaluator.images(source, preprocessing),
            split,
            title=f"{size} pixels{'' if mode is None else f', {mode}'}",
            batch_size=max(1, int(evaluator.batch_size * min(1, (trained / size) ** 2))),
        )
        macs = count_macs(model, preprocessing.input_size)
    point = ScalePoint(
        size=size,
        mode=mode,
        top1=result.top1,
        top1_interval=result.top1_interval,
        images_per_second=result.images_per_second,
        macs=macs,
    )
    return point, result.num_images


def scales_section(result: ScaleResult | None) -> str:
    """Accuracy, speed and cost by image size, a line for each mode; empty without a result."""
    if result is None:
        return ""
    sizes = sorted({float(p.size) for p in result.points})
    values: dict[str, tuple[Callable[[ScalePoint], float | None], Show]] = {
        "Accuracy": (lambda p: p.top1, percent_of),
        "Milliseconds per image": (lambda p: 1000 / p.images_per_second if p.images_per_second else None, number),
        "GMACs per image": (lambda p: None if p.macs is None else p.macs / 1e9, number),
    }
    charts = [
        line_chart(title, _by_mode(result, value), show, x_name="image size, pixels", x_ticks=sizes, covers=(0.0,))
        for title, (value, show) in values.items()
    ]
    failed = "".join(f'<p class="note warn">At {size} pixels: {escape(reason)}</p>' for size, reason in result.failures)
    return (
        f"<p>Trained at {result.trained_size} pixels; {escape(result.split)}, {count(result.images, 'image')}.</p>"
        f'<div class="charts">{"".join(charts)}</div>{failed}{_scales_table(result)}'
    )


def _by_mode(result: ScaleResult, value: Callable[[ScalePoint], float | None]) -> list[Series]:
    modes = list(dict.fromkeys(p.mode for p in result.points))
    return [
        Series(
            label=mode or "model",
            points=[(float(p.size), v) for p in result.points if p.mode == mode and (v := value(p)) is not None],
            style=style,
        )
        for mode, style in zip(modes, LINE_STYLES, strict=False)
    ]


def _scales_table(result: ScaleResult) -> str:
    rows = (
        (
            f"{p.mode or ''} {p.size}",
            percent(p.top1),
            f"{100 * p.top1_interval[0]:.1f} to {100 * p.top1_interval[1]:.1f}\u202f%",
            NOTHING if p.macs is None else number(p.macs / 1e9),
            number(p.images_per_second),
        )
        for p in result.points
    )
    head = ("Size", "Accuracy", "Interval", "GMACs", "Images/s")
    return folded("All numbers", number_table("Accuracy and cost by image size", head, rows))
