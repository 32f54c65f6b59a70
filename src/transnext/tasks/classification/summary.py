"""Results of an evaluation as a table and as JSON."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from transnext.tasks.classification.intervals import wilson_interval
from transnext.tasks.classification.results import SplitResult

NOTHING = "–"
"""Stands for a value that was not measured."""


def results_table(results: Sequence[SplitResult]) -> Table:
    """A row for each split."""
    table = Table(title="Accuracy")
    for name in ("split", "images", "top-1", "95 % interval", "top-5", "loss", "ECE", "images/s"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for r in results:
        table.add_row(
            r.split,
            str(r.num_images),
            f"{r.top1:.1%}",
            interval_text(r.top1_interval),
            f"{r.top5:.1%}",
            f"{r.loss:.3f}",
            f"{r.calibration.expected_error:.1%}",
            NOTHING if r.images_per_second is None else f"{r.images_per_second:.0f}",
        )
    return table


def interval_text(interval: tuple[float, float]) -> str:
    """An interval of a fraction in percent."""
    return f"{100 * interval[0]:.1f}..{100 * interval[1]:.1f}"


def results_as_dict(results: Sequence[SplitResult]) -> dict[str, Any]:
    """Plain values, by split."""
    return {r.split: _as_dict(r) for r in results}


def _as_dict(result: SplitResult) -> dict[str, Any]:
    bins = result.calibration
    return {
        "images": result.num_images,
        "skipped": len(result.skipped),
        "top1": result.top1,
        "top1_interval": list(result.top1_interval),
        "top5": result.top5,
        "loss": result.loss,
        "balanced_accuracy": result.balanced_accuracy,
        "images_per_second": result.images_per_second,
        "calibration": {
            "expected_error": bins.expected_error,
            "maximum_error": bins.maximum_error,
            "counts": bins.counts.tolist(),
            "confidence": _plain(bins.confidence.tolist()),
            "accuracy": _plain(bins.accuracy.tolist()),
        },
        "classes": [
            {
                "images": int(images),
                "top1": int(correct) / int(images) if images else None,
                "top1_interval": list(wilson_interval(int(correct), int(images))) if images else None,
            }
            for correct, images in zip(result.confusion.diagonal(), result.class_images, strict=True)
        ],
        "confusion": result.confusion.tolist(),
    }


def _plain(values: Sequence[float]) -> list[float | None]:
    """With None, which JSON knows, for NaN."""
    return [None if value != value else value for value in values]
